"""The references of the benchmark against the loops in Python floats."""

from __future__ import annotations

import pytest
import torch
from cases import DELTAS, random_case
from published_algorithms.bucketed_by_matrices import bucketed_by_matrices
from published_algorithms.interpolated_ap_and_alrp import alrp_by_loop, interpolated_ap_by_loop
from published_algorithms.loop_over_positives import loop_over_positives
from published_reference import loop_alrp_parts, loop_interpolated_ap
from reference import loop_rs_loss

from bucketed_losses import functional as F

pytestmark = pytest.mark.stack


@pytest.mark.parametrize('tied', [False, True], ids=['distinct', 'tied'])
@pytest.mark.parametrize('delta', DELTAS)
def test_loop_over_positives(delta, tied):
    """Algorithm 1."""
    logits, targets = random_case(20, 12, 80, num_ignored=5, tied=tied)
    expected = loop_rs_loss(logits.tolist(), targets.tolist(), delta)
    for sort in (False, True):
        ranking, sorting, grad = loop_over_positives(logits, targets, delta, sort)
        expected_grad = torch.tensor([expected.ranking_grad, expected.sorting_grad], dtype=torch.float64)[
            : 1 + sort
        ].sum(0)
        torch.testing.assert_close(ranking.item(), expected.ranking, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(sorting.item(), sort * expected.sorting, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('tied', [False, True], ids=['distinct', 'tied'])
@pytest.mark.parametrize('delta', DELTAS)
def test_bucketed_by_matrices(delta, tied):
    """Algorithm 2 and ours are two ways to the same numbers; without smoothing it is Algorithm 1's."""
    logits, targets = random_case(21, 12, 80, num_ignored=5, tied=tied)
    for sort in (False, True):
        ranking, sorting, grad = bucketed_by_matrices(logits, targets, delta, sort)
        leaf = logits.clone().requires_grad_()
        ours = F.bucketed_rs_loss(leaf, targets, delta) if sort else (F.bucketed_ap_loss(leaf, targets, delta),)
        sum(ours).backward()
        torch.testing.assert_close(ranking, ours[0].detach(), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(sorting, ours[1].detach() if sort else sorting * 0, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(grad, leaf.grad, rtol=1e-6, atol=1e-9)
        if delta == 0:
            expected = loop_rs_loss(logits.tolist(), targets.tolist(), delta)
            torch.testing.assert_close(ranking.item(), expected.ranking, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('tied', [False, True], ids=['distinct', 'tied'])
@pytest.mark.parametrize('delta', DELTAS)
def test_interpolated_ap_and_alrp_by_loop(delta, tied):
    logits, ious = random_case(22, 12, 80, num_ignored=5, tied=tied)
    targets, box_errors = torch.where(ious > 0, 1, ious), 1 - ious[ious > 0]
    value, grad = interpolated_ap_by_loop(logits, targets, delta)
    expected, expected_grad = loop_interpolated_ap(logits.tolist(), targets.tolist(), delta)
    torch.testing.assert_close(value.item(), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(grad, torch.tensor(expected_grad, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    value, ranks, grad = alrp_by_loop(logits, targets, box_errors, delta)
    expected, expected_ranks, expected_grad = loop_alrp_parts(
        logits.tolist(), targets.tolist(), box_errors.tolist(), delta, 1e-5
    )
    torch.testing.assert_close(value.item(), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ranks, torch.tensor(expected_ranks, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(grad, torch.tensor(expected_grad, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_without_positives():
    for reference in (loop_over_positives, bucketed_by_matrices):
        for result in reference(torch.randn(5), torch.zeros(5), 1.0, True):
            assert not result.any()
