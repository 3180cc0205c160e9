"""aLRP and DR Loss in MMDetection's registry and in the heads, against loops; aLRP's self-balancing weight."""

from __future__ import annotations

import pytest
import torch
from head_reference import decode, giou

pytest.importorskip('mmdet')

from alrp_dr_reference import loop_alrp, loop_dr
from mmdet.registry import MODELS
from mmengine.logging import MessageHub
from small_anchor_heads import METAS, build_head, features, instances, loss_of, objects_for, predictions_of
from synchronisations import CountSynchronisations

from bucketed_losses.core import devices
from bucketed_losses.mmdet.evaluation import watch_ranking_losses
from bucketed_losses.mmdet.models.losses import ImageRows, aLRPLoss

HEADS = pytest.mark.parametrize('head_type', ['RankBasedATSSHead', 'RankBasedRetinaHead', 'RankBasedRPNHead'])


@pytest.fixture(autouse=True)
def no_epoch():
    """As outside a training by MMEngine."""
    MessageHub._instance_dict.clear()
    yield
    MessageHub._instance_dict.clear()


def outputs(head, seed=2):
    generator = torch.Generator().manual_seed(seed)
    maps = head(features(4))
    return [[torch.randn(x.shape, generator=generator).requires_grad_() for x in level] for level in maps]


def flat(predictions):
    """Logits, targets and GIoU losses, entry by entry."""
    logits, targets, boxes = [], [], []
    for p in predictions:
        positive = p.label < len(p.scores) and not p.ignored
        if positive:
            boxes.append((p.scores.detach().sigmoid().max(), giou(decode(p.prior, p.delta), p.target)[0]))
        for c, logit in enumerate(p.scores):
            logits.append(logit)
            targets.append(-1.0 if p.ignored else 1.0 if positive and c == p.label else 0.0)
    return logits, targets, boxes


def named(head_type, losses):
    if head_type != 'RankBasedRPNHead':
        return losses
    return {key.replace('loss_', 'loss_rpn_'): 0.2 * value for key, value in losses.items()}


@HEADS
def test_alrp_in_heads_equals_loops(head_type):
    head = build_head('aLRPLoss', head_type)
    cls_scores, bbox_preds = outputs(head)
    losses = head.loss_by_feat(cls_scores, bbox_preds, objects_for(head), METAS)
    grads = torch.autograd.grad(sum(losses.values()), cls_scores + bbox_preds)

    logits, targets, boxes = flat(predictions_of(head, cls_scores, bbox_preds))
    errors = [loss for _, loss in boxes]
    values = [float(x.detach()) for x in logits]
    classification, localization, grad, error_grad = loop_alrp(
        values, targets, [float(e.detach()) for e in errors], 1.0
    )
    expected = named(head_type, {'loss_cls': classification, 'loss_bbox': 50 * localization})
    assert set(losses) == set(expected)
    for key, value in expected.items():
        assert value > 0 and losses[key].item() == pytest.approx(value, rel=1e-4)
    total = sum(g * x for g, x in zip(grad, logits, strict=True) if g) + 50 * sum(
        g * e for g, e in zip(error_grad, errors, strict=True)
    )
    factor = 0.2 if head_type == 'RankBasedRPNHead' else 1.0
    wanted = torch.autograd.grad(factor * total, cls_scores + bbox_preds, materialize_grads=True)
    for got, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)


@HEADS
def test_dr_in_heads_equals_its_definition(head_type):
    head = build_head('DRLoss', head_type)
    cls_scores, bbox_preds = outputs(head)
    losses = head.loss_by_feat(cls_scores, bbox_preds, objects_for(head), METAS)
    logits, targets, boxes = flat(predictions_of(head, cls_scores, bbox_preds))
    mean = sum(w * loss for w, loss in boxes) / sum(w for w, _ in boxes)
    expected = named(
        head_type, {'loss_cls': loop_dr([float(x.detach()) for x in logits], targets), 'loss_bbox': 2 * float(mean)}
    )
    assert {key: value.item() for key, value in losses.items()} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('name', ['aLRPLoss', 'DRLoss'])
@HEADS
def test_gradients_reach_everything_and_images_may_be_empty(head_type, name):
    head = build_head(name, head_type)
    sum(loss_of(head).values()).backward()
    assert not [key for key, parameter in head.named_parameters() if parameter.grad is None]
    head.zero_grad()
    losses = loss_of(head, [instances([], [])] * 2)
    sum(losses.values()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())
    if name == 'aLRPLoss':
        assert all(value == 0 for value in losses.values())


@pytest.mark.parametrize('scope', ['batch', 'image'])
def test_alrp_with_equal_box_weights_has_the_mean_error_of_the_boxes(scope):
    published, equal = (
        build_head(dict(type='aLRPLoss', scope=scope, tau=0.2, **settings))
        for settings in ({}, dict(box_weights='equal'))
    )
    equal.load_state_dict(published.state_dict())
    cls_scores, bbox_preds = outputs(equal)
    losses, usual = (head.loss_by_feat(cls_scores, bbox_preds, objects_for(head), METAS) for head in (equal, published))
    assert losses['loss_cls'] == usual['loss_cls'] and losses['loss_bbox'] != usual['loss_bbox']
    predictions = predictions_of(equal, cls_scores, bbox_preds)  # of one image after those of the other
    half = len(predictions) // 2
    means = []
    for part in [predictions[:half], predictions[half:]] if scope == 'image' else [predictions]:
        errors = [loss / (2 * (1 - 0.2)) for _, loss in flat(part)[2]]
        means.append(sum(errors) / len(errors))
    assert losses['loss_bbox'].item() == pytest.approx(50 * sum(means).item() / len(means), rel=1e-5)


@pytest.mark.parametrize('name', ['aLRPLoss', 'DRLoss'])
def test_scope_image_is_the_mean_over_images(name):
    head, alone = (build_head(dict(type=name, scope=scope)) for scope in ('image', 'batch'))
    cls_scores, bbox_preds = outputs(head)

    def value(module, start, end):
        return module.loss_by_feat(
            [x[start:end] for x in cls_scores],
            [x[start:end] for x in bbox_preds],
            objects_for(head)[start:end],
            METAS[start:end],
        )

    together, first, second = value(head, 0, 2), value(alone, 0, 1), value(alone, 1, 2)
    keys = ['loss_cls'] if name == 'DRLoss' else ['loss_cls', 'loss_bbox']
    for key in keys:
        assert together[key].item() == pytest.approx((first[key].item() + second[key].item()) / 2, rel=1e-5)


def test_box_head_of_faster_rcnn(monkeypatch):
    head = MODELS.build(
        dict(
            type='RankBasedShared2FCBBoxHead',
            in_channels=4,
            fc_out_channels=8,
            roi_feat_size=3,
            num_classes=3,
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
            loss_cls=dict(type='aLRPLoss'),
            loss_bbox=dict(type='GIoULoss', loss_weight=7.0),  # a weight that its errors do not have
        )
    )
    generator = torch.Generator().manual_seed(0)
    rois = torch.tensor([[0, 0, 0, 20, 20], [0, 5, 5, 30, 30], [0, 40, 40, 60, 60], [0, 1, 1, 9, 9]]).float()
    scores = torch.randn(4, 3, generator=generator, requires_grad=True)
    deltas = torch.randn(4, 12, generator=generator, requires_grad=True)
    labels = torch.tensor([1, 2, 3, 3])
    targets = torch.tensor([[2, 2, 22, 21], [4, 6, 28, 33], [0, 0, 0, 0], [0, 0, 0, 0]]).float()
    losses = head.loss(scores, deltas, rois, labels, torch.ones(4), targets, torch.ones(4, 4))
    entries = [1.0 if c == labels[i] else 0.0 for i in range(4) for c in range(3)]
    errors = [
        float(giou(decode(rois[i, 1:], deltas[i, 4 * labels[i] : 4 * labels[i] + 4]), targets[i])[0]) for i in (0, 1)
    ]
    classification, localization, *_ = loop_alrp(scores.flatten().tolist(), entries, errors, 1.0)
    assert losses['loss_cls'].item() == pytest.approx(classification, rel=1e-4)
    assert losses['loss_bbox'].item() == pytest.approx(50 * localization, rel=1e-4)


def call(loss, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(20, 2, generator=generator)
    labels = torch.full((20,), 2)
    labels[:4] = 1
    errors = scale * torch.tensor([0.5, 0.4, 0.3, 0.2])
    return loss(pred, labels, positive=torch.arange(4), box_losses=errors)


def test_the_balance_is_renewed_once_per_epoch_and_kept_in_the_state():
    hub = MessageHub.get_instance('a training')
    loss = aLRPLoss(initial_balance=10.0)
    hub.update_info('epoch', 0)
    first, second = call(loss), call(loss, 0.5)
    assert loss.balance == 10
    localization = [first['loss_bbox'].item() / 10, second['loss_bbox'].item() / 10]
    expected = (2 * first['loss_cls'].item() + sum(localization)) / sum(localization)

    resumed = aLRPLoss()
    resumed.load_state_dict(loss.state_dict())  # killed after two iterations of the first epoch
    for module in (loss, resumed):
        hub.update_info('epoch', 1)
        for _ in range(2):
            assert call(module)['loss_bbox'].item() == pytest.approx(localization[0] * expected, rel=1e-5)
            assert module.balance.item() == pytest.approx(expected, rel=1e-5)
    assert len(loss.state_dict()) == 3
    loss.eval()
    before = loss.sums.clone()
    call(loss)
    assert torch.equal(loss.sums, before)


def test_the_balance_is_renewed_by_iterations_where_there_are_no_epochs():
    hub = MessageHub.get_instance('a training')
    hub.update_info('epoch', 0)
    loss, never = aLRPLoss(initial_balance=10.0, renew_interval=3), aLRPLoss(initial_balance=10.0)
    balances = []
    for iteration in range(7):
        hub.update_info('iter', iteration)
        # Errors that shrink: another balance each time.
        call(never, 1 / (1 + iteration))
        call(loss, 1 / (1 + iteration))
        balances.append(loss.balance.item())
    assert balances[:3] == [10] * 3 and len(set(balances[3:6])) == 1 and len(set(balances)) == 3
    assert never.balance == 10
    with pytest.raises(ValueError, match='renew_interval must be 1 or more iterations, or None, got 0'):
        aLRPLoss(renew_interval=0)


@pytest.mark.parametrize(('scope', 'waits'), [('batch', 1), ('image', 4 * 3)])
def test_how_often_the_host_waits_for_an_accelerator(scope, waits, monkeypatch):
    monkeypatch.setattr(devices, 'on_cpu', lambda tensor: False)
    labels, images = torch.tensor([0, 1, 2] * 4), ImageRows(torch.arange(12) // 4, 3)
    positive = (labels < 2).nonzero().squeeze(1)
    with CountSynchronisations() as mode:
        aLRPLoss(scope=scope)(torch.zeros(12, 2), labels, positive=positive, images=images, box_losses=torch.ones(8))
    assert mode.count == waits


@pytest.mark.parametrize('box_weights', ['ranks', 'equal'])
@pytest.mark.parametrize('what', ['logits', 'boxes'])
def test_batches_that_are_not_finite_do_not_count_in_the_balance(what, box_weights):
    hub = MessageHub.get_instance('a training')
    hub.update_info('epoch', 0)
    loss, expected = (aLRPLoss(initial_balance=10.0, box_weights=box_weights) for _ in range(2))
    for module in (loss, expected):
        call(module)
    if what == 'boxes':
        call(loss, torch.nan)
    else:
        pred = torch.zeros(4, 3)
        pred[2, 1] = torch.nan
        loss(pred, torch.tensor([0, 3, 3, 3]), positive=torch.tensor([0]), box_losses=torch.tensor([0.5]))
    hub.update_info('epoch', 1)
    for module in (loss, expected):
        call(module)
    assert loss.balance != 10 and loss.balance == expected.balance


@pytest.mark.parametrize('name', ['aLRPLoss', 'DRLoss'])
def test_the_losses_can_be_watched(name):
    head, seen = build_head(name), []
    with watch_ranking_losses(head, seen.append):
        losses = loss_of(head)
    (batch,) = seen
    assert (batch.targets > 0).any() and batch.errors['loss_cls'].item() == pytest.approx(losses['loss_cls'].item())


def test_wrong_use_is_named():
    for name, needs in (('aLRPLoss', 'RankBasedATSSHead'), ('DRLoss', 'RankBasedATSSHead')):
        with pytest.raises(ValueError, match=f"ATSSHead cannot train {name}.*use type='{needs}'"):
            build_head(name, 'ATSSHead')
    with pytest.raises(ValueError, match='box loss of every positive'):
        aLRPLoss()(torch.zeros(3, 2), torch.zeros(3).long())
    with pytest.raises(ValueError, match=r"aLRPLoss: reduction_override must be None.*got 'none'"):
        aLRPLoss()(torch.zeros(3, 2), torch.zeros(3).long(), reduction_override='none')
    with pytest.raises(ValueError, match=r'tau must lie in \[0, 1\), got 1'):
        aLRPLoss(tau=1)
    with pytest.raises(ValueError, match="box_weights must be 'ranks' or 'equal', got 'scores'"):
        aLRPLoss(box_weights='scores')
    with pytest.raises(ValueError, match='scope must be one of batch, image'):
        MODELS.build(dict(type='DRLoss', scope='global'))
    with pytest.raises(ValueError, match='use_sigmoid must be True'):
        MODELS.build(dict(type='DRLoss', use_sigmoid=False))
    with pytest.raises(ValueError, match='aLRPLoss or DRLoss'):
        build_head(dict(type='FocalLoss', use_sigmoid=True))
