"""The YOLO-style example of docs/compat.md: the replacement and the loop that it replaces train alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from published_algorithms.loop_over_positives import loop_over_positives

from bucketed_losses import compat

PAGE = Path(__file__).resolve().parents[2] / 'docs/compat.md'


class RankSortByLoop(torch.autograd.Function):
    """The conventions of the published Function around the loop over positives."""

    @staticmethod
    def forward(ctx, logits, targets, delta):
        ranking, sorting, gradient = loop_over_positives(logits.flatten(), targets.flatten(), delta, sort=True)
        ctx.save_for_backward(gradient.view(logits.shape))
        return ranking, sorting

    @staticmethod
    def backward(ctx, scale, ignored):
        return ctx.saved_tensors[0] * scale, None, None


def train(iterations):
    """The example's code, without its checks, which hold after more iterations."""
    example = max(re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL), key=len)
    before, loop = 'for _ in range(60):', f'for _ in range({iterations}):'
    training = example.split('    images, labels, truths = draw(64)')[0]
    assert before in training and 'optimizer.step()' in training and training != example
    namespace = {}
    exec(compile(training.replace(before, loop), 'example', 'exec'), namespace)
    return namespace


def test_before_and_after_are_the_same(monkeypatch):
    after = train(4)['history']
    monkeypatch.setattr(compat, 'RankSort', RankSortByLoop)
    before = train(4)
    assert before['RankSort'] is RankSortByLoop
    assert set(after) == {'classes', 'product'}
    for rank, errors in before['history'].items():
        assert len(errors) == 4 and after[rank] == pytest.approx(errors, abs=1e-3)


def test_the_ranked_product_is_the_score_of_yolo():
    score_logits = train(0)['score_logits']
    raw = 5 * torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    score = raw[..., 4:5].sigmoid() * raw[..., 5:].sigmoid()
    torch.testing.assert_close(score_logits(raw, 'product').sigmoid(), score, rtol=1e-9, atol=1e-15)
    assert torch.equal(score_logits(raw, 'classes'), raw[..., 5:])
    extreme = score_logits(torch.full((1, 1, 8), 1e4), 'product'), score_logits(torch.full((1, 1, 8), -1e4), 'product')
    assert all(logit.isfinite().all() for logit in extreme)
