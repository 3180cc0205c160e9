"""The prefix-sum engine against sums written out."""

from __future__ import annotations

import pytest
import torch
from cases import DELTAS
from hypothesis import given
from hypothesis import strategies as st
from reference import step

from bucketed_losses.step_sums import (
    bucket_negatives,
    dominance_sums,
    dominance_sums as dominance_sums_by_bits,
    round_up,
    smoothed_step,
    sums_above,
    sums_below,
)

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
    for sums, sign in ((sums_above, 1), (sums_below, -1)):
        expected = [
            sum(w * step(sign * (k - q), delta) for k, w in zip(keys.tolist(), weights.tolist(), strict=True))
            for q in queries.tolist()
        ]
        result = sums(keys, weights, queries, delta)
        torch.testing.assert_close(result.values, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_slopes_are_the_derivative():
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(50, generator=generator, dtype=torch.float64).sort().values
    queries = torch.randn(20, generator=generator, dtype=torch.float64)
    weights = torch.rand(50, generator=generator, dtype=torch.float64)
    for sums in (sums_above, sums_below):
        above, below = (sums(keys, weights, queries + offset, 0.5).values for offset in (1e-7, -1e-7))
        torch.testing.assert_close(
            sums(keys, weights, queries, 0.5).slopes, (above - below) / 2e-7, rtol=1e-4, atol=1e-4
        )


@given(st.lists(st.tuples(st.integers(-8, 8), st.integers(1, 6)), min_size=1, max_size=40), st.sampled_from(DELTAS))
def test_dominance_sums_dense_and_by_bits(pairs, delta):
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
    for dominance in (dominance_sums, dominance_sums_by_bits):
        torch.testing.assert_close(dominance(logits, labels, weights, delta), expected, rtol=1e-9, atol=1e-9)


@given(grid, grid)
def test_buckets_of_negatives(negatives, edges):
    negatives, edges = torch.tensor(negatives, dtype=torch.float32) / 4, tensor(edges)
    buckets = bucket_negatives(negatives, edges)
    for value, bucket in zip(negatives.tolist(), buckets.assignment.tolist(), strict=True):
        assert bucket == sum(edge <= value for edge in edges.tolist())
    bounds = [-torch.inf, *edges.tolist(), torch.inf]
    for bucket, (size, mean) in enumerate(zip(buckets.sizes.tolist(), buckets.means.tolist(), strict=True)):
        members = negatives[buckets.assignment == bucket].tolist()
        assert size == len(members)
        if members:
            assert mean == pytest.approx(sum(members) / len(members))
            assert bounds[bucket] <= mean < bounds[bucket + 1]
    assert buckets.means.diff().ge(0).all()


@given(st.floats(-1e30, 1e30))
def test_round_up(value):
    exact = torch.tensor([value], dtype=torch.float64)
    rounded = round_up(exact, torch.float32)
    assert rounded.double() >= exact
    assert torch.nextafter(rounded, torch.tensor([-torch.inf])).double() < exact
