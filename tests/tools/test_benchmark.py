"""The benchmark: what it counts, what it leaves out, and the tables and figures that it reports."""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import benchmark_figures as figures
import benchmark_losses as benchmark
import pytest
import report_benchmark as report
import torch
from operations import CountElementOperations

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / 'docs/figures/benchmark.csv'
LOSSES = {loss.name: loss for loss in benchmark.losses()}
WITHOUT = ('mmdet', 'mmcv', 'mmengine', 'numpy', 'scipy', 'pandas', 'matplotlib', 'torchvision', 'pycocotools')
CPU = torch.device('cpu')
CURVE = ('RS', 'BRS', 'cross-entropy', 'BRS by matrices', 'RS by loop')


def test_every_contestant_runs_and_leaves_no_gradient():
    case = benchmark.synthetic(3000, 30, 'synthetic', CPU)
    rows = benchmark.measure(case, list(LOSSES.values()), repeats=2, max_seconds=30)
    assert [row['loss'] for row in rows] == list(LOSSES)
    assert all(not row['note'] and row['milliseconds'] > 0 and row['repeats'] == 2 for row in rows)
    assert all(row['operations'] >= 3000 and row['peak_bytes'] >= 4 * 3000 for row in rows)
    assert case.leaf.grad is None
    ratio = {row['loss']: row['to_focal'] for row in rows}
    assert ratio['focal'] == 1
    by_name = {row['loss']: row for row in rows}
    assert by_name['BRS']['to_loop'] == pytest.approx(
        by_name['BRS']['milliseconds'] / by_name['RS by loop']['milliseconds'], rel=0.01, abs=1e-4
    )


@pytest.mark.parametrize('data', ['synthetic', 'trained-like'])
def test_synthetic_data(data):
    case = benchmark.synthetic(100_000, 5000, data, CPU)
    is_positive = case.targets > 0
    assert case.positives == is_positive.sum() == 5000 and case.targets.max() <= 1 and (case.targets >= 0).all()
    means = (-1, 1) if data == 'synthetic' else (0, -6)
    for chosen, mean in zip((is_positive, ~is_positive), means, strict=True):
        assert case.logits[chosen].mean() == pytest.approx(mean, abs=0.05)
    few = case.with_positives(7)
    assert few.positives == 7 and (few.targets < 0).sum() == 4993


def test_operations_are_counted_as_defined():
    def count(function):
        with CountElementOperations() as mode:
            function()
        return mode.total

    x = torch.randn(1024)
    assert count(lambda: x.mul(2)) == 1024
    assert count(lambda: x.view(32, 32).t().unsqueeze(0)) == 0, 'views are free'
    assert count(lambda: torch.empty(1024)) == 0, 'allocations are free'
    assert count(lambda: x.sum()) == 1024, 'the larger of input and output'
    assert count(lambda: x.unsqueeze(1) - x) == 1024**2
    assert count(lambda: x.sort()) == count(lambda: x.argsort()) == 1024 * 10
    assert count(lambda: torch.searchsorted(x, x[:100])) == 100 * 10
    assert count(lambda: x.mul_(2)) == 1024, 'in place counts, too'


def test_the_operations_of_a_loop_are_those_of_all_its_iterations():
    case = benchmark.synthetic(2000, 20, 'synthetic', CPU)
    for name in report.LOOPS:
        with CountElementOperations() as mode:
            LOSSES[name].run(case)
        assert benchmark.operations(LOSSES[name], case) == pytest.approx(mode.total, rel=0.02)


def test_peak_memory():
    case = benchmark.synthetic(100_000, 10, 'synthetic', CPU)
    # Beside the tensors themselves, PyTorch allocates some bytes for the Python numbers.
    assert 400_000 <= benchmark.peak_bytes(LOSSES['read + write'], case) < 401_000
    twice = benchmark.Loss('twice', lambda case: (case.logits * 2) * 3)
    assert 800_000 <= benchmark.peak_bytes(twice, case) < 801_000
    in_turn = benchmark.Loss('in turn', lambda case: [case.logits * 2 and None for _ in ()] or (case.logits * 2).sum())
    assert 400_000 <= benchmark.peak_bytes(in_turn, case) < 410_000


@pytest.mark.parametrize('name', report.OURS)
@pytest.mark.parametrize('share', [0.001, 0.05])
def test_peak_memory_of_ours_is_at_most_six_times_the_logits(name, share):
    """At a million logits, gradient included."""
    case = benchmark.synthetic(1_000_000, round(1_000_000 * share), 'synthetic', CPU)
    assert benchmark.peak_bytes(LOSSES[name], case) <= 6 * 4_000_000


def test_what_is_too_large_or_too_slow_is_left_out_with_the_reason(monkeypatch):
    case = benchmark.synthetic(5000, 1000, 'synthetic', CPU)
    monkeypatch.setattr(benchmark, 'available_bytes', lambda device: 10**7)
    rows = benchmark.measure(case, [LOSSES[n] for n in ('AP', 'BRS by matrices', 'RS by loop')], 1, 1e-6)
    notes = {row['loss']: row['note'] for row in rows}
    assert notes['AP'] == ''
    assert notes['BRS by matrices'] == 'needs 0.024 GB for its matrices, 0.01 GB available'
    assert re.fullmatch(r'would take [\d.]+ m?s \(20 of its positives took [\d.]+ .?s\)', notes['RS by loop'])
    assert all('milliseconds' not in row for row in rows if row['note'])
    by_name = {row['loss']: row for row in rows}
    assert (
        by_name['BRS by matrices']['needed_bytes'] == 6 * 4 * 1000**2 and 'peak_bytes' not in by_name['BRS by matrices']
    )
    assert by_name['RS by loop']['estimated_milliseconds'] > 0 and by_name['RS by loop']['peak_bytes'] >= 4 * 5000
    text = report.table([{key: str(value) for key, value in row.items()} for row in rows])
    assert 'needs 0.024 GB' in text and text.count('\n') == 4


def test_command_line(tmp_path, capsys):
    options = ['--sizes', '2000', '4000', '--shares', '0.01', '--repeats', '1', '--device', 'cpu', '--profile']
    benchmark.main(['--out', str(tmp_path), *options])
    output = capsys.readouterr().out
    assert 'trained-like, 4000 logits, 1 % positives' in output
    profiles = re.findall(r'^(\w+): (.*)$', output, re.MULTILINE)
    assert [name for name, _ in profiles] == [*report.OURS] * 4
    assert all(0 < sum(map(int, re.findall(r'(\d+)%', shares))) <= 104 for _, shares in profiles)
    with (tmp_path / 'benchmark.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * len(LOSSES)
    assert all(row['torch'] == torch.__version__ and row['device'] and row['threads'] for row in rows)
    report.main([str(tmp_path / 'benchmark.csv')])
    text = capsys.readouterr().out
    assert '| synthetic | 4K | 1 % |' in text and 'trained-like, 2K logits, 20 positives (1 %):' in text


def test_figures(tmp_path):
    """Of one run, at 1 % positives: time and memory of four losses, each over its sizes."""
    pytest.importorskip('matplotlib')
    options = ['--sizes', '2000', '4000', '--shares', '0.01', '0.05', '--repeats', '1', '--device', 'cpu']
    benchmark.main(['--out', str(tmp_path), *options])
    names = ['benchmark_memory.png', 'benchmark_time.png']
    assert sorted(path.name for path in tmp_path.glob('*.png')) == names
    figures.main([str(tmp_path / 'benchmark.csv'), '--out', str(tmp_path / 'again')])
    assert sorted(path.name for path in (tmp_path / 'again').iterdir()) == names
    assert (tmp_path / 'again/benchmark_time.png').stat().st_size > 10_000


def test_what_a_figure_shows(monkeypatch, tmp_path):
    pytest.importorskip('matplotlib')
    saved = []
    monkeypatch.setattr(figures, 'save', lambda figure, path: saved.append(figure))
    figures.draw_both(FILE, tmp_path)
    rows = figures.at_share(report.read(FILE), 0.01)
    for figure, quantity in zip(saved, ('milliseconds', 'peak_bytes'), strict=True):
        (axis,) = figure.axes
        assert {text.get_text() for text in axis.texts} == {'RS by loop', 'BRS by matrices', 'BRS', 'focal'}
        for name in figures.FIGURE_LOSSES:
            points = {int(r['logits']): float(r[quantity]) for r in rows if r['loss'] == name}
            assert list(points) == [10_000, 100_000, 1_000_000]
            assert any(dict(line.get_xydata().tolist()) == points for line in axis.lines), name
        assert axis.get_xlabel() == 'number of logits, 1 % of them positives'


def test_it_runs_with_torch_alone(tmp_path):
    """Without MMDetection and everything that it brings; then there are no figures."""
    code = f"""
import sys
for name in {WITHOUT}:
    sys.modules[name] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in {WITHOUT} else find(name, *more)
import benchmark_losses
options = ['--sizes', '2000', '--shares', '0.01', '--repeats', '1', '--device', 'cpu']
benchmark_losses.main([*options, '--out', {str(tmp_path)!r}])
"""
    variables = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "tools/benchmarks"}'}
    subprocess.run([sys.executable, '-c', code], check=True, env=variables, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['benchmark.csv']
    assert {row['loss'] for row in report.read(tmp_path / 'benchmark.csv')} == set(LOSSES)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_command_line_on_a_gpu(tmp_path):
    benchmark.main(['--out', str(tmp_path), '--sizes', '20000', '--shares', '0.01', '--repeats', '2'])
    rows = report.read(tmp_path / 'benchmark.csv')
    assert {row['device'] for row in rows} == {torch.cuda.get_device_name()}
    assert all(float(row['milliseconds']) > 0 and int(row['peak_bytes']) >= 80_000 for row in rows)


def test_captured_logits(shapes_root, tmp_path, monkeypatch):
    pytest.importorskip('mmdet')
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    config = 'configs/shapes/atss_efficientnet-lite0_fpn_brs_1xb8-10e_shapes.py'
    case = benchmark.capture(config, None, tmp_path / 'captured.pt', CPU)
    saved = torch.load(tmp_path / 'captured.pt', weights_only=True)
    assert torch.equal(saved['logits'], case.logits) and torch.equal(saved['targets'], case.targets)
    assert case.data == 'captured' and case.positives > 0 and (case.targets == 0).sum() > 100 * case.positives


def test_scaling(monkeypatch, tmp_path):
    """The cases of ``--scaling``, smaller; time that is made up."""
    sizes = []

    def small(number, positives, data, device):
        sizes.append((number, positives, data))
        return original(number // 1000, max(positives // 1000, 1), data, device)

    def made_up(case, contestants, repeats, max_seconds, at_least):
        return [
            dict(data=case.data, logits=len(case.logits), positives=case.positives, loss=loss.name, note='',
                 milliseconds=len(case.logits) * case.positives**0.5, to_focal=1, peak_bytes=1, operations=1)
            for loss in contestants
        ]  # fmt: skip

    original = benchmark.synthetic
    monkeypatch.setattr(benchmark, 'synthetic', small)
    monkeypatch.setattr(benchmark, 'measure', made_up)
    benchmark.main(['--out', str(tmp_path), '--scaling', '--sizes', '1000000', '--shares', '0.01', '--device', 'cpu'])
    assert [size for size in sizes if 'more' in size[2]] == [
        *((n, 1000, 'more negatives') for n in (100_000, 1_000_000, 10_000_000)),
        *((1_000_000 + p, p, 'more positives') for p in (1000, 10_000, 100_000)),
    ]
    text = report.full_report(report.read(tmp_path / 'benchmark.csv'))
    assert '| negatives, 100K to 10M logits at 1000 positives | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 |' in text
    assert '| positives, 1K to 100K at 1M negatives | 0.52 |' in text
    assert 'more negatives' not in text, 'not a line of the overview'


def test_curve(tmp_path, capsys):
    """The growth up to 100 million logits, with smaller sizes: one thread, its own files, and estimates."""
    threads = torch.get_num_threads()
    try:
        options = ['--curve', '--sizes', '1000', '50000', '--repeats', '9', '--max-seconds', '0.001', '--device', 'cpu']
        benchmark.main(['--out', str(tmp_path), *options])
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert 'scaling.csv' in capsys.readouterr().out
    drawn = ['scaling_memory.png', 'scaling_time.png'] if find_spec('matplotlib') else []
    assert sorted(path.name for path in tmp_path.iterdir()) == ['scaling.csv', *drawn]
    rows = report.read(tmp_path / 'scaling.csv')
    assert [(row['loss'], row['logits'], row['positives']) for row in rows] == [
        (loss, *size) for size in (('1000', '1'), ('50000', '50')) for loss in CURVE
    ]
    assert all(row['threads'] == '1' and float(row['peak_bytes']) >= 4 * int(row['logits']) for row in rows)
    loop = rows[CURVE.index('RS by loop') + len(CURVE)]
    assert {row['repeats'] for row in rows if row['loss'] in ('RS', 'BRS', 'cross-entropy')} == {'3'}
    table = report.curve(rows).splitlines()
    assert len(table) == 2 + len(rows) and table[2].startswith('| 1K | 1 | RS | ')
    brs = rows[CURVE.index('BRS') + len(CURVE)]
    assert table[2 + rows.index(brs)].endswith(f'| {int(brs["peak_bytes"]) / 50_000:.1f} |')
    assert '(estimated)' in table[2 + rows.index(loop)]
    report.main([str(FILE), '--curve', str(tmp_path / 'scaling.csv')])
    assert report.curve(rows) in capsys.readouterr().out
    assert loop['note'] and not loop['milliseconds'] and float(loop['estimated_milliseconds']) > 1
    assert report.value_of(loop, 'milliseconds') is None and report.estimate_of(loop, 'milliseconds') > 1
    assert report.estimate_of(loop, 'peak_bytes') is None


def test_sizes_of_the_curve(monkeypatch):
    sizes = []
    monkeypatch.setattr(benchmark, 'synthetic', lambda number, positives, *_: sizes.append((number, positives)))
    args = argparse.Namespace(curve=True, sizes=None, losses=None)
    assert {tuple(loss.name for loss in chosen) for _, chosen in benchmark.cases(args, CPU)} == {CURVE}
    assert sizes == [(10**4, 10), (10**5, 100), (10**6, 1000), (10**7, 10**4), (10**8, 10**5)]


def test_slopes():
    rows = [dict(loss='AP', logits=str(n), milliseconds=str(3 * n**1.5)) for n in (10, 100, 1000)]
    assert report.slope(rows, 'AP', 'logits') == pytest.approx(1.5)


def test_goals_that_are_missed_are_bold():
    rows = [
        dict(data='synthetic', logits='1000000', positives='1000', loss=name, to_focal=ratio)
        for name, ratio in (('AP', '2.0'), ('BAP', '2.01'), ('RS', '3.5'), ('BRS', '2.9'))
    ]
    assert report.goals(rows).splitlines()[2:] == [
        '| synthetic | 1M | 0.1 % | 2 | 2.00 | **2.01** | 3 | **3.50** | 2.90 |'
    ]


@pytest.mark.parametrize(
    ('value', 'text'), [(12.34, '12.3 s'), (0.0123, '12.3 ms'), (1.2e-5, '12 µs'), (3600.0, '60 min'), (4e4, '11 h')]
)
def test_seconds(value, text):
    assert report.seconds(value) == text


@pytest.mark.parametrize(('value', 'text'), [(1.6e9, '1.6 GB'), (2.4e11, '240 GB'), (12e6, '12 MB'), (5200, '5.2 kB')])
def test_bytes(value, text):
    assert report.bytes_of(value) == text


def test_more_files_add_losses_and_keep_their_own_ratios(tmp_path):
    """As if aLRP and DR Loss were measured later, with focal loss alone."""
    rows = report.read(FILE)
    files = [tmp_path / 'first.csv', tmp_path / 'more.csv']
    for path, losses in zip(files, (['AP', 'focal'], ['focal', 'DR']), strict=True):
        with path.open('w', newline='') as file:
            writer = csv.DictWriter(file, report.COLUMNS, extrasaction='ignore', restval='')
            writer.writeheader()
            template = next(row for row in rows if row['loss'] == 'AP')
            writer.writerows(dict(template, loss=loss, to_focal=str(len(path.name))) for loss in losses)
    together = report.read(*files)
    assert [(row['loss'], row['to_focal']) for row in together] == [('AP', '9'), ('DR', '8'), ('focal', '9')]
    files[1].write_text(files[1].read_text().replace(template['device'], 'another one'))
    with pytest.raises(SystemExit, match='different machines'):
        report.read(*files)


def test_command_line_takes_some_losses(tmp_path, capsys):
    options = ['--sizes', '2000', '--shares', '0.01', '--repeats', '1', '--device', 'cpu', '--losses', 'DR']
    benchmark.main(['--out', str(tmp_path), *options])
    assert {row['loss'] for row in report.read(tmp_path / 'benchmark.csv')} == {'DR', 'focal'}
    with pytest.raises(SystemExit):
        benchmark.main(['--out', str(tmp_path), '--losses', 'dr'])
    assert 'invalid choice' in capsys.readouterr().err


def test_profile_loss_share(shapes_root, tmp_path, capsys, monkeypatch):
    pytest.importorskip('mmdet')
    import profile_loss_share

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    config = 'configs/shapes/mask-rcnn_efficientnet-lite0_fpn_brs_1xb8-12e_shapes.py'
    options = ['--iterations', '1', '--cfg-options', 'train_dataloader.batch_size=2']
    profile_loss_share.main([config, *options, '--out', str(tmp_path / 'shares.csv')])
    row = capsys.readouterr().out.strip().splitlines()[-1]
    name, calls, step, forward, backward, share = (cell.strip() for cell in row.strip('|').split('|'))
    assert name == Path(config).stem and calls == '2', 'RPN and R-CNN'
    assert float(backward) > 0 and 0 < float(forward) < float(step)
    expected = (float(forward) + float(backward)) / float(step)
    assert float(share.rstrip('%')) / 100 == pytest.approx(expected, rel=0.2)
    assert list(csv.reader((tmp_path / 'shares.csv').open()))[1] == [name, calls, step, forward, backward, share]


@pytest.mark.slow
def test_profile_heads_at_coco_size(capsys, monkeypatch):
    pytest.importorskip('mmdet')
    import profile_loss_share

    monkeypatch.chdir(ROOT)
    profile_loss_share.main(['configs/atss/atss_r50_fpn_brs_4xb4-1x_coco.py', '--coco-size', '--iterations', '1'])
    assert re.search(r'\| atss_r50_fpn_brs_4xb4-1x_coco \| 1 \| \d+ \|', capsys.readouterr().out)
