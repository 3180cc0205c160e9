"""The registered losses: MMDetection's interface around the functions."""

from __future__ import annotations

import pytest
import torch
from cases import REGISTERED

pytest.importorskip('mmdet')

from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData
from synchronisations import CountSynchronisations

from bucketed_losses import functional as F
from bucketed_losses.core import devices
from bucketed_losses.mmdet.models.losses import (
    APLoss,
    ImageRows,
    PositiveBoxes,
    ranking_and_box_losses,
    score_weighted_box_loss,
    self_balance,
)
from bucketed_losses.mmdet.models.losses.ranking_losses import entry_targets

EACH = pytest.mark.parametrize('name', sorted(REGISTERED))


def example(num=60, num_classes=4):
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(num, num_classes, generator=generator)
    labels = torch.randint(0, num_classes + 1, (num,), generator=generator)
    ious = torch.rand(num, generator=generator)
    return pred, labels, ious


@EACH
def test_is_the_function_on_one_target_per_entry(name):
    pred, labels, ious = example()
    weight = torch.ones(60)
    weight[5:10] = 0
    targets = torch.zeros(60, 4)
    for row in range(60):
        if labels[row] < 4:
            targets[row, labels[row]] = ious[row]
        if weight[row] == 0:
            targets[row] = -1
    loss = MODELS.build(dict(type=name, delta=0.7, loss_weight=2.0))
    result = loss(pred, (labels, ious), weight=weight, avg_factor=123.0)
    expected = REGISTERED[name](pred, targets, 0.7)
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert list(result) == ['loss_rank', 'loss_sort'][: len(expected)]
    for got, value in zip(result.values(), expected, strict=True):
        torch.testing.assert_close(got, 2 * value)


def test_interpolated_ap_loss():
    pred, labels, ious = example()
    targets = entry_targets(pred, labels, ious, None)
    loss = MODELS.build(dict(type='APLoss', delta=0.7, interpolated=True))
    assert loss(pred, (labels, ious))['loss_rank'] == F.ap_loss(pred, targets, 0.7, interpolated=True)
    assert loss(pred, (labels, ious)) != MODELS.build(dict(type='APLoss', delta=0.7))(pred, (labels, ious))
    assert 'interpolated=True' in repr(loss)
    with pytest.raises(TypeError, match='interpolated'):
        MODELS.build(dict(type='BucketedAPLoss', interpolated=True))


@EACH
def test_labels_alone_mean_iou_one(name):
    pred, labels, _ = example()
    loss = MODELS.build(dict(type=name))
    alone, explicit = loss(pred, labels), loss(pred, (labels, torch.ones(60)))
    assert alone == explicit
    assert alone.get('loss_sort', 0) == 0


@EACH
def test_weights_of_single_entries(name):
    pred, labels, ious = example()
    weight = torch.ones(60, 4)
    weight[:, 0] = 0
    loss = MODELS.build(dict(type=name))
    pred.requires_grad_()
    sum(loss(pred, (labels, ious), weight).values()).backward()
    assert pred.grad[:, 0].eq(0).all() and pred.grad[:, 1:].abs().sum() > 0


def test_a_positive_with_iou_zero_stays_positive():
    targets = entry_targets(torch.zeros(2, 3), torch.tensor([1, 3]), torch.tensor([0.0, 0.9]), None)
    assert targets[0, 1] > 0 and targets[0, [0, 2]].eq(0).all() and targets[1].eq(0).all()


@EACH
def test_defaults(name):
    loss = MODELS.build(dict(type=name))
    assert loss.delta == (0.5 if 'RS' in name else 1.0)
    assert loss.self_balancing == ('RS' in name)
    assert MODELS.build(dict(type=name, self_balancing=False)).self_balancing is False
    assert f'delta={loss.delta}' in repr(loss)


@EACH
@pytest.mark.parametrize('reduction', ['mean', 'sum', None])
def test_reductions_that_mean_nothing_are_accepted(name, reduction):
    pred, labels, ious = example()
    loss = MODELS.build(dict(type=name))
    assert loss(pred, (labels, ious), reduction_override=reduction) == loss(pred, (labels, ious))


@EACH
@pytest.mark.parametrize(
    ('change', 'error', 'words'),
    [
        (dict(reduction_override='none'), ValueError, ['reduction_override', "'none'"]),
        (dict(pred=torch.zeros(60)), ValueError, ['pred', '(n, num_classes)', '(60,)']),
        (dict(target=torch.zeros(59, dtype=torch.long)), ValueError, ['labels', '(60,)', '(59,)']),
        (dict(target=torch.full((60,), 5)), ValueError, ['labels', '[0, 4]', '5', 'background']),
        (dict(target=torch.full((60,), -1)), ValueError, ['labels', '[0, 4]', '-1']),
        (dict(target=torch.zeros(60)), TypeError, ['labels', 'integer', 'float32']),
        (dict(target=(torch.zeros(60, dtype=torch.long), torch.zeros(3))), ValueError, ['ious', '(60,)', '(3,)']),
        (dict(weight=torch.ones(3)), ValueError, ['weight', '(60,)', '(3,)']),
    ],
)
def test_bad_input_is_named(name, change, error, words):
    pred, labels, ious = example()
    arguments = {'pred': pred, 'target': (labels, ious), **change}
    with pytest.raises(error) as caught:
        MODELS.build(dict(type=name))(**arguments)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize('name', [*sorted(REGISTERED), 'aLRPLoss'])
@pytest.mark.parametrize(
    ('positive', 'words'),
    [
        ([0, 1], r'rows whose label is a class, in \[0, 2\), got background in 1 of 2 rows, first in row 1'),
        ([1, 2], r'rows whose label is a class, in \[0, 2\), got background in 2 of 2 rows, first in row 1'),
        ([0, 3], r'rows of pred, in \[0, 3\), got 0 to 3'),
        ([-1], r'rows of pred, in \[0, 3\), got -1 to -1'),
    ],
)
def test_rows_that_are_not_positive_are_named(name, positive, words):
    pred, labels, rows = torch.tensor([[0.0, 1], [2, 3], [4, 5]]), torch.tensor([1, 2, 2]), torch.tensor(positive)
    given = dict(box_losses=torch.ones(len(positive))) if name == 'aLRPLoss' else {}
    for scope in ('batch', 'image'):
        loss = MODELS.build(dict(type=name, scope=scope))
        with pytest.raises(ValueError, match=f'positive must be {words}'):
            loss(pred, labels, positive=rows, images=ImageRows(torch.tensor([0, 0, 1]), 2), **given)


@EACH
def test_softmax_is_refused(name):
    with pytest.raises(ValueError, match='use_sigmoid must be True'):
        MODELS.build(dict(type=name, use_sigmoid=False))


def bbox_head(name):
    """A stock head of MMDetection; only its loss_cls line differs from the default."""
    return MODELS.build(
        dict(
            type='Shared2FCBBoxHead',
            in_channels=4,
            fc_out_channels=16,
            roi_feat_size=3,
            num_classes=5,
            loss_cls=dict(type=name),
        )
    )


@pytest.mark.parametrize('name', ['APLoss', 'BucketedAPLoss'])
def test_stock_bbox_head_trains_and_predicts(name):
    from mmdet.models.task_modules import SamplingResult

    torch.manual_seed(0)
    head = bbox_head(name)
    head.init_weights()
    assert head.fc_cls.out_features == 5
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5)
    feats = torch.randn(24, 4, 3, 3)
    boxes = torch.tensor([[10.0, 10.0, 30.0, 40.0]]).repeat(24, 1) + torch.randint(0, 8, (24, 1))
    gts = boxes[:6] + 2
    sampling = SamplingResult(
        pos_inds=torch.arange(6),
        neg_inds=torch.arange(6, 24),
        priors=boxes,
        gt_bboxes=gts,
        assign_result=InstanceData(gt_inds=torch.arange(1, 7), labels=torch.arange(6) % 5),
        gt_flags=torch.zeros(24, dtype=torch.uint8),
    )
    rcnn_train_cfg = MODELS.build(dict(type='APLoss')) and type('Cfg', (), {'pos_weight': -1})()
    history = []
    for _ in range(30):
        cls_score, bbox_pred = head(feats)
        assert cls_score.shape == (24, 5)
        losses = head.loss_and_target(cls_score, bbox_pred, bbox2roi([boxes]), [sampling], rcnn_train_cfg)['loss_bbox']
        assert set(losses) == {'loss_rank', 'loss_bbox', 'acc_classes'}
        optimizer.zero_grad()
        sum(value for key, value in losses.items() if 'loss' in key).backward()
        assert all(p.grad is not None for p in head.parameters())
        optimizer.step()
        history.append(losses['loss_rank'].item())
    assert history[-1] < 0.2 * history[0]

    cls_score, bbox_pred = head(feats)
    (result,) = head.predict_by_feat(
        (bbox2roi([boxes]),),
        (cls_score,),
        (bbox_pred,),
        [dict(img_shape=(64, 64), scale_factor=(1.0, 1.0))],
        rcnn_test_cfg=type(
            'Cfg', (dict,), {'score_thr': 0.0, 'nms': dict(type='nms', iou_threshold=0.5), 'max_per_img': 10}
        )(score_thr=0.0),
    )
    assert len(result) > 0 and result.labels.max() < 5


def test_activation_has_a_background_column_that_never_wins():
    loss = MODELS.build(dict(type='BucketedRSLoss'))
    logits = torch.randn(7, 3)
    scores = loss.get_activation(logits)
    torch.testing.assert_close(scores[:, :3], logits.sigmoid())
    assert scores[:, 3].eq(0).all()


def test_accuracy_of_positives():
    loss = MODELS.build(dict(type='APLoss'))
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert loss.get_accuracy(logits, torch.tensor([0, 0, 2]))['acc_classes'].item() == 50
    assert loss.get_accuracy(logits, torch.tensor([2, 2, 2]))['acc_classes'].item() == 0


def test_score_weighted_box_loss():
    loss = MODELS.build(dict(type='L1Loss', loss_weight=2.0))
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2]], requires_grad=True)
    logits = torch.tensor([[0.0, -1.0], [-2.0, 3.0]], requires_grad=True)
    weights = torch.tensor([0.0, 3.0]).sigmoid()
    # L1Loss wants weights per coordinate; a per-box loss as GIoU takes them as they are.
    giou = MODELS.build(dict(type='GIoULoss', loss_weight=2.0))
    target = torch.tensor([[0.0, 0, 1, 2], [0, 0, 2, 4]])
    value = score_weighted_box_loss(giou, boxes, target, logits)
    each = giou(boxes, target, reduction_override='none') / 2 * 2
    torch.testing.assert_close(value, (weights * each).sum() / weights.sum())
    value.backward()
    assert logits.grad is None
    empty = score_weighted_box_loss(loss, boxes[:0], target[:0], logits[:0])
    assert empty == 0 and empty.requires_grad


def test_self_balance():
    box_loss = torch.tensor(0.3, requires_grad=True)
    ranking = {'loss_rank': torch.tensor(0.5, requires_grad=True), 'loss_sort': torch.tensor(0.1, requires_grad=True)}
    balanced = self_balance(box_loss, ranking.values())
    torch.testing.assert_close(balanced, torch.tensor(0.6))
    balanced.backward()
    torch.testing.assert_close(box_loss.grad, torch.tensor(2.0))
    assert ranking['loss_rank'].grad is None
    assert self_balance(torch.tensor(0.0), ranking.values()) == 0
    assert self_balance(torch.tensor(float('nan')), ranking.values()).isnan()


@EACH
def test_heads_wait_for_the_device_once(name, monkeypatch):
    """For their positives, and for nothing else.

    However many images, levels and classes there are; the ranking loss reuses the positives.
    """
    generator = torch.Generator().manual_seed(0)
    num, classes = 500, 7
    corners = torch.rand(num, 2, generator=generator) * 50
    boxes = torch.cat([corners, corners + 10 + torch.rand(num, 2, generator=generator) * 20], dim=1)
    labels = torch.randint(0, classes, (num,), generator=generator)
    labels[30:] = classes
    weights = torch.ones(num)
    weights[-20:] = 0
    logits = torch.randn(num, classes, generator=generator, requires_grad=True)
    deltas = torch.zeros(num, 4, requires_grad=True)
    loss_cls = dict(type=name)
    anchors = dict(type='AnchorGenerator', strides=[8], ratios=[1.0], octave_base_scale=4, scales_per_octave=1)
    dense = MODELS.build(
        dict(
            type='RankBasedATSSHead', num_classes=classes, in_channels=8, feat_channels=32, loss_cls=loss_cls,
            anchor_generator=anchors, loss_bbox=dict(type='GIoULoss'),
        )
    )  # fmt: skip
    box_head = MODELS.build(
        dict(
            type='RankBasedShared2FCBBoxHead', in_channels=8, roi_feat_size=7, num_classes=classes,
            reg_class_agnostic=True, loss_cls=loss_cls, loss_bbox=dict(type='GIoULoss'), reg_decoded_bbox=True,
        )
    )  # fmt: skip
    rois = torch.cat([torch.zeros(num, 1), boxes], dim=1)
    calls = {
        'dense': lambda: dense.ranking_losses(logits, deltas, boxes, labels, weights, boxes + 1),
        'R-CNN': lambda: box_head.loss(logits, deltas, rois, labels, weights, boxes + 1, None),
    }
    monkeypatch.setattr(devices, 'on_cpu', lambda tensor: False)
    for head, call in calls.items():
        call()
        with CountSynchronisations() as mode:
            losses = call()
            sum(value for key, value in losses.items() if 'loss' in key).backward()
        assert mode.count == 1, head


LOSSES_WITH_BOXES = ['APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss', 'aLRPLoss', 'DRLoss']


def boxes_of_two_positives():
    """Two predicted boxes and their ground truth, one pixel away."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 4, 12, 14]], requires_grad=True)
    targets = torch.tensor([[1.0, 0, 11, 10], [4, 5, 12, 15]])
    return boxes, targets


@pytest.mark.parametrize('name', LOSSES_WITH_BOXES)
def test_a_loss_names_the_parts_that_it_logs(name):
    loss = MODELS.build(dict(type=name))
    boxes, targets = boxes_of_two_positives()
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 2, 3, 3, 3])
    given = dict(box_losses=torch.rand(2)) if name == 'aLRPLoss' else {}
    target = labels if given else (labels, torch.full((5,), 0.5))
    parts = loss(logits, target, positive=torch.arange(2), **given)
    assert tuple(parts) == loss.LOG_NAMES
    positives = PositiveBoxes(
        MODELS.build(dict(type='GIoULoss')), boxes, targets, logits[:2], {'loss_other': boxes.sum()}
    )
    combined = loss.losses_with_boxes(logits, labels, torch.ones(5), torch.arange(2), positives)
    assert set(combined) == {*loss.LOG_NAMES, 'loss_bbox', 'loss_other'}


def test_a_loss_may_combine_boxes_in_its_own_way():
    """Heads ask the loss; they do not look at its class."""

    class Unweighted(APLoss):
        """The mean box error is its only box loss."""

        def losses_with_boxes(self, pred, labels, weight, positive, boxes, images=None):
            return {**self(pred, labels, weight, positive=positive), 'loss_error': boxes.errors().mean()}

    boxes, targets = boxes_of_two_positives()
    loss_bbox = MODELS.build(dict(type='GIoULoss', loss_weight=7.0))
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 3, 3, 3])
    losses = ranking_and_box_losses(
        Unweighted(), loss_bbox, logits, labels, torch.ones(5), torch.arange(2), boxes, targets
    )
    assert set(losses) == {'loss_rank', 'loss_error'}
    expected = MODELS.build(dict(type='GIoULoss'))(boxes, targets)
    assert losses['loss_error'].item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize('num', [0, 2])
def test_errors_of_boxes_need_a_weight_of_the_box_loss(num):
    boxes, targets = (part[:num] for part in boxes_of_two_positives())
    positives = PositiveBoxes(MODELS.build(dict(type='GIoULoss', loss_weight=0.0)), boxes, targets, torch.zeros(num, 3))
    labels = torch.tensor([0, 2, 3, 3, 3]) if num else torch.full((5,), 3)
    arguments = torch.randn(5, 3), labels, torch.ones(5), torch.arange(num), positives
    with pytest.raises(ValueError, match=r'loss_weight of the loss of boxes or masks must not be 0, got 0\.0'):
        MODELS.build(dict(type='aLRPLoss')).losses_with_boxes(*arguments)
    assert MODELS.build(dict(type='RSLoss')).losses_with_boxes(*arguments)['loss_bbox'] == 0


@pytest.mark.parametrize('name', LOSSES_WITH_BOXES)
def test_scope_image_of_a_batch_without_images(name):
    """It is the loss of no rows, and connected; rows that belong to no image are an error."""
    loss = MODELS.build(dict(type=name, scope='image'))
    pred = torch.zeros(0, 3, requires_grad=True)
    labels, none = torch.zeros(0).long(), ImageRows(torch.zeros(0).long(), 0)
    given = dict(positive=labels, box_losses=pred.sum(dim=1)) if name == 'aLRPLoss' else {}
    losses = loss(pred, labels, images=none, **given)
    assert losses == MODELS.build(dict(type=name))(pred, labels, **given)
    assert set(losses) == set(loss.LOG_NAMES) and (name == 'DRLoss' or not any(losses.values()))
    sum(losses.values()).backward()
    assert pred.grad is not None
    pred, labels = torch.zeros(2, 3), torch.tensor([0, 3])
    given = dict(positive=torch.tensor([0]), box_losses=torch.ones(1)) if given else {}
    with pytest.raises(ValueError, match=rf'{name}: .* got 2 rows of pred and ImageRows with num_images=0'):
        loss(pred, labels, images=ImageRows(torch.zeros(2).long(), 0), **given)
