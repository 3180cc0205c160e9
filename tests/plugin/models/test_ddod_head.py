"""DDOD: the ranked positives and the positives of the box loss come from two assigners."""

from __future__ import annotations

import math

import pytest
import torch
from head_reference import assert_equal_losses, combined_losses, decode, entries_of, giou

pytest.importorskip('mmdet')

from small_anchor_heads import METAS
from small_dense_heads import NUM_CLASSES, OBJECTS, STRIDES, at, build_head, features, places, random_maps

import bucketed_losses.mmdet  # noqa: F401  (registers the head)


def anchor_at(place):
    level, _, y, x = place
    center = torch.tensor([x, y, x, y]) * STRIDES[level]
    return center + torch.tensor([-2, -2, 2, 2]) * STRIDES[level]


def assigned(cls_scores, bbox_preds, topk, alpha):
    """Labels and target boxes by place: ATSS (its paper, Algorithm 1) with the costs of DDOD (Eq. 1) as overlaps."""
    found = {}  # place: (cost, label, box)
    for image, objects in enumerate(OBJECTS):
        for box, label in zip(objects.bboxes, objects.labels, strict=True):
            candidates = []
            for level in range(len(STRIDES)):
                here = []
                for place in places(cls_scores):
                    if place[:2] == (level, image):
                        anchor = anchor_at(place)
                        centers = (anchor[:2] + anchor[2:]) / 2, (box[:2] + box[2:]) / 2
                        here.append((torch.dist(*centers).item(), place))
                candidates += [place for _, place in sorted(here, key=lambda item: item[0])[:topk]]
            costs = []
            for place in candidates:
                # A logit of 0 counts as a probability of 0.01.
                score = (at(cls_scores, *place)[label] + math.log(0.01 / 0.99)).sigmoid().item()
                iou = giou(decode(anchor_at(place), at(bbox_preds, *place).detach()), box)[1].item()
                costs.append(score ** (1 - alpha) * iou**alpha)
            values = torch.tensor(costs)
            threshold = values.mean() + values.std()
            for cost, place in zip(costs, candidates, strict=True):
                anchor = anchor_at(place)
                center = (anchor[:2] + anchor[2:]) / 2
                inside = (center > box[:2] + 0.01).all() and (center < box[2:] - 0.01).all()
                if cost >= threshold and inside and cost > found.get(place, (-1,))[0]:
                    found[place] = (cost, int(label), box)
    return found


def random_outputs(head):
    cls_scores, bbox_preds = head(features(head))
    return random_maps(cls_scores), random_maps(bbox_preds, seed=3)


@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
def test_losses_equal_a_slow_computation(loss):
    head = build_head('RankBasedDDODHead', loss)
    cls_scores, bbox_preds = random_outputs(head)
    losses = head.loss_by_feat(cls_scores, bbox_preds, OBJECTS, METAS)

    ranked = assigned(cls_scores, bbox_preds, 9, 0.8)
    regressed = assigned(cls_scores, bbox_preds, 6, 0.5)
    assert len(ranked) > 3 and len(regressed) > 3 and set(ranked) != set(regressed)
    counts = [sum(place[0] == level for place in regressed) for level in range(len(STRIDES))]
    entries, boxes = [], []
    for place in places(cls_scores):
        scores, quality = at(cls_scores, *place), None
        _, label, target = ranked.get(place, (0, NUM_CLASSES, None))
        if target is not None:
            quality = giou(decode(anchor_at(place), at(bbox_preds, *place)), target)[1]
        entries += entries_of(scores, label, quality)
        if place in regressed:
            loss_giou = giou(decode(anchor_at(place), at(bbox_preds, *place)), regressed[place][2])[0]
            factor = 2 - (counts[place[0]] - min(counts)) / (max(counts) - min(counts))
            boxes.append((factor * scores.detach().sigmoid().max(), {'loss_bbox': 2.0 * loss_giou}))
    assert_equal_losses(losses, [*cls_scores, *bbox_preds], *combined_losses(loss, entries, [boxes]))


def test_factors_of_levels_count_the_positives_of_all_steps():
    head = build_head('RankBasedDDODHead')
    background = torch.full((2, 4), NUM_CLASSES)
    first, second = background.clone(), background.clone()
    first[0, :3] = 0
    second[1, 0] = 2
    head.level_factors([first, second])
    factors = head.level_factors([second, second])  # 4 positives so far, and 2
    assert factors.tolist() == pytest.approx([1.0] * 8 + [2.0] * 8)


def test_deformable_convolutions_and_the_box_loss_of_alrp():
    head = build_head('RankBasedDDODHead', 'aLRPLoss', use_dcn=True)
    losses = head.loss_by_feat(*head(features(head)), OBJECTS, METAS)
    assert set(losses) == {'loss_cls', 'loss_bbox'}
    sum(losses.values()).backward()
    assert not [key for key, parameter in head.named_parameters() if parameter.grad is None]
