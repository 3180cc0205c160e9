"""The prefix-sum engine against sums written out."""

from __future__ import annotations

import pytest
import torch
from cases import DELTAS
from hypothesis import given
from hypothesis import strategies as st
from reference import step

from bucketed_losses.core import bucketizer, devices
from bucketed_losses.core.bucketizer import Bucketizer
from bucketed_losses.core.buckets import bucket_negatives, clamp_between
from bucketed_losses.core.devices import round_up, split
from bucketed_losses.core.dominance import IoUOrder, dominance_sums
from bucketed_losses.core.step_sums import band_above, band_below, smoothed_step, sums_above, sums_below

pytestmark = pytest.mark.stack

grid = st.lists(st.integers(-12, 12), min_size=1, max_size=30)


def tensor(values, scale=0.25):
    return torch.tensor(sorted(values), dtype=torch.float64) * scale


@given(st.floats(-20, 20), st.sampled_from(DELTAS))
def test_smoothed_step(x, delta):
    assert smoothed_step(torch.tensor(x, dtype=torch.float64), delta).item() == pytest.approx(step(x, delta))


@given(grid, grid, st.sampled_from(DELTAS))
def test_sums_above_and_below(keys, queries, delta):
    keys, queries = tensor(keys), tensor(queries)
    weights = torch.linspace(0.5, 2.0, len(keys), dtype=torch.float64)
    for sums, band, sign in ((sums_above, band_above, 1), (sums_below, band_below, -1)):
        expected = [
            sum(w * step(sign * (k - q), delta) for k, w in zip(keys.tolist(), weights.tolist(), strict=True))
            for q in queries.tolist()
        ]
        result = sums(keys, weights, queries, band(keys, queries, delta), delta)
        torch.testing.assert_close(result.values, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_slopes_are_the_derivative():
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(50, generator=generator, dtype=torch.float64).sort().values
    queries = torch.randn(20, generator=generator, dtype=torch.float64)
    weights = torch.rand(50, generator=generator, dtype=torch.float64)
    for sums, band in ((sums_above, band_above), (sums_below, band_below)):
        above, middle, below = (
            sums(keys, weights, queries + offset, band(keys, queries + offset, 0.5), 0.5) for offset in (1e-7, 0, -1e-7)
        )
        torch.testing.assert_close(middle.slopes, (above.values - below.values) / 2e-7, rtol=1e-4, atol=1e-4)


@given(
    st.lists(st.tuples(st.integers(-8, 8), st.integers(1, 6)), min_size=1, max_size=40),
    st.sampled_from(DELTAS),
    st.sampled_from([0, 1, 3, None]),
)
def test_dominance_sums(pairs, delta, block_bits):
    """With ties of logits and of labels; blocks of 1 need every bit's pass, one block needs none."""
    pairs.sort()
    logits = torch.tensor([s for s, _ in pairs], dtype=torch.float64) / 4
    labels = torch.tensor([t for _, t in pairs], dtype=torch.float64) / 6
    weights = torch.stack([torch.ones_like(logits), torch.linspace(0, 1, len(pairs), dtype=torch.float64)])
    expected = torch.tensor(
        [
            [
                sum(
                    w[k] * step(logits[k].item() - logits[i].item(), delta)
                    for k in range(len(pairs))
                    if labels[k] < labels[i]
                )
                for i in range(len(pairs))
            ]
            for w in weights.tolist()
        ],
        dtype=torch.float64,
    )
    ascending, by_label = labels.sort()
    order = IoUOrder(torch.searchsorted(ascending, labels), by_label)
    sums = dominance_sums(logits, order, weights, band_above(logits, logits, delta), delta, block_bits)
    torch.testing.assert_close(sums, expected, rtol=1e-9, atol=1e-9)


@given(grid, grid, st.integers(1, 8))
def test_buckets_of_negatives(negatives, edges, piece):
    negatives, edges = torch.tensor(negatives, dtype=torch.float32) / 4, tensor(edges)
    buckets = bucket_negatives(negatives.split(piece), edges)
    assert [len(assignment) for assignment in buckets.assignments] == [len(x) for x in negatives.split(piece)]
    assignment = torch.cat(buckets.assignments)
    for value, bucket in zip(negatives.tolist(), assignment.tolist(), strict=True):
        assert bucket == sum(edge <= value for edge in edges.tolist())
    bounds = [-torch.inf, *edges.tolist(), torch.inf]
    means = clamp_between(buckets.means, edges)
    for bucket, (size, mean) in enumerate(zip(buckets.sizes.tolist(), means.tolist(), strict=True)):
        members = negatives[assignment == bucket].tolist() if bucket else []  # what lies below all edges takes no part
        assert size == len(members)
        if members:
            assert mean == pytest.approx(sum(members) / len(members))
            assert bounds[bucket] <= mean < bounds[bucket + 1]
    assert means.diff().ge(0).all()


ORDINARY = st.floats(-30, 30, width=32)
EXTREME = st.floats(width=32, allow_nan=False)


@given(
    st.lists(ORDINARY, min_size=1, max_size=30) | st.lists(EXTREME, min_size=1, max_size=6),
    st.lists(ORDINARY | st.floats(width=32), min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(0, 4),
)
def test_bucketizer_is_a_binary_search(edges, values, cells_per_edge, most_compared):
    """Whatever the numbers (infinities, subnormals, ties, a range that overflows) and however coarse the table.

    NaN has no place among edges; all that is asked of it is not to break anything.
    """
    edges = torch.tensor(edges).sort().values
    values = torch.tensor(values)
    values = torch.cat([values, edges, torch.nextafter(edges, torch.tensor(-torch.inf))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucketizer, 'CELLS_PER_EDGE', cells_per_edge)
        patch.setattr(bucketizer, 'MOST_COMPARED', most_compared)
        found = Bucketizer(edges, num_values=10**6)(values)
    expected = torch.searchsorted(edges, values, right=True, out_int32=True)
    assert found.dtype == torch.int32
    assert torch.equal(found[~values.isnan()], expected[~values.isnan()])
    assert found.ge(0).all() and found.le(len(edges)).all()


@pytest.mark.parametrize('name', ['normal', 'tied', 'outlier'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_bucketizer_on_many(name, dtype):
    generator = torch.Generator().manual_seed(0)
    edges = torch.randn(3000, generator=generator, dtype=dtype)
    values = torch.randn(200_000, generator=generator, dtype=dtype) * 1.5
    if name == 'tied':
        edges, values = edges.mul(20).round() / 20, values.mul(20).round() / 20
    if name == 'outlier':
        edges[0] = 1e6
    edges = edges.sort().values
    bucketize = Bucketizer(edges, len(values))
    assert bucketize.table is not None
    assert torch.equal(bucketize(values), torch.searchsorted(edges, values, right=True, out_int32=True))


def test_pieces(monkeypatch):
    monkeypatch.setattr(devices, 'PIECE', 4)
    x = torch.arange(10.0)
    assert [a.tolist() for a, _ in split(x, x + 1)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [len(a) for (a,) in split(torch.empty(10, device='meta'))] == [10]
    assert [len(a) for (a,) in split(torch.empty(0))] == [0]
    for (a,) in split(x):
        a.zero_()
    assert not x.any()


@given(st.floats(-1e30, 1e30))
def test_round_up(value):
    exact = torch.tensor([value], dtype=torch.float64)
    rounded = round_up(exact, torch.float32)
    assert rounded.double() >= exact
    assert torch.nextafter(rounded, torch.tensor([-torch.inf])).double() < exact
