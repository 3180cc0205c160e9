"""The page on speed: its tables are those of the CSV files, and one command measures them again."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest
import refresh_speed
import report_benchmark as report
import speed_page
from page_blocks import block_of, write_block

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
PAGE = DOCS / 'speed.md'


@pytest.mark.parametrize('name', list(speed_page.blocks(DOCS / 'figures')))
def test_the_page_says_what_the_csv_files_say(name):
    assert block_of(PAGE, name) == speed_page.blocks(DOCS / 'figures')[name]


def test_the_page_is_written_again(tmp_path):
    shutil.copytree(DOCS / 'figures', tmp_path / 'figures')
    text = PAGE.read_text()
    (tmp_path / 'speed.md').write_text(text.replace('| BRS |', '| something else |'))
    speed_page.main(['--docs', str(tmp_path)])
    assert (tmp_path / 'speed.md').read_text() == text


def test_a_block_must_be_there_once(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('<!-- a -->\nold\n<!-- end of a -->\n<!-- b --><!-- b --><!-- end of b -->')
    write_block(page, 'a', 'new')
    assert page.read_text().startswith('<!-- a -->\nnew\n<!-- end of a -->')
    for name in 'bc':
        with pytest.raises(ValueError, match=f'must have <!-- {name} --> and <!-- end of {name} --> once each'):
            write_block(page, name, 'new')


def row(loss, milliseconds, peak=4_000_000, data='synthetic', positives=1000):
    focal = 10
    return dict(
        data=data, logits='1000000', positives=str(positives), loss=loss, milliseconds=str(milliseconds), note='',
        to_focal=str(milliseconds / focal) if milliseconds else '', peak_bytes=str(peak), device='CPU', threads='1',
        torch='2',
    )  # fmt: skip


def rows():
    times = {'AP': 10, 'BAP': 12, 'RS': 20, 'BRS': 22, 'aLRP': 15, 'DR': 16, 'focal': 10}
    large = {name: 2 * time for name, time in times.items() if name != 'focal'} | {'focal': 10}
    found = [row(name, time) for name, time in times.items()]
    found += [
        row('AP by loop', 1000),
        row('RS by loop', 3000),
        row('BAP by matrices', 120),
        row('BRS by matrices', 440),
    ]
    found += [row(name, time, 8_000_000, positives=50_000) for name, time in large.items()]
    slow = dict(row('RS by loop', '', positives=50_000), note='would take 99.8 s')
    return [*found, slow, dict(slow, loss='BRS by matrices', note='needs 60 GB for its matrices')]


def test_the_summary_has_the_ranges():
    text = speed_page.summary(rows())
    assert text.startswith('At 1M logits, 0.1 % to 5 % of them positives, a forward and backward pass')
    for sentence in (
        '* 1 to 2.4 times as long as focal loss with AP and BAP Loss;',
        '* 2 to 4.4 times as long with RS and BRS Loss',
        '* 1.5 to 3 times as long with aLRP Loss, 1.6 to 3.2 times with DR Loss.',
        'loop over positives takes 100 to 150 times as long',
        'matrices take 10 to 20 times as long',
        'Loss is 1 to 2 times that of the logits, the gradient included; focal loss takes 1 to 2 times.',
    ):
        assert sentence in text, sentence


def test_the_ratios_name_what_cannot_run():
    lines = speed_page.ratios(rows()).splitlines()
    assert lines[0] == 'Machine: CPU, one thread, torch 2.'
    assert lines[-2] == '| start of training | 1M | 0.1 % | 10 ms | 1 | 1.2 | 2 | 2.2 | 1.5 | 1.6 | 44 | 300 |'
    assert lines[-1].endswith('| 3 | 3.2 | too large | too slow |')


def test_the_curve_shows_what_was_left_out_in_italics(tmp_path):
    left_out = {'estimated_milliseconds': '', 'needed_bytes': ''}
    found = [
        {**row('RS', 2000), **left_out},
        {**row('BRS', 3000, peak=16_000_000), **left_out},
        {**row('cross-entropy', 1000, peak=12_000_000), **left_out},
        {**row('BRS by matrices', '', peak=''), **left_out, 'needed_bytes': '80000000000'},
        {**row('RS by loop', ''), **left_out, 'estimated_milliseconds': '7200000'},
    ]
    with (tmp_path / 'scaling.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    line = speed_page.curve(tmp_path).splitlines()[-1]
    assert line == '| 1M | 1,000 | 2 s | 3 s | 1 s | *80 GB* | *120 min* | 16 / 12 |'


def test_one_command_measures_every_table(tmp_path, monkeypatch):
    """The tools are not run: each writes the CSV files of the docs to where it is told to."""
    docs = tmp_path / 'docs'
    shutil.copytree(DOCS / 'figures', docs / 'figures')
    (docs / 'speed.md').write_text(PAGE.read_text())
    (docs / 'figures/benchmark_alrp_dr.csv').touch()
    ran = []

    def run(command, environment):
        ran.append(command)
        out = Path(command[command.index('--out') + 1]) if '--out' in command else None
        if out and 'benchmark_losses' in command[0]:
            out = out / ('scaling.csv' if '--curve' in command else 'benchmark.csv')
        if out:
            shutil.copy(DOCS / 'figures' / out.name, out)

    monkeypatch.setattr(refresh_speed, 'run', run)
    bccd = tmp_path / 'bccd'
    refresh_speed.main(['--docs', str(docs), '--bccd', str(bccd), '--work-dir', str(tmp_path / 'work')])
    written = {path.name for path in (tmp_path / 'work').glob('*.csv')}
    read = set(re.findall(r"'(\w+)\.csv'", (ROOT / 'tools/benchmarks/speed_page.py').read_text()))
    read |= {'loss_share_bccd', 'loss_share_coco_size'}
    assert {f'{name}.csv' for name in read} - {'benchmark_alrp_dr.csv'} == written
    assert not (docs / 'figures/benchmark_alrp_dr.csv').exists()
    assert [Path(command[0]).stem for command in ran[-2:]] == ['draw_figures', 'speed_page']
    assert all(Path(command[0]).is_file() for command in ran)
    configs = [word for command in ran for word in command if word.endswith('.py')]
    assert all(Path(config).is_file() for config in configs)
    assert not {'--config', '--checkpoint'} & {
        word for command in refresh_speed.commands(bccd, False) for word in command
    }


def test_the_csv_of_the_page_has_all_losses():
    with (DOCS / 'figures/benchmark.csv').open() as file:
        losses = {line['loss'] for line in csv.DictReader(file)}
    assert {*report.OURS, 'focal', 'RS by loop', 'BRS by matrices'} <= losses
