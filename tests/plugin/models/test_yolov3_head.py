"""YOLOv3: the logit of class times confidence is ranked; the losses of centres and sizes stay."""

from __future__ import annotations

import pytest
import torch
from head_reference import assert_equal_losses, combined_losses, entries_of, giou

pytest.importorskip('mmdet')

from mmengine.config import Config
from small_anchor_heads import METAS
from small_dense_heads import HEAD_CONFIGS, NUM_CLASSES, OBJECTS, STRIDES, build_head, features, random_maps

import bucketed_losses.mmdet  # noqa: F401  (registers the head)

SIZES = HEAD_CONFIGS['RankBasedYOLOV3Head']['anchor_generator']['base_sizes']


def predictions_of(maps):
    """Level, image, y, x, the anchor's index and its prediction, in the order of MMDetection's targets per level."""
    for level, values in enumerate(maps):
        for image in range(values.size(0)):
            for y in range(values.size(2)):
                for x in range(values.size(3)):
                    for index, prediction in enumerate(values[image, :, y, x].reshape(len(SIZES[level]), -1)):
                        yield (level, image, y, x, index), prediction


def is_in_cell(place, box):
    level, _, y, x, _ = place
    center = (box[:2] + box[2:]) / 2 / STRIDES[level]
    return (int(center[0]), int(center[1])) == (x, y)


def box_of(place, prediction):
    level, _, y, x, index = place
    center = (torch.tensor([x, y]) + prediction[:2].sigmoid()) * STRIDES[level]
    half = torch.tensor(SIZES[level][index]) * prediction[2:4].exp() / 2
    return torch.cat([center - half, center + half])


@pytest.mark.parametrize('loss', ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss'])
def test_losses_equal_a_slow_computation(loss):
    head = build_head('RankBasedYOLOV3Head', loss)
    (maps,) = head(features(head))
    maps = random_maps(maps, 0.7)
    losses = head.loss_by_feat(tuple(maps), OBJECTS, METAS)

    sizes = [level.shape[-2:] for level in maps]
    levels = head.prior_generator.grid_priors(sizes, device='cpu')
    flags = [head.responsible_flags(sizes, image.bboxes, 'cpu') for image in OBJECTS]
    targets, negatives = head.get_targets([levels] * 2, flags, OBJECTS)
    targets, negatives = (torch.cat([level.flatten(0, 1) for level in part]) for part in (targets, negatives))
    entries, boxes, ignored = [], [], 0
    for (place, prediction), encoded, negative in zip(predictions_of(maps), targets, negatives, strict=True):
        p = prediction[5:].sigmoid() * prediction[4].sigmoid()
        logits = (p / (1 - p)).log()
        iou, label = None, NUM_CLASSES
        if encoded[4] > 0:
            label = int(encoded[5:].argmax())
            level, image, y, x, index = place
            candidates = [
                box
                for box, own in zip(OBJECTS[image].bboxes, OBJECTS[image].labels, strict=True)
                if is_in_cell(place, box) and own == label
            ]
            assert len(candidates) == 1
            box = candidates[0]
            size, center = box[2:] - box[:2], (box[:2] + box[2:]) / 2 / STRIDES[level] - torch.tensor([x, y])
            _, iou = giou(box_of(place, prediction), box)
            xy = prediction[:2]
            loss_xy = -(center * xy.sigmoid().log() + (1 - center) * (-xy).sigmoid().log()).sum()
            loss_wh = ((prediction[2:4] - (size / torch.tensor(SIZES[level][index])).log()) ** 2).sum()
            boxes.append((p.detach().max(), {'loss_xy': 2.0 * loss_xy, 'loss_wh': 3.0 * loss_wh}))
        is_ignored = label == NUM_CLASSES and negative == 0
        ignored += is_ignored
        entries += entries_of(logits, label, iou, range(NUM_CLASSES) if is_ignored else ())
    assert len(boxes) >= 5 and ignored > 3
    assert_equal_losses(losses, maps, *combined_losses(loss, entries, [boxes]))


def test_alrp_adds_the_giou_errors_and_its_box_loss():
    head = build_head('RankBasedYOLOV3Head', 'aLRPLoss')
    losses = head.loss_by_feat(*head(features(head)), OBJECTS, METAS)
    assert set(losses) == {'loss_cls', 'loss_bbox', 'loss_xy', 'loss_wh'}
    assert all(value > 0 for value in losses.values())


def test_biases_of_boxes_stay():
    head = build_head('RankBasedYOLOV3Head')
    for layer in head.convs_pred:
        bias = layer.bias.view(2, -1)
        assert bias[:, 4:].eq(bias[0, 4]).all() and bias[0, 4] > 0.8
        assert bias[:, :4].eq(0).all()


def test_detections_are_chosen_by_the_score_that_is_ranked():
    head = build_head('RankBasedYOLOV3Head', 'BucketedRSLoss')
    (maps,) = head(features(head))
    maps = [level.detach() for level in random_maps(maps, 1.5)]
    before = [level.clone() for level in maps]
    thresholds = dict(conf_thr=0.6, score_thr=0.3, nms_pre=20)
    found = head.predict_by_feat(maps, METAS, Config(thresholds), with_nms=False)
    assert all(torch.equal(level, old) for level, old in zip(maps, before, strict=True))
    for image, results in enumerate(found):
        scores = torch.cat(
            [
                prediction[5:].sigmoid() * prediction[4].sigmoid()
                for place, prediction in predictions_of(maps)
                if place[1] == image
            ]
        )
        expected = scores[scores > 0.3].sort(descending=True).values[:20]
        assert len(expected) == 20
        torch.testing.assert_close(results.scores.sort(descending=True).values, expected)


def test_scores_that_round_to_0_give_finite_losses():
    head = build_head('RankBasedYOLOV3Head', 'BucketedRSLoss')
    (maps,) = head(features(head))
    lower = torch.zeros(5 + NUM_CLASSES).index_fill(0, torch.arange(4, 5 + NUM_CLASSES), -200.0)
    maps = ([level + lower.repeat(level.size(1) // len(lower)).view(1, -1, 1, 1) for level in maps],)
    losses = head.loss_by_feat(*maps, OBJECTS, METAS)
    assert all(value.isfinite() for value in losses.values()), losses
