"""The heads of the experiment on which logit is ranked: what they rank, and what else they are trained with."""

from __future__ import annotations

import math

import pytest

pytest.importorskip('mmdet')

import logit_variants  # noqa: F401  (registers the heads)
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from bucketed_losses.mmdet.evaluation import watch_ranking_losses

META = [dict(img_shape=(128, 128), batch_input_shape=(128, 128), pad_shape=(128, 128))]
OBJECT = InstanceData(bboxes=torch.tensor([[8.0, 8.0, 44.0, 40.0]]), labels=torch.tensor([1]))


def small_head(detector, variant, width):
    """The head of a config with another type, and maps for it; its initial weights are those of the config."""
    cfg = Config.fromfile(f'configs/bccd/{detector}_1xb8-12e_bccd.py').model
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        train_cfg = cfg.get('train_cfg')
        head = MODELS.build(dict(cfg.bbox_head, type=variant, train_cfg=train_cfg, test_cfg=cfg.test_cfg))
    head.init_weights()
    strides = [stride[0] if isinstance(stride, tuple) else stride for stride in head.prior_generator.strides]
    return head, tuple(torch.randn(1, width, 128 // stride, 128 // stride) for stride in strides)


def losses_and_ranked(head, maps):
    outputs, seen = head(maps), []
    with watch_ranking_losses(head, seen.append):
        losses = head.loss_by_feat(*outputs, [OBJECT], META)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    (batch,) = seen
    return outputs, losses, batch


def flat(levels):
    return torch.cat([level[0].flatten(1).T for level in levels]).detach()


def test_yolox_ranks_classes_and_keeps_the_cross_entropy_of_objectness():
    head, maps = small_head('yolox_efficientnet-lite0_fpn_brs', 'ClassRankedYOLOXHead', 96)
    (classes, _, objectness), losses, batch = losses_and_ranked(head, maps)
    torch.testing.assert_close(batch.logits, flat(classes))
    assert set(losses) == {'loss_rank', 'loss_sort', 'loss_bbox', 'loss_obj'}
    positive = (batch.targets > 0).any(dim=1).tolist()
    probabilities = flat(objectness)[:, 0].double().sigmoid().tolist()
    pairs = zip(probabilities, positive, strict=True)
    expected = -sum(math.log(p if is_positive else 1 - p) for p, is_positive in pairs)
    assert losses['loss_obj'].item() == pytest.approx(expected / sum(positive), rel=1e-5)
    assert sum(probabilities) / len(probabilities) == pytest.approx(0.01, rel=0.2)


def test_yolof_ranks_classes_without_objectness():
    head, maps = small_head('yolof_efficientnet-lite0_brs', 'ClassRankedYOLOFHead', 96)
    (classes, _), losses, batch = losses_and_ranked(head, maps)
    assert set(losses) == {'loss_rank', 'loss_sort', 'loss_bbox'}
    num_anchors = head.num_base_priors
    expected = classes[0][0].unflatten(0, (num_anchors, 3)).permute(2, 3, 0, 1).reshape(-1, 3).detach()
    torch.testing.assert_close(batch.logits, expected)


def test_fcos_ranks_classes_and_keeps_its_centerness():
    head, maps = small_head('fcos_efficientnet-lite0_fpn_brs', 'CenterednessFCOSHead', 96)
    (classes, _, centerness), losses, batch = losses_and_ranked(head, maps)
    assert set(losses) == {'loss_rank', 'loss_sort', 'loss_bbox', 'loss_centerness'}
    torch.testing.assert_close(batch.logits, flat(classes))
    sizes = [level.shape[-2:] for level in classes]
    points = torch.cat(head.prior_generator.grid_priors(sizes, dtype=torch.float64, device='cpu'))
    left, top, right, bottom = OBJECT.bboxes[0].double().tolist()
    terms = []
    for (x, y), target, logit in zip(points.tolist(), batch.targets, flat(centerness)[:, 0].double(), strict=True):
        if (target > 0).any():
            sides = x - left, right - x, y - top, bottom - y
            label = (min(sides[:2]) / max(sides[:2]) * min(sides[2:]) / max(sides[2:])) ** 0.5
            terms.append(-(label * logit.sigmoid().log() + (1 - label) * (1 - logit.sigmoid()).log()).item())
    assert terms and losses['loss_centerness'].item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
