"""Many sets of queries, each ranked by itself: in one call as on an accelerator, and in a call for each as on a CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from operations import CountOperations
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

pytest.importorskip('mmdet')

from detr_reference import Query, slow_query_losses
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from small_co_detr import BRS, NUM_CLASSES, batch, build, load, query_head

from bucketed_losses.core.devices import as_on_an_accelerator
from bucketed_losses.mmdet.evaluation.ranked_batch import watch_ranking_losses
from bucketed_losses.mmdet.models.dense_heads import QuerySet, QueryTargets
from bucketed_losses.mmdet.models.detectors import auxiliary_heads, draw_auxiliary_queries
from bucketed_losses.mmdet.models.losses import ImageRows, RankingLoss, RowSets

METAS = [dict(img_shape=(100, 160)), dict(img_shape=(90, 60))]
LOSSES = ('APLoss', 'BucketedAPLoss', 'RSLoss', 'BucketedRSLoss')
# Name, queries of each image and positives of both images.
SETS = [('enc.', 30, 4), ('d0.', 7, 5), ('', 7, 0), ('aux0.d0.', 4, 8), ('aux0.', 9, 2)]


def random_sets(dtype=torch.float32, device='cpu', sets=SETS, known=True):
    """Overlapping boxes and random targets; in every set, one query is ignored if there is one to spare."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for prefix, num, num_pos in sets:
        logits = torch.randn(2, num, NUM_CLASSES, generator=generator, dtype=dtype)
        centres = torch.rand(2, num, 2, generator=generator, dtype=dtype) * 0.4 + 0.3
        boxes = torch.cat([centres, torch.rand(2, num, 2, generator=generator, dtype=dtype) * 0.3 + 0.1], dim=-1)
        order = torch.randperm(2 * num, generator=generator)
        labels, weights = torch.full((2 * num,), NUM_CLASSES), torch.ones(2 * num)
        labels[order[:num_pos]] = torch.randint(NUM_CLASSES, (num_pos,), generator=generator)
        weights[order[num_pos:][:1]] = 0
        targets = QueryTargets(
            labels.view(2, num).to(device),
            weights.view(2, num).to(device),
            (boxes + torch.tensor([0.05, -0.03, 0.04, 0.02], dtype=dtype)).to(device),
            order[:num_pos].sort().values.to(device) if known else None,
        )
        weight = 3.0 if prefix.startswith('aux') else 1.0
        made.append(
            QuerySet(prefix, logits.to(device).requires_grad_(), boxes.to(device).requires_grad_(), targets, weight)
        )
    return made


def leaves(sets):
    return [leaf for one in sets for leaf in (one.logits, one.boxes)]


def with_gradients(head, sets):
    losses = head.query_losses(sets, METAS)
    return losses, torch.autograd.grad(sum(losses.values()), leaves(sets))


@pytest.fixture
def calls():
    """Counts the calls of every ranking loss that it is given."""
    counted = []

    def count(model):
        for module in model.modules():
            if isinstance(module, RankingLoss):
                module.register_forward_pre_hook(lambda *_: counted.append(1))
        return counted

    return count


@pytest.mark.parametrize('known', [True, False])
@pytest.mark.parametrize('loss', LOSSES)
def test_one_call_equals_loops_over_the_sets(loss, known, calls):
    head = query_head(loss)
    counted = calls(head)
    sets = random_sets(known=known)
    with as_on_an_accelerator():
        fast, gradients = with_gradients(head, sets)
    assert len(counted) == 1
    slow, total = {}, 0
    for one in sets:
        queries = [
            Query(
                one.logits[i, q],
                one.boxes[i, q],
                int(one.targets.labels[i, q]),
                one.targets.boxes[i, q],
                METAS[i]['img_shape'][::-1],
                bool(one.targets.weights[i, q] == 0),
            )
            for i in range(2)
            for q in range(one.logits.size(1))
        ]
        losses, set_total = slow_query_losses(loss, queries, class_weight=2.0)
        slow |= {one.prefix + name: one.weight * value for name, value in losses.items()}
        total = total + one.weight * set_total
    assert list(fast) == list(slow)
    assert {name: value.item() for name, value in fast.items()} == pytest.approx(slow, rel=1e-5, abs=1e-6)
    expected = torch.autograd.grad(total, leaves(sets), allow_unused=True, materialize_grads=True)
    for mine, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('scope', ['batch', 'image', 'class', 'global'])
@pytest.mark.parametrize('loss', LOSSES)
def test_one_call_equals_a_call_for_each_set(loss, scope, calls):
    head = query_head(loss)
    head.loss_cls.scope = scope  # 'global' without other processes is 'batch'
    counted = calls(head)
    one_by_one = with_gradients(head, random_sets(torch.float64))
    assert len(counted) == len(SETS)
    with as_on_an_accelerator():
        together = with_gradients(head, random_sets(torch.float64))
    assert len(counted) == len(SETS) + 1
    assert list(one_by_one[0]) == list(together[0])
    torch.testing.assert_close(together, one_by_one, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('loss', [dict(type='APLoss', interpolated=True), dict(type='DRLoss')])
def test_losses_that_cannot_rank_many_sets_rank_one_after_another(loss, calls):
    head = query_head('APLoss', loss_cls=loss)
    counted = calls(head)
    on_cpu = with_gradients(head, random_sets(torch.float64))
    with as_on_an_accelerator():
        torch.testing.assert_close(with_gradients(head, random_sets(torch.float64)), on_cpu)
    assert len(counted) == 2 * len(SETS)


@pytest.mark.parametrize('loss', [dict(type='APLoss', interpolated=True), dict(type='DRLoss'), dict(type='aLRPLoss')])
def test_losses_that_cannot_rank_many_sets_say_so(loss):
    rows = RowSets(torch.zeros(3, dtype=torch.int64), 1)
    with pytest.raises(
        ValueError, match=f'{loss["type"]}: .*so it cannot rank many sets in one call; call the loss for'
    ):
        MODELS.build(loss)(torch.zeros(3, 2), torch.tensor([0, 1, 2]), sets=rows)


@pytest.mark.parametrize('known', [True, False])
@pytest.mark.parametrize('scope', ['batch', 'image', 'class'])
@pytest.mark.parametrize('loss', LOSSES)
def test_sets_of_a_loss_equal_calls(loss, scope, known):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    labels, ious = torch.randint(0, 6, (60,), generator=generator).clamp(max=3), torch.rand(60, generator=generator)
    members, image = (torch.randint(0, 3, (60,), generator=generator) for _ in range(2))
    labels[members == 1] = 3  # no positive; and set 3 has no row
    ranks = MODELS.build(dict(type=loss, scope=scope, loss_weight=2.0))

    def rows(own):
        positive = (labels[own] < 3).nonzero().squeeze(1) if known else None
        return dict(target=(labels[own], ious[own]), positive=positive, images=ImageRows(image[own], 3))

    everything = torch.arange(60)
    got = ranks(logits.requires_grad_(), sets=RowSets(members, 4), **rows(everything))
    (gradient,) = torch.autograd.grad(sum(value.sum() for value in got.values()), logits)
    for index in range(4):
        own = everything[members == index]
        piece = logits[own].detach().requires_grad_()
        expected = ranks(piece, **rows(own))
        for name, value in got.items():
            torch.testing.assert_close(value[index], expected[name])
        (sum(expected.values()) + piece.sum() * 0).backward()
        torch.testing.assert_close(gradient[own], piece.grad)


@pytest.mark.parametrize('scope', ['batch', 'image', 'class'])
@pytest.mark.parametrize(
    ('of_rows', 'words'),
    [
        ([0], r'have the shape \(4,\), one set per row of pred, got \(1,\)'),
        ([0, 1, 0], r'have the shape \(4,\), one set per row of pred, got \(3,\)'),
        ([0, 1, 2, 0], r'lie in \[0, 2\), the number of sets, got 0 to 2'),
        ([0, 1, -1, 0], r'lie in \[0, 2\), the number of sets, got -1 to 1'),
    ],
)
def test_sets_that_do_not_fit_the_rows_are_named(scope, of_rows, words):
    loss = MODELS.build(dict(type='RSLoss', scope=scope))
    images = ImageRows(torch.tensor([0, 0, 1, 1]), 2)
    with pytest.raises(ValueError, match=f'RSLoss: RowSets.of_rows must {words}'):
        loss(torch.zeros(4, 3), torch.tensor([0, 1, 3, 3]), images=images, sets=RowSets(torch.tensor(of_rows), 2))


@pytest.mark.parametrize('accelerator', [True, False])
def test_sets_that_are_not_finite_do_not_reach_the_others(accelerator):
    head = query_head('BucketedRSLoss')
    sets = random_sets()
    with torch.no_grad():
        sets[1].logits[1, 2, 0] = torch.nan
        sets[2].boxes[0, 0, 1] = torch.nan  # a background query
    with as_on_an_accelerator() if accelerator else torch.enable_grad():
        losses = head.query_losses(sets, METAS)
    bad = {name for name, value in losses.items() if not value.isfinite()}
    assert bad == {f'd0.{name}' for name in ('loss_rank', 'loss_sort', 'loss_bbox', 'loss_iou')} | {
        'loss_bbox',
        'loss_iou',
    }


@pytest.mark.parametrize('accelerator', [True, False])
@pytest.mark.parametrize('loss', LOSSES)
def test_without_objects_all_losses_are_zero_and_connected(loss, accelerator):
    head = query_head(loss)
    sets = random_sets(sets=[(prefix, num, 0) for prefix, num, _ in SETS])
    with as_on_an_accelerator() if accelerator else torch.enable_grad():
        losses, gradients = with_gradients(head, sets)
    assert not any(value.item() for value in losses.values())
    assert not any(gradient.any() for gradient in gradients)


# ---------------------------------------------------------------------------------------------------------------------
# What it costs on an accelerator


@pytest.mark.usefixtures('fake_cuda')
@pytest.mark.parametrize('scope', ['batch', 'image', 'class'])
@pytest.mark.parametrize('loss', LOSSES)
def test_the_host_waits_for_nothing_if_the_positives_are_known(loss, scope):
    """On fake CUDA tensors whatever makes the host wait raises an error."""
    head = query_head(loss)
    head.loss_cls.scope = scope
    with FakeTensorMode():
        values = head.query_losses(random_sets(device='cuda'), METAS)
        assert all(value.device.type == 'cuda' and value.shape == () for value in values.values())
        with pytest.raises(DynamicOutputShapeException):
            head.query_losses(random_sets(device='cuda', known=False), METAS)


@pytest.mark.usefixtures('fake_cuda')
def test_drawing_waits_for_nothing_if_the_positives_are_counted():
    with FakeTensorMode():
        image = InstanceData(
            priors=torch.rand(30, 4, device='cuda'),
            labels=torch.zeros(30, dtype=torch.int64, device='cuda'),
            label_weights=torch.ones(30, device='cuda'),
            bbox_targets=torch.rand(30, 4, device='cuda'),
            features=torch.rand(30, 8, device='cuda'),
        )
        group = draw_auxiliary_queries([image] * 2, METAS, NUM_CLASSES, 9, 40, num_positives=[35, 3])
        assert group.boxes.shape == (2, 35, 4) and group.targets.positive.shape == (38,)


def test_the_number_of_operations_does_not_depend_on_the_number_of_sets():
    head = query_head('BucketedRSLoss')
    counts = []
    for sets in (SETS, SETS * 4):
        made = random_sets(sets=[(f'{index}.', *rest) for index, (_, *rest) in enumerate(sets)])
        with as_on_an_accelerator(), CountOperations() as counted:
            losses = head.query_losses(made, METAS)
            torch.stack(list(losses.values())).sum().backward()
        assert counted.waits == 0
        counts.append(len(counted.names))
    assert counts[0] == counts[1] <= 420, counts


@pytest.mark.medium
def test_a_step_of_brs_detr_makes_four_calls_and_waits_once_beside_matching(calls, monkeypatch):
    """RPN, RoI head, ATSS head and all queries. The queries need one number: how many positives the heads have."""
    detector = build(load(BRS)).train()
    data = batch(detector)
    torch.manual_seed(0)
    expected = detector(**copy.deepcopy(data), mode='loss')
    counted, waits = calls(detector), []
    reads = []
    count = auxiliary_heads.count_positives
    monkeypatch.setattr(auxiliary_heads, 'count_positives', lambda *args: reads.append(1) or count(*args))

    def watched(function):
        def call(*args):
            with CountOperations() as inner:
                result = function(*args)
            waits.append(inner.waits)
            return result

        return call

    monkeypatch.setattr(auxiliary_heads, 'draw_auxiliary_queries', watched(auxiliary_heads.draw_auxiliary_queries))
    detector.bbox_head.query_losses = watched(detector.bbox_head.query_losses)
    torch.manual_seed(0)
    with as_on_an_accelerator():
        losses = detector(**copy.deepcopy(data), mode='loss')
    assert len(counted) == 4 and len(reads) == 1 and waits == [0, 0, 0]
    assert set(losses) == set(expected)
    for name, value in losses.items():
        one, other = (torch.stack(v).sum() if isinstance(v, list) else v for v in (value, expected[name]))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_observers_see_each_set():
    head = query_head('BucketedRSLoss')
    seen = []
    for accelerated in (False, True):
        batches = []
        with watch_ranking_losses(head, batches.append), as_on_an_accelerator() if accelerated else torch.enable_grad():
            head.query_losses(random_sets(), METAS)
        seen.append(batches)
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one.logits, other.logits) and torch.equal(one.targets, other.targets)
        torch.testing.assert_close(one.errors, other.errors)
