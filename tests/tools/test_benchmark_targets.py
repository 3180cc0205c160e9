"""The benchmark of dense and sparse targets."""

from __future__ import annotations

import csv

import pytest
import torch

pytest.importorskip('mmdet')

import benchmark_targets as benchmark


def test_both_kinds_of_targets_give_the_same_gradient():
    """It compares one loss with itself."""
    given = benchmark.predictions(300, 4, 20)
    for loss in benchmark.LOSSES.values():
        grads = []
        hook = given.logits.register_hook(grads.append)
        benchmark.step(loss, given, sparse=False)
        benchmark.step(loss, given, sparse=True)
        hook.remove()
        assert grads[0].any()
        torch.testing.assert_close(*grads)
        assert given.logits.grad is None


def test_sparse_targets_need_fewer_passes_and_less_memory(tmp_path):
    benchmark.main(['--rows', '5000', '--classes', '20', '--positives', '60', '--out', str(tmp_path / 'targets.csv')])
    with (tmp_path / 'targets.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(benchmark.LOSSES) * 2
    for dense, sparse in zip(rows[::2], rows[1::2], strict=True):
        assert (dense['targets'], sparse['targets']) == ('dense', 'sparse')
        assert dense['logits'] == sparse['logits'] == '100000'
        assert float(sparse['passes']) < float(dense['passes'])
        assert int(sparse['peak_bytes']) < int(dense['peak_bytes'])
