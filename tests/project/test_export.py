"""docs/export.md: its code runs, and what it says about each detector is so."""

from __future__ import annotations

import re
from inspect import signature
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('efficientnet_lite_pytorch', reason='the backbone of the small configs: bucketed-losses[demo]')

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/export.md').read_text(), re.DOTALL)
DENSE = ['retinanet', 'atss', 'paa', 'fcos', 'gfl', 'rtmdet']
pytestmark = [pytest.mark.medium, pytest.mark.filterwarnings('ignore')]  # tracing warns of every Python number


def detector(name: str) -> nn.Module:
    """The CPU-sized detector with BRS Loss, with drawn weights and statistics that keep its outputs moderate."""
    (file,) = ROOT.glob(f'configs/bccd/{name}_*brs_*_bccd.py')
    cfg = Config.fromfile(file)
    cfg.model.backbone.pretrained = False
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.eval()


class Network(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images):
        logits, boxes, *_ = self.model(images, mode='tensor')
        return (*logits, *boxes)


class Prediction(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images):
        shape = tuple(int(size) for size in images.shape[-2:])
        meta = dict(img_shape=shape, ori_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0))
        found = self.model.predict(images, [DetDataSample(metainfo=meta)], rescale=False)[0].pred_instances
        return found.bboxes, found.scores, found.labels


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Runs blocks of the page, one after the other, in a folder of their own."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    names: dict = {}

    def run(*numbers):
        for number in numbers:
            exec(compile(BLOCKS[number], f'docs/export.md, block {number}', 'exec'), names)
        return names

    return run


def decoded(model, images):
    with torch.no_grad():
        return Prediction(model)(images)


def test_torchscript_of_the_page_gives_the_detections_of_the_detector(page):
    assert len(BLOCKS) == 4
    names = page(0, 1)
    boxes, scores, labels = decoded(names['model'], names['images'])
    assert len(boxes) > 10
    torch.testing.assert_close(names['boxes'], boxes)
    torch.testing.assert_close(names['scores'], scores)
    assert torch.equal(names['labels'], labels)


def test_onnx_of_the_page_gives_the_outputs_of_the_network(page):
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    names = page(0, 2, 3)
    with torch.no_grad():
        expected = names['Network'](names['model'])(names['images'])
    for output, reference in zip(names['outputs'], expected, strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('name', DENSE)
def test_the_network_of_a_dense_detector(name, tmp_path):
    network = Network(detector(name))
    traced = torch.jit.trace(network, torch.randn(1, 3, 128, 160), check_trace=False)
    traced.save(tmp_path / 'network.pt')
    traced = torch.jit.load(tmp_path / 'network.pt')
    images = torch.randn(2, 3, 96, 128)  # another size, another batch
    with torch.no_grad():
        outputs, expected = traced(images), network(images)
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference)
    assert not any('loss' in key for key, _ in network.named_parameters())

    pytest.importorskip('onnx')
    onnxruntime = pytest.importorskip('onnxruntime')
    file = str(tmp_path / 'network.onnx')
    torch.onnx.export(
        network,
        (torch.randn(1, 3, 128, 160),),
        file,
        dynamo=False,
        opset_version=17,
        input_names=['images'],
        dynamic_axes={'images': {0: 'batch', 2: 'height', 3: 'width'}},
    )
    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    for output, reference in zip(session.run(None, {'images': images.numpy()}), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(output), reference, rtol=1e-3, atol=1e-3)


def test_the_whole_prediction_of_brs_detr_is_saved_for_one_image_size(tmp_path):
    prediction = Prediction(detector('co-deformable-detr'))
    with torch.no_grad():
        torch.jit.trace(prediction, torch.randn(1, 3, 128, 160), check_trace=False).save(tmp_path / 'prediction.pt')
        traced = torch.jit.load(tmp_path / 'prediction.pt')
        images = torch.randn(1, 3, 128, 160)
        for output, reference in zip(traced(images), prediction(images), strict=True):
            torch.testing.assert_close(output, reference)


@pytest.mark.parametrize('name', ['atss', 'faster-rcnn'])
def test_what_cannot_be_exported_nms(name, tmp_path):
    prediction = Prediction(detector(name))
    images = torch.randn(1, 3, 128, 160)
    with torch.no_grad():
        traced = torch.jit.trace(prediction, images, check_trace=False)
        with pytest.raises(RuntimeError, match='NMSop'):
            traced.save(tmp_path / 'prediction.pt')


@pytest.mark.skipif('dynamo' not in signature(torch.onnx.export).parameters, reason='an older torch.onnx.export')
def test_what_cannot_be_exported_onnx(tmp_path):
    with pytest.raises(ModuleNotFoundError, match=r'mmdet\.core'):
        torch.onnx.export(
            Prediction(detector('atss')),
            (torch.randn(1, 3, 128, 160),),
            str(tmp_path / 'prediction.onnx'),
            dynamo=False,
        )


@pytest.mark.parametrize('name', ['faster-rcnn', 'co-deformable-detr'])
def test_what_cannot_be_exported_tensor_mode(name):
    with pytest.raises((AssertionError, TypeError, AttributeError)):
        detector(name)(torch.randn(1, 3, 128, 160), mode='tensor')
