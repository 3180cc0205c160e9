"""YOLOF: anchors are matched by distance; the logit of class times objectness is ranked."""

from __future__ import annotations

import pytest
import torch
from head_reference import assert_equal_losses, combined_losses, entries_of, giou

pytest.importorskip('mmdet')

from small_anchor_heads import METAS
from small_dense_heads import NUM_CLASSES, build_head, features, objects, random_maps

import bucketed_losses.mmdet  # noqa: F401  (registers the head)

STRIDE, SCALES, SIDE = 8, (1, 2, 4), 8
# Centres that are not equally far from two anchors.
OBJECTS = objects(
    ([[3, 5, 41, 46], [29, 9, 61, 52]], [0, 2]), ([[19, 22, 63, 62], [1, 3, 20, 23], [11, 31, 32, 63]], [1, 1, 0])
)


def anchors_of_image():
    """Centre and size of the anchors, and the place of their predictions: y, x and index at the location."""
    for y in range(SIDE):
        for x in range(SIDE):
            for index, scale in enumerate(SCALES):
                yield (y, x, index), torch.tensor([x * STRIDE, y * STRIDE, scale * STRIDE, scale * STRIDE]).float()


def corners(box):
    return torch.cat([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])


def decode(anchor, delta):
    """Centre and size; a centre moves by at most 32 pixels."""
    center = anchor[:2] + (delta[:2] * anchor[2:]).clamp(-32, 32)
    return torch.cat([center, anchor[2:] * delta[2:].exp()])


def assign(anchors, boxes, gts, assigner):
    """The index of an object, -1 for ignored and None for background, of each anchor (YOLOF paper, section 4.2)."""
    found = [None] * len(anchors)
    for row, box in enumerate(boxes):
        if max(giou(corners(box), gt)[1] for gt in gts) > assigner.neg_ignore_thr:
            found[row] = -1
    nearest = []
    for gt in gts:
        target = torch.cat([(gt[:2] + gt[2:]) / 2, gt[2:] - gt[:2]])
        for candidates in (boxes, anchors):
            order = sorted(range(len(anchors)), key=lambda row: (candidates[row] - target).abs().sum().item())
            nearest.append(order[: assigner.match_times])
    for rank in range(assigner.match_times):  # if an anchor is matched twice, the last match counts
        for kind in (0, 1):
            for index, gt in enumerate(gts):
                row = nearest[2 * index + kind][rank]
                found[row] = index if giou(corners(anchors[row]), gt)[1] >= assigner.pos_ignore_thr else -1
    return found


@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
def test_losses_equal_a_slow_computation(loss):
    head = build_head('RankBasedYOLOFHead', loss)
    cls_scores, bbox_preds = head(features(head))
    cls_scores, bbox_preds = random_maps(cls_scores), random_maps(bbox_preds, 0.5, seed=3)
    losses = head.loss_by_feat(cls_scores, bbox_preds, OBJECTS, METAS)

    entries, box_losses, ignored = [], [], 0
    for image, gts in enumerate(OBJECTS):
        where, anchors = zip(*anchors_of_image(), strict=True)
        boxes = [
            decode(anchor, bbox_preds[0][image, 4 * index : 4 * index + 4, y, x])
            for (y, x, index), anchor in zip(where, anchors, strict=True)
        ]
        found = assign(anchors, [box.detach() for box in boxes], gts.bboxes, head.assigner)
        for (y, x, index), box, match in zip(where, boxes, found, strict=True):
            scores = cls_scores[0][image, NUM_CLASSES * index : NUM_CLASSES * (index + 1), y, x]
            iou, label = None, NUM_CLASSES
            if match is not None and match >= 0:
                loss_giou, iou = giou(corners(box), gts.bboxes[match])
                label = int(gts.labels[match])
                box_losses.append((scores.detach().sigmoid().max(), {'loss_bbox': 2.0 * loss_giou}))
            ignored += match == -1
            entries += entries_of(scores, label, iou, range(NUM_CLASSES) if match == -1 else ())
    assert len(box_losses) > 8 and ignored > 3
    assert_equal_losses(losses, [*cls_scores, *bbox_preds], *combined_losses(loss, entries, [box_losses]))


def test_the_logit_of_the_product_of_both_branches_is_ranked():
    head = build_head('RankBasedYOLOFHead').eval()
    (x,) = features(head)
    (logits,), _ = head((x,))
    classes = head.cls_score(head.cls_subnet(x)).reshape(2, 3, NUM_CLASSES, SIDE, SIDE)
    objectness = head.object_pred(head.bbox_subnet(x)).reshape(2, 3, 1, SIDE, SIDE)
    torch.testing.assert_close(logits.sigmoid().view_as(classes), classes.sigmoid() * objectness.sigmoid())
    assert (logits.sigmoid() - 0.5).abs().max() < 0.1
