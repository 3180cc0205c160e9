"""The benchmark of the replacements: what it measures and leaves out, and that the page says what the CSV says."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import benchmark_compat as benchmark
import pytest
import torch
from page_blocks import block_of, markers
from synthetic_data import synthetic_logits
from tables import read_csv

ROOT = Path(__file__).resolve().parents[2]


def test_command_line(tmp_path, capsys):
    page = tmp_path / 'page.md'
    begin, end = markers('benchmark')
    page.write_text(f'before\n{begin}\nold\n{end}\nafter\n')
    out = tmp_path / 'new/benchmark.csv'
    options = ['--sizes', '1000', '2000', '--positives', '5', '--repeats', '2', '--device', 'cpu']
    benchmark.main(['--out', str(out), '--page', str(page), *options])
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3
    assert {(row['loss'], row['logits'], row['positives'], row['data']) for row in rows} == {
        (loss, size, '5', data)
        for loss in ('RankSort', 'APLoss', 'aLRPLoss')
        for size in ('1000', '2000')
        for data in ('synthetic', 'trained-like')
    }
    assert all(float(row['loop_ms']) > 0 and float(row['compat_ms']) > 0 and not row['note'] for row in rows)
    assert all(row['loop_calls'] == row['compat_calls'] == '2' and row['torch'] == torch.__version__ for row in rows)
    text = page.read_text()
    assert text.startswith('before\n') and text.endswith('after\n') and 'old' not in text
    assert '| RankSort | synthetic | 1,000 | 5 |' in text and 'median of 2 calls' in text
    capsys.readouterr()
    benchmark.main(['--out', str(out), '--report'])
    assert benchmark.table(rows) in capsys.readouterr().out


def test_a_slow_loop_is_left_out_with_the_reason():
    logits, targets = synthetic_logits(3000, 60, 'synthetic')
    row = benchmark.measure('APLoss', logits, targets, repeats=2, max_seconds=1e-9)
    assert re.fullmatch(r'the loop would take [\d.]+ .?s', row['note']) and 'loop_ms' not in row
    assert row['compat_calls'] == 2
    known = dict(data='synthetic', logits='3000', positives='60', device='x', threads='1', torch='2')
    row = {**dict.fromkeys(benchmark.COLUMNS, ''), **{key: str(value) for key, value in row.items()}, **known}
    assert f'| {row["note"]} |' in benchmark.table([row])
    with pytest.raises(SystemExit, match='different machines'):
        benchmark.table([row, row | {'device': 'y'}])


@pytest.mark.parametrize('name', list(benchmark.pairs()))
def test_both_compute_the_same(name):
    logits, targets = synthetic_logits(2000, 30, 'synthetic')
    loop, replacement = benchmark.pairs()[name]
    *_, gradient = loop(logits, targets)
    leaf = logits.clone().requires_grad_()
    replacement(leaf, targets)
    torch.testing.assert_close(leaf.grad, gradient, rtol=1e-4, atol=1e-6)


def test_the_page_says_what_the_csv_says():
    generated = block_of(ROOT / 'docs/compat.md', 'benchmark')
    assert generated == benchmark.table(read_csv(ROOT / 'docs/figures/benchmark_compat.csv')).strip()
