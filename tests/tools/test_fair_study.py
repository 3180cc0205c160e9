"""The page of the fair study: its tables are those of the CSV files."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip('pandas')
pytest.importorskip('matplotlib')

import pandas as pd
import report_fair_study as report
from page_blocks import block_of
from studies import make_up

DOCS = Path(__file__).resolve().parents[2] / 'docs'
STUDIES = report.studies_of(DOCS)


@pytest.mark.parametrize('folder', STUDIES, ids=lambda folder: folder.name)
def test_the_page_says_what_the_csv_files_say(folder):
    assert block_of(DOCS / 'fair_study.md', folder.name) == report.table_of(folder)


@pytest.mark.parametrize('folder', STUDIES, ids=lambda folder: folder.name)
def test_losses_have_the_same_grid_and_runs_have_the_learning_rate_with_the_highest_ap(folder):
    """Some losses have more rates, where the best one was at the edge. At the end, none may be."""
    if not (folder / 'tuning.csv').is_file():
        pytest.skip('the learning rates of this study were not tuned')
    trials = pd.read_csv(folder / 'tuning.csv')
    losses = trials.groupby(['detector', 'label'])
    assert len(set.intersection(*losses.factor.agg(set))) >= 3
    for _, group in losses:
        best = group.factor[group.AP.idxmax()]
        assert group.factor.min() < best < group.factor.max()
    if not (folder / 'study.csv').is_file():
        return
    best = trials.sort_values('AP').groupby(['detector', 'label']).tail(1).set_index(['detector', 'label'])
    for run in pd.read_csv(folder / 'study.csv').to_dict('records'):
        assert run['learning rate'] == pytest.approx(best.loc[(run['detector'], run['label']), 'learning rate'])
        assert run['seed'] not in set(trials.seed)


def test_the_overview_says_what_the_csv_files_say():
    assert block_of(DOCS / 'fair_study.md', 'overview') == report.overview_of(DOCS)


def write_study(folder: Path, tuned: bool = True) -> Path:
    folder.mkdir(parents=True)
    runs = [('ATSS', 'Focal', 'stock', seed, 'finished', 0.5 + seed / 100) for seed in range(3)]
    runs += [('ATSS', 'QFL', 'QFL', 0, 'finished', 0.6), ('ATSS', 'QFL', 'QFL', 1, 'diverged', None)]
    runs += [('ATSS', 'BRS', 'brs', seed, 'finished', 0.7) for seed in (0, 2)]
    columns = ['detector', 'loss', 'label', 'seed', 'outcome', 'AP']
    pd.DataFrame(runs, columns=columns).to_csv(folder / 'study.csv', index=False)
    pairs = [
        ('ATSS', 'BRS', 'Focal', 0.19, 0.1, 0.25, 'ahead', '0 2'),
        ('ATSS', 'QFL', 'BRS', -0.1, -0.15, -0.05, 'behind', '0'),
    ]
    columns = ['detector', 'loss', 'compared with', 'difference of AP', 'low', 'high', 'verdict', 'seeds']
    pd.DataFrame(pairs, columns=columns).to_csv(folder / 'differences.csv', index=False)
    if tuned:
        trials = [('ATSS', 'Focal', 'stock', 100, factor, 'finished', ap, ap == 0.52)
                  for factor, ap in ((0.33, 0.4), (1, 0.52), (3, 0.51))]  # fmt: skip
        trials += [('ATSS', 'BRS', 'brs', 100, 1, 'diverged', None, False)]
        columns = ['detector', 'loss', 'label', 'seed', 'factor', 'outcome', 'AP', 'chosen']
        pd.DataFrame(trials, columns=columns).to_csv(folder / 'tuning.csv', index=False)
    return folder


def test_rows_of_a_tuned_study(tmp_path):
    lines = report.table_of(write_study(tmp_path / 'study')).splitlines()
    head = '| loss | AP at 0.33 x the learning rate | at 1 x | at 3 x | seeds | AP | BRS minus this loss |'
    assert lines[0] == head.replace(' x', ' \N{MULTIPLICATION SIGN}')
    assert lines[2:] == [
        '| Focal | 0.400 | **0.520** | 0.510 | 0 to 2 | 0.510 ± 0.010 | +0.190 [+0.100, +0.250], ahead (seeds 0, 2) |',
        '| QFL |  |  |  | 0, 1 | 0.600, 1 diverged | +0.100 [+0.050, +0.150], seed 0 only |',
        '| BRS |  | diverged |  | 0, 2 | 0.700 ± 0.000 |  |',
    ]


def test_a_study_that_was_not_tuned_has_no_columns_of_trials(tmp_path):
    head = report.table_of(write_study(tmp_path / 'study', tuned=False)).splitlines()[0]
    assert head == '| loss | seeds | AP | BRS minus this loss |'


def test_a_study_that_was_stopped_has_its_trials(tmp_path):
    folder = write_study(tmp_path / 'study')
    (folder / 'study.csv').unlink()
    (folder / 'differences.csv').unlink()
    assert report.studies_of(tmp_path.parent) == [] and report.table_of(folder).splitlines()[2:] == [
        '| Focal | 0.400 | **0.520** | 0.510 |',
        '| BRS |  | diverged |  |',
    ]


def test_a_study_of_several_detectors_names_them(tmp_path):
    folder = write_study(tmp_path / 'study', tuned=False)
    runs = pd.read_csv(folder / 'study.csv')
    pd.concat([runs, runs.assign(detector='batch 1')]).to_csv(folder / 'study.csv', index=False)
    lines = report.table_of(folder).splitlines()
    assert lines[0].startswith('| detector | loss |')
    assert lines[2].startswith('| ATSS | Focal |') and lines[5].startswith('| batch 1 | Focal |')
    assert lines[5].endswith('|  |'), 'the differences of another detector'


def test_a_class_that_the_study_is_about_has_a_column(tmp_path):
    folder = write_study(tmp_path / 'shapes_imbalance', tuned=False)
    runs = pd.read_csv(folder / 'study.csv')
    runs.assign(star=runs.AP - 0.3).to_csv(folder / 'study.csv', index=False)
    lines = report.table_of(folder).splitlines()
    assert lines[0] == '| loss | seeds | AP | AP of star | BRS minus this loss |'
    assert lines[2].startswith('| Focal | 0 to 2 | 0.510 ± 0.010 | 0.210 ± 0.010 | +0.190')
    assert lines[4] == '| BRS | 0, 2 | 0.700 ± 0.000 | 0.400 ± 0.000 |  |'


def test_the_overview_has_the_mean_of_each_loss_and_marks_those_that_differ_from_brs_loss(tmp_path):
    folder = write_study(tmp_path / 'study/cards_atss')
    runs = pd.read_csv(folder / 'study.csv').assign(budget='12 epochs')
    runs.to_csv(folder / 'study.csv', index=False)
    assert report.overview_of(tmp_path).splitlines() == [
        '| data | detector | epochs | own loss | QFL | VFL | IA-BCE | MAL | RS | BRS |',
        '|---' * 10 + '|',
        '| cards | ATSS | 12 | 0.510 \N{DOWNWARDS ARROW} | 0.600 |  |  |  |  | **0.700** |',
    ]


def test_the_ablation_says_what_each_row_changes(tmp_path):
    folder = write_study(tmp_path / 'cards_ablation', tuned=False)
    for name in ('study.csv', 'differences.csv'):
        table = pd.read_csv(folder / name, dtype=str, keep_default_na=False).replace('QFL', 'unbalanced')
        table.iloc[::-1].to_csv(folder / name, index=False)
    lines = report.table_of(folder).splitlines()
    assert [line.split(' | ')[0] for line in lines[2:]] == [
        '| focal loss', '| BRS Loss without self-balancing', '| BRS Loss'
    ]  # fmt: skip
    assert '+0.190 [+0.100, +0.250], ahead' in lines[2] and '+0.100 [+0.050, +0.150], seed 0 only' in lines[3]


def test_the_command_copies_the_study_and_writes_the_page(tmp_path):
    study, docs = make_up(tmp_path / 'work_dirs/cards'), tmp_path / 'docs'
    docs.mkdir()
    blocks = '<!-- cards -->\nold\n<!-- end of cards -->\nafter\n'
    (docs / 'fair_study.md').write_text(f'<!-- overview -->\n<!-- end of overview -->\n{blocks}')
    report.main([str(study.root), '--docs', str(docs)])
    folder = docs / 'study/cards'
    assert (folder / 'study.csv').read_text() == (study.root / 'study.csv').read_text()
    epochs = pd.read_csv(folder / 'epochs.csv')
    of_brs = epochs[(epochs.detector == 'A') & (epochs.label == 'brs') & (epochs.seed == 1)]
    assert of_brs[['epoch', 'AP']].values.tolist() == [[6, 0.26], [12, 0.52]]
    assert epochs[(epochs.detector == 'F') & (epochs.label == 'rs')].AP.tolist() == [0]
    text = (docs / 'fair_study.md').read_text()
    assert 'old' not in text and '| 0 to 2 | 0.520 ± 0.020 |' in text
    assert text.endswith('<!-- end of cards -->\nafter\n')
