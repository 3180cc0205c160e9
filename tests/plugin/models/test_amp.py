"""Automatic mixed precision: layers run in half precision, the losses in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip('mmdet')

from config_models import build, small_inputs
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from small_anchor_heads import HEADS, METAS, NAMES, build_head, features, objects_for

from bucketed_losses import functional
from bucketed_losses.mmdet.models.losses import RankingLoss

ROOT = Path(__file__).resolve().parents[3]
HALF = pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
OLD = tuple(map(int, torch.__version__.split('.')[:2])) < (2, 3)
HALF_ON_A_CPU = pytest.mark.parametrize(
    'dtype',
    [
        pytest.param(torch.bfloat16, id='bf16'),
        pytest.param(
            torch.float16,
            id='fp16',
            marks=pytest.mark.skipif(OLD, reason='torch < 2.3 has no float16 autocast on a CPU'),
        ),
    ],
)


@pytest.fixture
def ranked(monkeypatch):
    """The dtypes of the logits that the ranking losses are given, and of what they return."""
    dtypes = []
    for name in functional.__all__:
        if name.endswith('_loss'):
            original = getattr(functional, name)

            def record(logits, targets, *args, original=original, **kwargs):
                result = original(logits, targets, *args, **kwargs)
                parts = result if isinstance(result, tuple) else (result,)
                numbers = targets.ious if isinstance(targets, functional.SparseTargets) else targets
                dtypes.append({logits.dtype, numbers.dtype, *(part.dtype for part in parts)})
                return result

            monkeypatch.setattr(functional, name, record)
    return dtypes


@HALF_ON_A_CPU
@HEADS
@pytest.mark.parametrize('name', NAMES)
def test_dense_heads(head_type, name, dtype, ranked):
    """Under autocast: the losses of the same maps, cast to float32 first."""
    head = build_head(name, head_type)
    # The convolutions stay out of it: not every CPU has them in float16.
    cls_scores, bbox_preds = ([level.detach().to(dtype) for level in maps] for maps in head(features())[:2])
    for level in (*cls_scores, *bbox_preds):
        level.requires_grad_()

    def losses():
        return head.loss_by_feat(cls_scores, bbox_preds, objects_for(head), METAS)

    with torch.autocast('cpu', dtype=dtype):
        got = losses()
    assert ranked and all(dtypes == {torch.float32} for dtypes in ranked)
    assert all(value.dtype == torch.float32 for key, value in got.items() if 'loss' in key)
    sum(value for key, value in got.items() if 'loss' in key).backward()
    assert all(level.grad is not None and level.grad.dtype == dtype for level in cls_scores)
    assert all(torch.isfinite(level.grad).all() for level in (*cls_scores, *bbox_preds))
    cls_scores, bbox_preds = ([level.detach().float() for level in maps] for maps in (cls_scores, bbox_preds))
    for key, value in losses().items():
        torch.testing.assert_close(got[key], value)


@HALF_ON_A_CPU
@pytest.mark.parametrize('name', NAMES)
def test_box_head(name, dtype, ranked):
    head = MODELS.build(
        dict(
            type='RankBasedShared2FCBBoxHead',
            in_channels=8,
            fc_out_channels=16,
            roi_feat_size=7,
            num_classes=3,
            reg_class_agnostic=False,
            reg_decoded_bbox=True,
            loss_cls=dict(type=name),
            loss_bbox=dict(type='GIoULoss'),
        )
    )
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(20, 4, generator=generator).sort(dim=1).values * 60 + torch.tensor([0.0, 0, 5, 5])
    labels = torch.tensor([0, 1, 2, 1, *[3] * 16])
    logits, deltas = (torch.randn(20, size, generator=generator).to(dtype).requires_grad_() for size in (3, 12))
    inputs = torch.cat([torch.zeros(20, 1), boxes], dim=1), labels, torch.ones(20), boxes + 2, None
    with torch.autocast('cpu', dtype=dtype):
        got = head.loss(logits, deltas, *inputs)
    assert ranked == [{torch.float32}]
    expected = head.loss(logits.float(), deltas.float(), *inputs)
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value)
    sum(value for key, value in got.items() if 'loss' in key).backward()
    assert logits.grad.dtype == deltas.grad.dtype == dtype and logits.grad.any()


@pytest.mark.medium
@pytest.mark.parametrize(
    'config',
    [
        'bccd/atss_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
        'bccd/retinanet_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
        'bccd/paa_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
        'bccd/faster-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
        'bccd/cascade-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
        'shapes/mask-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_shapes.py',
        'shapes/co-deformable-detr_efficientnet-lite0_brs_1xb4-12e_shapes.py',
        'bccd/deformable-detr_efficientnet-lite0_brs_1xb4-12e_bccd.py',
        'bccd/dino_efficientnet-lite0_brs_1xb4-12e_bccd.py',
        'bccd/ddq-detr_efficientnet-lite0_brs_1xb4-12e_bccd.py',
        'bccd/co-dino_efficientnet-lite0_brs_1xb4-12e_bccd.py',
        'bccd/sparse-rcnn_efficientnet-lite0_fpn_brs_1xb4-12e_bccd.py',
    ],
    ids=lambda config: Path(config).stem.partition('_')[0],
)
def test_a_step_of_every_detector_on_a_cpu(config, ranked):
    """What ``tools/train.py --amp`` does on a CPU: bfloat16 everywhere, MMCV's NMS and RoIAlign included."""
    cfg = Config.fromfile(ROOT / 'configs' / config)
    model = build(cfg).train()
    cfg.optim_wrapper.type = 'BFloat16OptimWrapper'
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    logs = model.train_step(small_inputs(cfg), wrapper)
    assert all(torch.isfinite(value) for value in logs.values())
    losses = sum(isinstance(module, RankingLoss) for module in model.modules())
    assert len(ranked) >= losses and all(dtypes == {torch.float32} for dtypes in ranked)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@HALF
@pytest.mark.parametrize('detector', ['atss', 'faster-rcnn', 'cascade-rcnn'])
def test_a_step_on_a_gpu(detector, dtype, ranked):
    """What ``tools/train.py --amp`` does there: float16 with loss scaling by default."""
    cfg = Config.fromfile(ROOT / f'configs/bccd/{detector}_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py')
    model = build(cfg).train().cuda()
    name = str(dtype).removeprefix('torch.')
    cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic', dtype=name)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    logs = model.train_step(small_inputs(cfg), wrapper)
    assert all(torch.isfinite(value) for value in logs.values())
    assert ranked and all(dtypes == {torch.float32} for dtypes in ranked)
