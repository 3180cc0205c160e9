"""What ``scope`` changes: a step across processes against one process, and images ranked alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from cases import LOSSES
from gloo import CountCollectives, on_processes
from shared_ranking import run_bytes

pytest.importorskip('mmdet')
pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')

from config_models import bbox_heads, build
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper

from bucketed_losses.mmdet.engine import BFloat16OptimWrapper
from bucketed_losses.mmdet.models.losses import ImageRows, RankingLoss

pytestmark = pytest.mark.medium

ROOT = Path(__file__).resolve().parents[3]
DETECTORS = {
    'atss': 'bccd/atss_efficientnet-lite0_fpn_{}_1xb8-12e_bccd.py',
    'retinanet': 'bccd/retinanet_efficientnet-lite0_fpn_{}_1xb8-12e_bccd.py',
    'paa': 'bccd/paa_efficientnet-lite0_fpn_{}_1xb8-12e_bccd.py',
    'faster-rcnn': 'bccd/faster-rcnn_efficientnet-lite0_fpn_{}_1xb8-12e_bccd.py',
    'cascade-rcnn': 'bccd/cascade-rcnn_efficientnet-lite0_fpn_{}_1xb8-12e_bccd.py',
    'mask-rcnn': 'shapes/mask-rcnn_efficientnet-lite0_fpn_{}_1xb8-12e_shapes.py',
    'brs-detr': 'shapes/co-deformable-detr_efficientnet-lite0_{}_1xb4-12e_shapes.py',
}
WITH_HEADS = 'brs-detr with heads'
# Objects per image: the last two images are the second process's.
OBJECTS = {'unequal': (3, 2, 1, 4), 'second without': (3, 1, 0, 0), 'first without': (0, 0, 1, 2), 'none': (0, 0, 0, 0)}


def repeatable(detector):
    """The config and the model of a detector whose losses do not depend on which images share a batch."""
    cfg = Config.fromfile(ROOT / 'configs' / DETECTORS[detector.partition(' ')[0]].format('brs'))
    if detector == 'brs-detr':  # without auxiliary heads: their queries are drawn at random
        cfg.model.update(roi_heads=(), dense_heads=(), rpn_head=None)
    model = build(cfg).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return cfg, model


def updates(detector, objects, scope, loss='BucketedRSLoss'):
    """One SGD step on this process's share of four images: what every parameter moves by, and the collectives."""
    cfg, model = repeatable(detector)
    for module in model.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, RankingLoss):
                setattr(module, name, MODELS.build(dict(type=loss, scope=scope)))
    torch.manual_seed(1)
    for parameter in model.parameters():  # scores that differ, so that the order of all of them matters
        parameter.data += 0.02 * torch.randn(parameter.shape)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    num_classes = bbox_heads(cfg)[0].num_classes
    inputs = demo_mm_inputs(4, [[3, 96, 96]] * 4, num_classes=num_classes, num_items=list(objects), with_mask=True)
    optimizer = OptimWrapper(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0))
    wrapped = model
    if dist.is_initialized():
        share = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
        inputs = {key: value[share] for key, value in inputs.items()}
        wrapped = MMDistributedDataParallel(model, find_unused_parameters=True)
    with CountCollectives() as collectives:
        logs = wrapped.train_step(inputs, optimizer)
    moved = {name: parameter.detach() - before[name] for name, parameter in model.named_parameters()}
    return moved, {name: value.detach() for name, value in logs.items()}, collectives.names


def all_updates(runs):
    return [updates(*run) for run in runs]


RUNS = [
    *((detector, OBJECTS['unequal'], 'global') for detector in DETECTORS),
    *(
        (detector, OBJECTS[case], 'global')
        for case in list(OBJECTS)[1:]
        for detector in ('atss', 'mask-rcnn', 'brs-detr')
    ),
    *(('atss', OBJECTS['unequal'], 'global', loss) for loss in ('APLoss', 'BucketedAPLoss', 'RSLoss')),
    ('brs-detr', OBJECTS['second without'], 'global', 'APLoss'),
    *((WITH_HEADS, OBJECTS[case], 'global') for case in ('first without', 'none')),
    ('atss', OBJECTS['unequal'], 'batch'),
]


@pytest.fixture(scope='module')
def two_processes():
    return on_processes(2, all_updates, RUNS)


@pytest.mark.parametrize('index', range(len(RUNS)), ids=['-'.join(map(str, run)) for run in RUNS])
def test_a_global_step_is_that_of_one_process_with_both_batches(two_processes, index):
    run = RUNS[index]
    (first, first_logs, names), (second, second_logs, others) = (process[index] for process in two_processes)
    assert names == others, 'a process would wait for a collective that does not come'
    if run[0] == WITH_HEADS:
        assert all(torch.equal(moved, second[name]) and moved.isfinite().all() for name, moved in first.items())
        return
    expected, logs, _ = updates(*run)

    def difference(got):
        """Of the whole step, relative to its length. Single units of a ReLU may fall on the other side of 0: a
        convolution rounds four images differently from two."""
        whole, other = (torch.cat([step[name].flatten().double() for name in expected]) for step in (expected, got))
        return (other - whole).norm() / whole.norm().clamp(min=1e-12)

    if run[2] == 'batch':  # the difference that `global` makes
        assert difference(first) > 0.02
        return
    assert difference(first) < 1e-3
    assert difference(second) < 1e-3
    for name, value in logs.items():
        if 'loss_rank' in name or 'loss_sort' in name:  # the whole batch's on every process
            torch.testing.assert_close(first_logs[name], value, rtol=1e-4, atol=1e-5)
        if 'loss' in name:  # box losses are shares
            mean = (first_logs[name] + second_logs[name]) / 2
            torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-5)


def amp_steps(detectors):
    """One step of every detector under bfloat16 autocast, the second process without objects: logs and collectives."""
    found = []
    for detector in detectors:
        cfg, model = repeatable(detector)
        for module in model.modules():
            if isinstance(module, RankingLoss):
                module.scope = 'global'
        num_items = [0, 0] if dist.get_rank() else [3, 2]
        num_classes = bbox_heads(cfg)[0].num_classes
        inputs = demo_mm_inputs(2, [[3, 96, 96]] * 2, num_classes=num_classes, num_items=num_items, with_mask=True)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        wrapped = MMDistributedDataParallel(model, find_unused_parameters=True)
        with CountCollectives() as collectives:
            logs = wrapped.train_step(inputs, BFloat16OptimWrapper(optimizer=optimizer))
        losses = {name: value.detach() for name, value in logs.items() if 'loss' in name}
        found.append((losses, list(zip(collectives.names, collectives.dtypes, strict=True))))
    return found


def test_what_processes_exchange_has_one_dtype_under_autocast():
    """Whether a process has objects changes which operations it runs, and with them the dtypes that it comes by."""
    detectors = ['atss', 'cascade-rcnn', 'mask-rcnn', 'brs-detr']
    steps = zip(*on_processes(2, amp_steps, detectors), strict=True)
    for detector, (first, second) in zip(detectors, steps, strict=True):
        assert first[1] == second[1], detector
        shared = [dtype for name, dtype in first[1] if name == 'all_reduce']
        assert shared and set(shared) <= {'torch.float32', 'torch.float64'}, detector
        assert all(value.isfinite() for losses, _ in (first, second) for value in losses.values())
        # Boxes and masks of a process without objects.
        assert all(value.dtype == torch.float32 for losses, _ in (first, second) for value in losses.values()), detector


@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
def test_images_alone(loss):
    """The mean over images, those without positives or without rows included."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 8, (60,), generator=generator).clamp(max=3)
    ious = torch.rand(60, generator=generator, dtype=torch.float64)
    image = torch.randint(0, 3, (60,), generator=generator)
    labels[image == 2] = 3  # an image of background; and image 3 has no row
    alone, batch = (MODELS.build(dict(type=loss, scope=scope, loss_weight=2.0)) for scope in ('image', 'batch'))
    pieces = [logits[image == index].clone().requires_grad_() for index in range(4)]
    expected = [batch(x, (labels[image == i], ious[image == i])) for i, x in enumerate(pieces)]
    logits.requires_grad_()
    got = alone(logits, (labels, ious), images=ImageRows(image, 4), positive=(labels < 3).nonzero().squeeze(1))
    for name, value in got.items():
        torch.testing.assert_close(value, sum(part[name] for part in expected) / 4)
    sum(got.values()).backward()
    (sum(sum(part.values()) for part in expected) / 4).backward()
    for index, piece in enumerate(pieces):
        torch.testing.assert_close(logits.grad[image == index], piece.grad)


@pytest.mark.parametrize('known', [False, True])
@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
def test_classes_alone(loss, known):
    """The mean over the classes that have positives; the last of four classes has none."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 4, 4, 4]).repeat(10)
    ious = torch.rand(60, generator=generator, dtype=torch.float64)
    weight = torch.ones(60)
    weight[:5] = 0
    alone, batch = (MODELS.build(dict(type=loss, scope=scope, loss_weight=2.0)) for scope in ('class', 'batch'))
    columns = [logits[:, index : index + 1].clone().requires_grad_() for index in range(3)]
    expected = [batch(x, ((labels != index).long(), ious), weight=weight) for index, x in enumerate(columns)]
    logits.requires_grad_()
    positive = ((labels < 4) & (weight > 0)).nonzero().squeeze(1) if known else None
    got = alone(logits, (labels, ious), weight=weight, positive=positive)
    for name, value in got.items():
        torch.testing.assert_close(value, sum(part[name] for part in expected) / 3)
    sum(got.values()).backward()
    (sum(sum(part.values()) for part in expected) / 3).backward()
    for index, column in enumerate(columns):
        torch.testing.assert_close(logits.grad[:, index : index + 1], column.grad)
    assert logits.grad[:, 3].eq(0).all()
    assert sum(alone(logits, (torch.full_like(labels, 4), ious)).values()) == 0


@pytest.mark.parametrize('detector', DETECTORS)
def test_every_head_knows_its_images(detector):
    """Two images in one batch, ranked alone, lose what each loses as a batch of its own."""
    cfg, model = repeatable(detector)
    for module in model.modules():
        if isinstance(module, RankingLoss):
            module.scope = 'image'
    num_classes = bbox_heads(cfg)[0].num_classes
    inputs = demo_mm_inputs(2, [[3, 96, 96]] * 2, num_classes=num_classes, num_items=[3, 1], with_mask=True)

    def losses(chosen):
        data = model.data_preprocessor({key: value[chosen] for key, value in inputs.items()}, training=True)
        with torch.no_grad():
            values = model(**data, mode='loss')
        return {
            name: torch.stack(value).sum() if isinstance(value, list) else value
            for name, value in values.items()
            if 'loss_rank' in name or 'loss_sort' in name
        }

    both, first, second = losses(slice(0, 2)), losses(slice(0, 1)), losses(slice(1, 2))
    assert both
    for name, value in both.items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2, rtol=1e-3, atol=1e-4)


def test_simulated_bytes_are_those_of_the_collectives():
    """``simulate_communication.py`` counts what the processes of tests/core/test_processes.py give to them."""
    from simulate_communication import Call, Network, buckets, main, ranking_across

    names = ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss']
    assert [name.replace('_', '').lower() for name in LOSSES] == [name.lower() for name in names]
    sizes = on_processes(2, run_bytes, 100)[0]
    for name, size in zip(names, sizes, strict=True):
        loss = MODELS.build(dict(type=name))
        loss.delta = 0.5
        call = Call(150, 50, loss)
        assert size == 16 + 16 * 50 + 16 * buckets(call, 2)
        network = Network(latency=1.0, bandwidth=1.0)
        box = 1 + loss.self_balancing  # all-reduces of one float32
        moved, seconds = ranking_across([call], 2, network)
        assert moved == 2 * (16 + 16 * 50) + 4 * 16 * buckets(call, 2) + box * 16
        assert seconds == (1 + 16) + (1 + 16 * 50) + (2 + 2 * 16 * buckets(call, 2)) + box * (2 + 8)
    with pytest.raises(SystemExit):
        main(['config.py', '--gpus', '1'])


def test_wrong_scopes_are_named():
    with pytest.raises(ValueError, match="RSLoss: scope must be one of batch, global, image, class, got 'node'"):
        MODELS.build(dict(type='RSLoss', scope='node'))
    loss = MODELS.build(dict(type='RSLoss', scope='image'))
    with pytest.raises(ValueError, match='needs the image of every row; give images=ImageRows'):
        loss(torch.zeros(3, 2), (torch.tensor([0, 2, 2]), torch.ones(3)))


def test_global_in_a_single_process_is_batch():
    loss = MODELS.build(dict(type='RSLoss', scope='global'))
    assert loss.group is None and not loss.shared
