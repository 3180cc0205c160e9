"""Switches between the behaviour of the published code and that of this package."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip('mmdet')

from head_reference import giou
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps
from small_anchor_heads import HEADS, build_head, loss_of
from small_roi_heads import bbox_head_cfg, random_rois
from small_roi_heads import build as build_roi_head

from bucketed_losses import functional as F
from bucketed_losses.mmdet.models.losses import score_weighted_box_loss


@HEADS
def test_classifiers_start_at_a_given_probability(head_type):
    head = build_head(head_type=head_type, classifier_prior=0.01)
    assert head.classifier_biases()
    for bias in head.classifier_biases():
        assert bias.sigmoid().tolist() == pytest.approx([0.01] * len(bias))
    with pytest.raises(ValueError, match='classifier_prior'):
        build_head(head_type=head_type, classifier_prior=0.0)


def test_box_heads_start_at_a_given_probability():
    head = build_roi_head(bbox_head_cfg(classifier_prior=0.01))
    assert head.fc_cls.bias.sigmoid().tolist() == pytest.approx([0.01] * 3)


def test_anchor_scores_of_paa_do_not_depend_on_the_prior_of_the_classifier():
    """A published classifier starts at 0.01 and its logits are read as they are; ours starts at 0.5 and is shifted."""
    ours, published = (build_head(head_type='RankBasedPAAHead', classifier_prior=p) for p in (0.5, 0.01))
    assert published.score_shift == 0 and ours.score_shift == pytest.approx(math.log(0.01 / 0.99))
    losses = [loss_of(head) for head in (ours, published)]
    # The assignment is the same, and a ranking loss does not see a common shift. The box loss does: its weights are
    # scores. It is balanced to the ranking loss, so that its value is the same.
    for name in losses[0]:
        assert losses[0][name].item() == pytest.approx(losses[1][name].item(), rel=1e-4)


@pytest.mark.parametrize('balanced', [False, True])
def test_box_losses_with_equal_weights_are_plain_means(balanced):
    rois, labels, weights, targets, box_weights = random_rois()
    generator = torch.Generator().manual_seed(1)
    logits, deltas = torch.randn(len(rois), 3, generator=generator), torch.randn(len(rois), 12, generator=generator)
    loss_cls = dict(type='RSLoss', box_weights='equal', self_balancing=balanced)
    head = build_roi_head({**bbox_head_cfg(), 'loss_cls': loss_cls})
    losses = head.loss(logits, deltas, rois, labels, weights, targets, box_weights)
    values = []
    for i in range(12):
        start = 4 * int(labels[i])
        box = head.bbox_coder.decode(rois[i : i + 1, 1:], deltas[i : i + 1, start : start + 4])
        values.append(giou(box[0], targets[i])[0].item())
    expected = 1.5 * sum(values) / 12
    if balanced:
        expected = (losses['loss_rank'] + losses['loss_sort']).item()
    assert losses['loss_bbox'].item() == pytest.approx(expected, rel=1e-4)


def test_equal_weights_differ_from_scores():
    loss = MODELS.build(dict(type='GIoULoss'))
    boxes, targets = torch.tensor([[0.0, 0, 4, 4], [0, 0, 8, 8]]), torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4]])
    logits = torch.tensor([[3.0], [-3.0]])
    equal = score_weighted_box_loss(loss, boxes, targets, logits, equally=True)
    assert equal.item() == pytest.approx(0.375, abs=1e-4)  # (0 + 0.75) / 2
    assert score_weighted_box_loss(loss, boxes, targets, logits) < 0.1
    with pytest.raises(ValueError, match='box_weights'):
        MODELS.build(dict(type='RSLoss', box_weights='iou'))


def test_loss_stds_of_the_coder_change_nothing():
    plain, same = (build_head(head_type='RankBasedRPNHead', loss_stds=stds) for stds in (None, [0.1, 0.1, 0.2, 0.2]))
    for name, value in loss_of(plain).items():
        assert loss_of(same)[name].item() == pytest.approx(value.item(), rel=1e-4)


def test_loss_stds_distort_boxes_as_published():
    """The published loss decodes deltas, which are encoded with stds of 1, on a unit box with stds of 0.1 and 0.2."""
    coder = dict(type='DeltaXYWHBBoxCoder', target_stds=[1.0] * 4)
    head = build_head(head_type='RankBasedRPNHead', bbox_coder=coder, loss_stds=[0.1, 0.1, 0.2, 0.2])
    priors = torch.tensor([[10.0, 10, 30, 40], [0, 0, 16, 16], [20, 5, 44, 60]])
    boxes = torch.tensor([[12.0, 8, 33, 36], [1, 2, 20, 14], [0, 0, 1, 1]])
    predictions = torch.tensor([[0.3, -0.2, 0.5, 0.1], [0.2, 0.4, -0.3, 0.6], [0.0, 0.1, 0.2, 0.3]])
    labels, logits = torch.tensor([0, 0, 1]), torch.tensor([[0.2], [0.6], [0.4]])
    losses = head.ranking_losses(logits, predictions, priors, labels, torch.ones(3), boxes)

    def on_a_unit_box(dx, dy, dw, dh):
        x, y, w, h = 0.1 * dx, 0.1 * dy, math.exp(0.2 * dw), math.exp(0.2 * dh)
        return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]

    ious = []
    for prior, box, prediction in zip(priors[:2].tolist(), boxes.tolist(), predictions.tolist(), strict=False):
        (px, py, pw, ph), (bx, by, bw, bh) = (
            ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1) for x1, y1, x2, y2 in (prior, box)
        )
        target = ((bx - px) / pw, (by - py) / ph, math.log(bw / pw), math.log(bh / ph))
        pair = torch.tensor([on_a_unit_box(*prediction)]), torch.tensor([on_a_unit_box(*target)])
        ious.append(bbox_overlaps(*pair).item())
    expected = F.bucketed_rs_loss(logits.flatten(), torch.tensor([*ious, 0.0]))
    assert losses['loss_rank'].item() == pytest.approx(expected.ranking.item(), rel=1e-5)
    assert losses['loss_sort'].item() == pytest.approx(expected.sorting.item(), rel=1e-4)
    true = head.bbox_coder.decode(priors[:2], predictions[:2])
    assert bbox_overlaps(true, boxes[:2], is_aligned=True).tolist() != pytest.approx(ious, rel=0.05)
    with pytest.raises(ValueError, match='loss_stds'):
        build_head(head_type='RankBasedRPNHead', loss_stds=[0.1, 0.2])
