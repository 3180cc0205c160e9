"""YOLOX: the logit of class times objectness is ranked; SimOTA reads shifted probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from head_reference import assert_equal_losses, combined_losses, entries_of, giou

pytest.importorskip('mmdet')

from mmdet.models.dense_heads import YOLOXHead
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from small_anchor_heads import METAS
from small_dense_heads import NUM_CLASSES, OBJECTS, STRIDES, at, build_head, features, places, random_maps

import bucketed_losses.mmdet  # noqa: F401  (registers the head)


def box_of(bbox_preds, place):
    level, _, y, x = place
    dx, dy, w, h = at(bbox_preds, *place)
    center = torch.stack([x + dx, y + dy]) * STRIDES[level]
    half = torch.stack([w, h]).exp() * STRIDES[level] / 2
    return torch.cat([center - half, center + half])


def assigned(head, cls_scores, bbox_preds, objectnesses):
    """The index of the object of each assigned place, by MMDetection's SimOTA on probabilities computed here."""
    found = {}
    # The bias that a branch starts with counts as a probability of 0.01.
    shift = math.log(0.01 / 0.99) - math.log(math.sqrt(0.5) / (1 - math.sqrt(0.5)))
    for image, objects in enumerate(OBJECTS):
        own = [place for place in places(cls_scores) if place[1] == image]
        priors, scores = [], []
        for level, _, y, x in own:
            stride = STRIDES[level]
            priors.append([(x + 0.5) * stride, (y + 0.5) * stride, stride, stride])
            classes, objectness = (at(maps, level, image, y, x).detach() + shift for maps in (cls_scores, objectnesses))
            scores.append((classes.sigmoid() * objectness.sigmoid()).sqrt())
        boxes = torch.stack([box_of(bbox_preds, place).detach() for place in own])
        predictions = InstanceData(priors=torch.tensor(priors), scores=torch.stack(scores), bboxes=boxes)
        indices = head.assigner.assign(predictions, objects).gt_inds.tolist()
        found.update({place: index - 1 for place, index in zip(own, indices, strict=True) if index > 0})
    return found


def outputs_of(head):
    cls_scores, bbox_preds, objectnesses = head(features(head))
    return random_maps(cls_scores), random_maps(bbox_preds, 0.7, seed=3), random_maps(objectnesses, seed=4)


@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
@pytest.mark.parametrize('use_l1', [False, True])
def test_losses_equal_a_slow_computation(use_l1, loss):
    head = build_head('RankBasedYOLOXHead', loss)
    head.use_l1 = use_l1
    cls_scores, bbox_preds, objectnesses = outputs_of(head)
    losses = head.loss_by_feat(cls_scores, bbox_preds, objectnesses, OBJECTS, METAS)

    found = assigned(head, cls_scores, bbox_preds, objectnesses)
    entries, boxes = [], []
    for place in places(cls_scores):
        level, image, y, x = place
        classes, objectness = at(cls_scores, *place), at(objectnesses, *place)
        probabilities = classes.sigmoid() * objectness.sigmoid()
        logits = (probabilities / (1 - probabilities)).log()
        iou, label = None, NUM_CLASSES
        if place in found:
            target = OBJECTS[image].bboxes[found[place]]
            label = int(OBJECTS[image].labels[found[place]])
            _, iou = giou(box_of(bbox_preds, place), target)
            parts = {'loss_bbox': 5.0 * (1 - iou**2)}
            if use_l1:
                center, size = (
                    (target[:2] + target[2:]) / 2 / STRIDES[level],
                    (target[2:] - target[:2]) / STRIDES[level],
                )
                encoded = torch.cat([center - torch.tensor([x, y]), size.log()])
                parts['loss_l1'] = (at(bbox_preds, *place) - encoded).abs().sum()
            boxes.append((probabilities.detach().max(), parts))
        entries += entries_of(logits, label, iou)
    assert len(boxes) > 4
    assert_equal_losses(losses, [*cls_scores, *bbox_preds, *objectnesses], *combined_losses(loss, entries, [boxes]))


def test_the_assigner_gets_what_the_stock_head_would_give_it(monkeypatch):
    """At the start, the scores that SimOTA reads are those of a fresh stock head."""
    seen = []
    head = build_head('RankBasedYOLOXHead')
    stock = YOLOXHead(NUM_CLASSES, 8, feat_channels=8, stacked_convs=1, strides=STRIDES, train_cfg=head.train_cfg)
    stock.init_weights()
    for module in (head, stock):

        def assign(pred_instances, gt_instances, *args, assigner=module.assigner, **kwargs):
            seen.append(pred_instances)
            return type(assigner).assign(assigner, pred_instances, gt_instances)

        monkeypatch.setattr(module.assigner, 'assign', assign)
        module.loss_by_feat(*module(features(head)), OBJECTS, METAS)
    for ours, theirs in zip(seen[:2], seen[2:], strict=True):
        torch.testing.assert_close(ours.priors, theirs.priors)
        assert ours.scores.mean().item() == pytest.approx(theirs.scores.mean().item(), rel=0.3)
        assert theirs.scores.mean().item() == pytest.approx(0.01, rel=0.3)


def test_scores_that_round_to_0_give_finite_losses():
    head = build_head('RankBasedYOLOXHead', 'BucketedRSLoss')
    head.use_l1 = True
    cls_scores, bbox_preds, objectnesses = outputs_of(head)
    maps = [level.detach() - 200 for level in cls_scores], bbox_preds, objectnesses
    losses = head.loss_by_feat(*maps, OBJECTS, METAS)
    assert all(value.isfinite() for value in losses.values()), losses


@pytest.mark.parametrize(('limits', 'before', 'after'), [({}, 1000, 300), (dict(nms_pre=50, max_per_img=7), 50, 7)])
def test_the_best_boxes_are_detected(limits, before, after):
    """Nearly all ranking scores are above score_thr, which alone limits the detections of YOLOXHead."""
    head = build_head('RankBasedYOLOXHead')
    head.test_cfg = ConfigDict(score_thr=0.01, nms=dict(type='nms', iou_threshold=0.65), **limits)
    corners = torch.arange(1500.0)[:, None] * 10  # they do not overlap
    scores = torch.linspace(0.1, 0.9, 1500)[torch.randperm(1500, generator=torch.Generator().manual_seed(0))]
    meta = dict(scale_factor=(1.0, 1.0))
    for with_nms, number in ((True, after), (False, before)):
        boxes = InstanceData(
            bboxes=corners + torch.tensor([0.0, 0, 5, 5]), scores=scores, labels=torch.zeros(1500, dtype=torch.long)
        )
        found = head._bbox_post_process(boxes, head.test_cfg, rescale=True, with_nms=with_nms, img_meta=meta)
        assert len(found) == number
        torch.testing.assert_close(
            found.scores.sort(descending=True).values, scores.sort(descending=True).values[:number]
        )
