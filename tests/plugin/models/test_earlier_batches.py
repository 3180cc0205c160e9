"""The memory of the ranking losses: a step is ranked against earlier batches, which are not moved."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from cases import REGISTERED
from gloo import on_processes
from hypothesis import given
from hypothesis import strategies as st
from reference import loop_rs_loss

pytest.importorskip('mmdet')

from config_models import build
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from synchronisations import CountSynchronisations

from bucketed_losses.core import devices
from bucketed_losses.functional import SparseTargets
from bucketed_losses.mmdet.models.losses import BucketedRSLoss, ImageRows, RowSets, RSLoss, earlier_batches
from bucketed_losses.mmdet.models.losses.earlier_batches import EarlierBatches
from bucketed_losses.mmdet.models.losses.ranking_losses import entry_targets

ROOT = Path(__file__).resolve().parents[3]
EACH = pytest.mark.parametrize('name', sorted(REGISTERED))
CONFIGS = [*(dict(type=name) for name in sorted(REGISTERED)), dict(type='APLoss', interpolated=True)]
CLASSES = 3


def batch(seed, num=12, ignored=2, objects=True):
    """Logits, labels, IoUs and weights of ``num`` predictions; the last ones are ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num, CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, CLASSES + 1, (num,), generator=generator)
    labels = labels if objects else torch.full_like(labels, CLASSES)
    ious = torch.rand(num, generator=generator, dtype=torch.float64)
    weights = torch.ones(num)
    weights[num - ignored :] = 0
    return logits, labels, ious, weights


def call(loss, logits, labels, ious, weights, sparse=True, **more):
    """The parts of a loss, and the gradient of their sum."""
    logits = logits.clone().requires_grad_()
    positive = ((labels < CLASSES) & (weights > 0)).nonzero().squeeze(1) if sparse else None
    parts = loss(logits, (labels, ious), weight=weights, positive=positive, **more)
    (gradient,) = torch.autograd.grad(sum(parts.values()), logits)
    return {name: value.detach() for name, value in parts.items()}, gradient


@given(
    memory=st.integers(1, 3),
    batches=st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.booleans()), min_size=1, max_size=5),
)
def test_is_the_loss_of_all_remembered_batches_by_loops(memory, batches):
    loss = MODELS.build(dict(type='RSLoss', memory=memory))
    seen = []
    for seed, (num, objects, sparse) in enumerate(batches):
        inputs = batch(seed, num, ignored=min(num, 1), objects=objects)
        seen.append((inputs[0].flatten(), entry_targets(*inputs).flatten()))
        together = seen[::-1][: memory + 1]
        expected = loop_rs_loss(
            *(torch.cat(column).tolist() for column in zip(*together, strict=True)), delta=loss.delta
        )
        parts, gradient = call(loss, *inputs, sparse=sparse)
        assert parts['loss_rank'].item() == pytest.approx(expected.ranking, abs=1e-6)
        assert parts['loss_sort'].item() == pytest.approx(expected.sorting, abs=1e-6)
        of_step = torch.tensor(expected.ranking_grad) + torch.tensor(expected.sorting_grad)
        of_step = of_step[: gradient.numel()].view_as(gradient).to(gradient.dtype)
        torch.testing.assert_close(gradient, len(together) * of_step, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('config', CONFIGS, ids=lambda config: '-'.join(map(str, config.values())))
def test_the_mean_gradient_of_the_steps_is_that_of_one_batch_with_all_images(config):
    """If the same batches follow each other in turn, and logits do not change."""
    inputs = [batch(seed) for seed in range(4)]
    loss = MODELS.build(dict(config, memory=3))
    for one in inputs:  # fills the memory
        call(loss, *one)
    steps = [call(loss, *one) for one in inputs]
    whole, gradient = call(MODELS.build(config), *(torch.cat(column) for column in zip(*inputs, strict=True)))
    torch.testing.assert_close(torch.cat([of_step for _, of_step in steps]) / 4, gradient)
    for parts, _ in steps:
        torch.testing.assert_close(parts, whole)


@EACH
def test_a_batch_without_objects_is_ranked_against_earlier_positives(name):
    loss = MODELS.build(dict(type=name, memory=1))
    assert all(value == 0 for value in call(loss, *batch(0, objects=False))[0].values())
    call(loss, *batch(1))
    parts, gradient = call(loss, *batch(2, objects=False))
    assert parts['loss_rank'] > 0 and (gradient >= 0).all() and gradient.sum() > 0
    assert gradient[-2:].eq(0).all(), 'ignored'


def test_without_a_memory_nothing_is_kept():
    loss = MODELS.build(dict(type='RSLoss'))
    first = call(loss, *batch(0))
    call(loss, *batch(1))
    again = call(loss, *batch(0))
    assert first[0] == again[0] and torch.equal(first[1], again[1])
    assert 'memory' not in repr(loss) and 'memory=2' in repr(MODELS.build(dict(type='RSLoss', memory=2)))


def test_earlier_logits_get_no_gradient_and_may_change_in_place():
    loss = MODELS.build(dict(type='RSLoss', memory=1))
    logits, labels, ious, weights = batch(0)
    earlier = logits.clone().requires_grad_()
    loss(earlier * 1, (labels, ious), weight=weights)
    kept = call(copy.deepcopy(loss), *batch(1))
    with torch.no_grad():
        earlier.zero_()
    parts, gradient = call(loss, *batch(1))
    assert earlier.grad is None
    assert parts == kept[0] and torch.equal(gradient, kept[1])
    in_place = MODELS.build(dict(type='RSLoss', memory=1))
    in_place(logits, (labels, ious), weight=weights)
    logits.zero_()
    assert call(in_place, *batch(1))[0] == kept[0]


def test_evaluation_neither_reads_nor_fills_the_memory():
    loss, alone = MODELS.build(dict(type='RSLoss', memory=1)), MODELS.build(dict(type='RSLoss'))
    call(loss, *batch(0))
    expected = call(copy.deepcopy(loss), *batch(2))
    assert call(loss.eval(), *batch(1))[0] == call(alone, *batch(1))[0]
    assert call(loss.train(), *batch(2))[0] == expected[0]


@pytest.mark.parametrize('sparse', [True, False])
@pytest.mark.parametrize('what', ['logit', 'iou'])
@EACH
def test_a_batch_that_is_not_finite_has_no_loss_and_is_not_kept(name, what, sparse):
    loss = MODELS.build(dict(type=name, memory=2))
    bad = batch(0)
    call(loss, *batch(1), sparse=sparse)
    row = int((bad[1] < CLASSES).nonzero()[0])
    (bad[0] if what == 'logit' else bad[2])[row] = torch.nan
    assert call(loss, *bad, sparse=sparse)[0]['loss_rank'].isnan()
    expected = MODELS.build(dict(type=name, memory=2))
    call(expected, *batch(1))
    for seed in (2, 3):
        assert call(loss, *batch(seed), sparse=sparse)[0] == call(expected, *batch(seed))[0]


def test_ignored_entries_of_a_kept_batch_may_have_any_value():
    loss, expected = (MODELS.build(dict(type='RSLoss', memory=1)) for _ in range(2))
    for_any = batch(0)
    call(expected, *for_any)
    for_any[0][-2:] = torch.inf
    call(loss, *for_any)
    assert call(loss, *batch(1))[0] == call(expected, *batch(1))[0]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_remembered_in_the_value_it_has(dtype):
    loss, single = (MODELS.build(dict(type='RSLoss', memory=1)) for _ in range(2))
    for seed in range(3):
        logits, *others = batch(seed)
        half = logits.to(dtype)
        parts, gradient = call(loss, half, *others)
        expected, of_single = call(single, half.float(), *others)
        assert gradient.dtype == dtype
        torch.testing.assert_close(parts, expected)
        torch.testing.assert_close(gradient.float(), of_single, rtol=1e-2, atol=1e-3)


def test_series_remember_their_own_batches():
    loss = MODELS.build(dict(type='RSLoss', memory=1))
    alone = {key: MODELS.build(dict(type='RSLoss', memory=1)) for key in ('d0.', '')}
    for seed in range(6):
        key = ('d0.', '')[seed % 2]
        assert call(loss, *batch(seed), series=key)[0] == call(alone[key], *batch(seed))[0]


@pytest.mark.parametrize(('sparse', 'waits'), [(True, 1), (False, 2)])
def test_how_often_the_host_waits_for_an_accelerator(sparse, waits, monkeypatch):
    loss = MODELS.build(dict(type='RSLoss', memory=1))
    logits, labels, ious, weights = batch(0)
    positive = ((labels < CLASSES) & (weights > 0)).nonzero().squeeze(1) if sparse else None
    monkeypatch.setattr(devices, 'on_cpu', lambda tensor: False)
    for _ in range(2):
        with CountSynchronisations() as mode:
            loss(logits, (labels, ious), weight=weights, positive=positive)
        assert mode.count == waits


def test_a_loss_that_forgets_is_a_new_loss():
    loss, new = (MODELS.build(dict(type='RSLoss', memory=2)) for _ in range(2))
    for key in ('d0.', ''):
        call(loss, *batch(0), series=key)
    loss.forget()
    for key in ('d0.', ''):
        for seed in (1, 2):
            assert call(loss, *batch(seed), series=key)[0] == call(new, *batch(seed), series=key)[0]
    MODELS.build(dict(type='DRLoss')).forget()


def test_earlier_batches_follow_the_logits_to_another_device(monkeypatch):
    monkeypatch.setattr(earlier_batches, '_is_finite', lambda batch: True)  # the device meta has no values
    memory = EarlierBatches(2)
    logits, positives, ious = torch.zeros(4, 3), torch.tensor([1, 5]), torch.rand(2)
    for device, batches in (('cpu', 1), ('cpu', 2), ('meta', 3), ('meta', 3)):
        own = SparseTargets(positives.to(device), ious.to(device))
        joined, count = memory.joined(logits.to(device), own, '')
        assert count == batches
        assert {part.device.type for part in (joined.logits, *joined.targets)} == {device}
    assert all(kept.logits.device.type == 'meta' for kept in memory.series[''])


def test_the_memory_is_not_in_checkpoints():
    loss = MODELS.build(dict(type='RSLoss', memory=1))
    call(loss, *batch(0))
    assert not loss.state_dict()


@pytest.mark.parametrize('memory', [-1, 1.5, True, None])
def test_a_memory_that_is_no_number_of_batches_is_refused(memory):
    with pytest.raises(ValueError, match='RSLoss: memory must be a number of batches, 0 or more, got'):
        MODELS.build(dict(type='RSLoss', memory=memory))


@pytest.mark.parametrize('scope', ['image', 'class'])
def test_scopes_that_divide_a_batch_have_no_memory(scope):
    with pytest.raises(ValueError, match=f"memory=2 needs scope='batch' or 'global', .*, got '{scope}'"):
        MODELS.build(dict(type='RSLoss', memory=2, scope=scope))


def test_sets_in_one_call_have_no_memory():
    loss = MODELS.build(dict(type='RSLoss', memory=2))
    assert not loss.ranks_sets
    with pytest.raises(ValueError, match='memory=2 keeps batches of one set'):
        call(loss, *batch(0), sets=RowSets(torch.zeros(12, dtype=torch.int64), 1))


def test_a_loss_of_targets_for_each_entry_has_no_memory():
    class DenseLoss(RSLoss):
        TAKES_SPARSE_TARGETS = False

    with pytest.raises(ValueError, match='DenseLoss: this loss has no memory, got memory=1'):
        DenseLoss(memory=1)


@pytest.mark.parametrize('name', ['aLRPLoss', 'DRLoss'])
def test_losses_without_this_ranking_have_no_memory(name):
    with pytest.raises(TypeError, match='memory'):
        MODELS.build(dict(type=name, memory=1))


# Detectors

DETECTORS = {
    'atss': 'bccd/atss_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
    'paa': 'bccd/paa_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
    'faster-rcnn': 'bccd/faster-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
    'cascade-rcnn': 'bccd/cascade-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
    'fcos': 'bccd/fcos_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py',
    'rtmdet': 'bccd/rtmdet_efficientnet-lite0_brs_1xb8-12e_bccd.py',
    'solov2': 'shapes/solov2_efficientnet-lite0_fpn_brs_1xb8-12e_shapes.py',
    'mask2former': 'shapes/mask2former_efficientnet-lite0_brs_1xb8-12e_shapes.py',
    'sparse-rcnn': 'bccd/sparse-rcnn_efficientnet-lite0_fpn_brs_1xb4-12e_bccd.py',
    'dino': 'bccd/dino_efficientnet-lite0_brs_1xb4-12e_bccd.py',
    'brs-detr': 'bccd/co-deformable-detr_efficientnet-lite0_brs_1xb4-12e_bccd.py',
}


def remembering(config):
    """Give every ranking loss of a model's config a memory of one batch; return how many there are."""
    if isinstance(config, (list, tuple)):
        return sum(map(remembering, config))
    if not isinstance(config, dict):
        return 0
    found = sum(map(remembering, config.values()))
    if config.get('type') in REGISTERED:
        config['memory'] = 1
        found += 1
    return found


def model_of(cfg):
    """A detector with scores that differ, so that the order of all of them matters."""
    model = build(cfg).train()
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    return model


def step(model, masks=False):
    """The losses of a detector and their gradient; the same images and random numbers in every call."""
    inputs = demo_mm_inputs(2, [[3, 96, 96]] * 2, num_classes=3, num_items=[3, 2], with_mask=masks)
    torch.manual_seed(2)
    model.zero_grad()
    data = model.data_preprocessor(inputs, training=True)
    total, logs = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return {name: value.detach() for name, value in logs.items()}, gradient.clone()


@pytest.mark.medium
@pytest.mark.parametrize('detector', DETECTORS)
def test_a_step_against_a_copy_of_itself_is_the_same_step(detector):
    """Ranks double, and so do sums of errors. A head that mixes decoder layers or stages has other losses."""
    cfg = Config.fromfile(ROOT / 'configs' / DETECTORS[detector])
    assert remembering(cfg.model)
    model = model_of(cfg)
    masks = DETECTORS[detector].startswith('shapes')
    (alone, gradient), (logs, of_step) = step(model, masks), step(model, masks)
    assert any('loss_rank' in name for name in alone)
    torch.testing.assert_close(logs, alone, rtol=1e-4, atol=1e-5)
    assert (of_step - gradient).norm() < 1e-3 * gradient.norm()


class LossWithoutSeries(BucketedRSLoss):
    """A loss of a user, written before there was a memory."""

    def forward(
        self, pred, target, weight=None, avg_factor=None, reduction_override=None, positive=None, images=None, sets=None
    ):
        return super().forward(pred, target, weight, avg_factor, reduction_override, positive, images, sets)


@pytest.mark.medium
def test_a_query_head_does_not_pass_what_losses_of_users_may_not_know():
    model = model_of(Config.fromfile(ROOT / 'configs' / DETECTORS['dino']))
    expected, gradient = step(model)
    model.bbox_head.loss_cls.__class__ = LossWithoutSeries
    logs, of_step = step(model)
    torch.testing.assert_close(logs, expected)
    torch.testing.assert_close(of_step, gradient)
    with pytest.raises(TypeError, match='series'):
        model.bbox_head.loss_cls(*batch(0)[:1], batch(0)[1:3], series='')


# Several processes


def two_steps(shares):
    """The second step of this process, with and without other processes."""
    loss = MODELS.build(dict(type='BucketedRSLoss', memory=1, scope='global'))
    own = shares if not dist.is_initialized() else [share[dist.get_rank() :][:1] for share in shares]
    for share in own:
        result = call(loss, *(torch.cat(column) for column in zip(*share, strict=True)))
    return result


@pytest.mark.medium
def test_each_process_remembers_its_own_batches():
    shares = [[batch(0), batch(1)], [batch(2), batch(3)]]
    parts, gradient = two_steps(shares)
    processes = on_processes(2, two_steps, shares)
    for own, _ in processes:
        torch.testing.assert_close(own, parts)
    torch.testing.assert_close(torch.cat([of_step for _, of_step in processes]) / 2, gradient)


def test_images_are_not_read():
    loss = MODELS.build(dict(type='RSLoss', memory=1))
    images = ImageRows(torch.zeros(12, dtype=torch.int64), 1)
    assert call(loss, *batch(0), images=images)[0] == call(copy.deepcopy(loss).eval(), *batch(0))[0]
