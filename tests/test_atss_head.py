"""RankBasedATSSHead against a slow computation from the definitions, and in the situations training meets."""

from __future__ import annotations

import math

import pytest
import torch
from reference import loop_bucketed_ranking, loop_rs_loss

pytest.importorskip('mmdet')

from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

import bucketed_losses  # noqa: F401  (registers the head)

NUM_CLASSES = 3
NAMES = ('APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss')
EACH = pytest.mark.parametrize('name', NAMES)


def build_head(name='BucketedRSLoss', head_type='RankBasedATSSHead', **kwargs):
    torch.manual_seed(0)
    head = MODELS.build(
        dict(
            type=head_type,
            num_classes=NUM_CLASSES,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
            norm_cfg=dict(type='GN', num_groups=2),
            anchor_generator=dict(
                type='AnchorGenerator', ratios=[1.0], octave_base_scale=4, scales_per_octave=3, strides=[8, 16]
            ),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
            loss_cls=dict(type=name),
            loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
            train_cfg=ConfigDict(
                assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1, debug=False
            ),
            test_cfg=ConfigDict(
                nms_pre=100, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.6), max_per_img=10
            ),
            **kwargs,
        )
    )
    head.init_weights()
    return head


def features():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 8, size, size, generator=generator) for size in (8, 4)]


METAS = [dict(img_shape=(64, 64), pad_shape=(64, 64), batch_input_shape=(64, 64), scale_factor=(1.0, 1.0))] * 2


def instances(boxes, labels):
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels=torch.tensor(labels, dtype=torch.long)
    )


OBJECTS = [
    instances([[4, 4, 40, 44], [30, 10, 60, 50]], [0, 2]),
    instances([[20, 20, 62, 62], [2, 2, 20, 22], [10, 30, 30, 62]], [1, 1, 0]),
]


def giou(a, b):
    """Generalised IoU loss and IoU of two boxes, in plain numbers of autograd."""
    width = torch.min(a[2], b[2]) - torch.max(a[0], b[0])
    height = torch.min(a[3], b[3]) - torch.max(a[1], b[1])
    overlap = width.clamp(min=0) * height.clamp(min=0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    hull = (torch.max(a[2], b[2]) - torch.min(a[0], b[0])) * (torch.max(a[3], b[3]) - torch.min(a[1], b[1]))
    return 1 - (overlap / union - (hull - union) / hull), overlap / union


def decode(anchor, delta):
    """Faster R-CNN's box coding with stds (0.1, 0.1, 0.2, 0.2)."""
    w, h = anchor[2] - anchor[0], anchor[3] - anchor[1]
    cx, cy = (anchor[0] + anchor[2]) / 2 + 0.1 * delta[0] * w, (anchor[1] + anchor[3]) / 2 + 0.1 * delta[1] * h
    w, h = w * (0.2 * delta[2]).exp(), h * (0.2 * delta[3]).exp()
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])


def slow_losses(head, name, cls_scores, bbox_preds):
    """Assign (MMDetection) -> decode -> IoU -> loop over pairs -> score weights -> self-balance.

    Returns the loss values and the total with its gradient attached.
    """
    sizes = [level.shape[-2:] for level in cls_scores]
    anchors, flags = head.get_anchors(sizes, METAS, device='cpu')
    anchors, labels, weights, targets, *_ = head.get_targets(anchors, flags, OBJECTS, METAS)
    logits, entry_targets, boxes = [], [], []
    for level in range(len(cls_scores)):
        _, _, height, width = cls_scores[level].shape
        for image in range(2):
            index = 0
            for y in range(height):
                for x in range(width):
                    for prior in range(3):
                        scores = cls_scores[level][image, prior * NUM_CLASSES : (prior + 1) * NUM_CLASSES, y, x]
                        delta = bbox_preds[level][image, prior * 4 : (prior + 1) * 4, y, x]
                        label = int(labels[level][image, index])
                        iou = None
                        if label < NUM_CLASSES:
                            box = decode(anchors[level][image, index], delta)
                            loss, iou = giou(box, targets[level][image, index])
                            boxes.append((scores.detach().sigmoid().max(), loss))
                        for c in range(NUM_CLASSES):
                            logits.append(scores[c])
                            ignored = weights[level][image, index] == 0
                            entry_targets.append(
                                -1.0 if ignored else max(float(iou.detach()), 1e-7) if c == label else 0.0
                            )
                        index += 1
    delta = 0.5 if 'RS' in name else 1.0
    values, targets = [float(logit) for logit in logits], entry_targets
    reference = loop_rs_loss(values, targets, delta)
    ranking, grad = reference.ranking, reference.ranking_grad
    if 'Bucketed' in name:
        ranking, grad = loop_bucketed_ranking(values, targets, delta)
    losses = {'loss_rank': ranking}
    if 'RS' in name:
        losses['loss_sort'] = reference.sorting
        grad = [a + b for a, b in zip(grad, reference.sorting_grad, strict=True)]
    loss_bbox = 2.0 * sum(w * loss for w, loss in boxes) / sum(w for w, _ in boxes)
    if 'RS' in name:
        loss_bbox = loss_bbox * (sum(losses.values()) / loss_bbox.detach())
    losses['loss_bbox'] = float(loss_bbox)
    total = sum(g * logit for g, logit in zip(grad, logits, strict=True) if g != 0) + loss_bbox
    return losses, total


@EACH
def test_losses_equal_a_slow_computation(name):
    head = build_head(name)
    cls_scores, bbox_preds = head(features())
    generator = torch.Generator().manual_seed(2)
    cls_scores = [torch.randn(x.shape, generator=generator).requires_grad_() for x in cls_scores]
    bbox_preds = [torch.randn(x.shape, generator=generator).requires_grad_() for x in bbox_preds]
    losses = head.loss_by_feat(cls_scores, bbox_preds, OBJECTS, METAS)
    grads = torch.autograd.grad(sum(losses.values()), cls_scores + bbox_preds)

    expected, total = slow_losses(head, name, cls_scores, bbox_preds)
    assert set(losses) == set(expected)
    for key, value in expected.items():
        assert losses[key].item() == pytest.approx(value, abs=1e-5)
    wanted = torch.autograd.grad(total, cls_scores + bbox_preds, materialize_grads=True)
    for got, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@EACH
def test_every_parameter_gets_a_gradient(name):
    """Also what DDP needs with find_unused_parameters=False."""
    head = build_head(name)
    losses = head.loss_by_feat(*head(features()), OBJECTS, METAS)
    sum(losses.values()).backward()
    missing = [key for key, parameter in head.named_parameters() if parameter.grad is None]
    assert not missing
    assert not hasattr(head, 'atss_centerness') and not hasattr(head, 'loss_centerness')
    assert all('centerness' not in key for key in head.state_dict())


@EACH
@pytest.mark.parametrize('crowd', [False, True], ids=['no objects', 'all crowd'])
def test_without_positives_losses_are_zero_and_connected(name, crowd):
    head = build_head(name)
    ignore = [InstanceData(bboxes=objects.bboxes) for objects in OBJECTS] if crowd else None
    losses = head.loss_by_feat(*head(features()), [instances([], [])] * 2, METAS, ignore)
    assert all(value == 0 for value in losses.values())
    sum(losses.values()).backward()
    for parameter in head.parameters():
        assert parameter.grad is not None and parameter.grad.eq(0).all()


def test_one_image_without_objects():
    head = build_head()
    losses = head.loss_by_feat(*head(features()), [OBJECTS[0], instances([], [])], METAS)
    assert all(math.isfinite(value.item()) and value > 0 for value in losses.values())


def test_all_images_are_ranked_together():
    """Raising all logits of one image changes the loss of the batch, but not that of each image alone."""
    head = build_head()
    cls_scores, bbox_preds = ([x.detach() for x in levels] for levels in head(features()))
    raised = [x + torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1) for x in cls_scores]

    def ranking(scores, images):
        start, end = images
        return head.loss_by_feat(
            [x[start:end] for x in scores], [x[start:end] for x in bbox_preds], OBJECTS[start:end], METAS[start:end]
        )['loss_rank'].item()

    for image in ((0, 1), (1, 2)):
        assert ranking(raised, image) == pytest.approx(ranking(cls_scores, image), rel=1e-5)
    assert ranking(raised, (0, 2)) != pytest.approx(ranking(cls_scores, (0, 2)), rel=1e-3)


def test_bias_starts_at_zero_and_score_threshold_keeps_fresh_detections():
    head = build_head()
    assert head.atss_cls.bias.eq(0).all()
    results = head.predict_by_feat(*head(features()), batch_img_metas=METAS)
    assert [len(result) for result in results] == [10, 10]
    assert all((result.scores > 0.4).all() and (result.labels < NUM_CLASSES).all() for result in results)


def test_bfloat16_autocast_keeps_the_loss_in_float32():
    head = build_head()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = head.loss_by_feat(*head(features()), OBJECTS, METAS)
    assert all(value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()
    exact = head.loss_by_feat(*head(features()), OBJECTS, METAS)
    for key, value in exact.items():
        assert losses[key].item() == pytest.approx(value.item(), rel=0.05)


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(name='FocalLoss'), ['RankBasedATSSHead', 'loss_cls', 'FocalLoss']),
        (dict(reg_decoded_bbox=False), ['RankBasedATSSHead', 'reg_decoded_bbox', 'True']),
    ],
)
def test_wrong_settings_are_named_when_built(kwargs, words):
    with pytest.raises(ValueError) as caught:
        build_head(**kwargs)
    for word in words:
        assert word in str(caught.value)
