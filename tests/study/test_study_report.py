"""What a study leaves: its table, its page, its figures."""

from __future__ import annotations

import csv
import json
import re
import shutil

import pytest

pytest.importorskip('pandas')
pytest.importorskip('matplotlib')

from studies import ATSS, FASTER, ROOT, detector, finished, make_up

from bucketed_losses.errors import UserError
from bucketed_losses.study.logs import read_metrics
from bucketed_losses.study.names import describe_losses
from bucketed_losses.study.outcomes import keep_three, last_error, outcome_of
from bucketed_losses.study.plan import Run
from bucketed_losses.study.progress import share_done, time_left
from bucketed_losses.study.report import accuracy_sections, write_report
from bucketed_losses.study.store import Study, read_table, results_table, write_table


@pytest.fixture
def made_up(tmp_path):
    return make_up(tmp_path)


def test_csv_has_a_row_per_run(made_up):
    with (made_up.root / 'study.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [(row['detector'], row['loss'], row['seed']) for row in rows] == [
        ('A', 'Focal+GIoU', '0'), ('A', 'DR', '0'), ('A', 'RS', '0'), ('A', 'BRS', '0'), ('A', 'BRS', '1'),
        ('A', 'BRS', '2'), ('A', 'BRS, time of RS by loop', '0'), ('F', 'CE+L1', '0'), ('F', 'RS', '0'),
    ]  # fmt: skip
    by_loss = {(row['detector'], row['loss']): row for row in rows}
    focal, stock = by_loss['A', 'Focal+GIoU'], by_loss['F', 'CE+L1']
    assert (focal['AP'], focal['AP50'], focal['APs'], focal['cell']) == ('0.4', '0.5', '0.1', '0.2')
    assert (focal['seconds per iteration'], focal['hyper-parameters']) == ('1.0', '5')
    assert (focal['peak memory (MB)'], focal['memory of']) == ('1000', 'CPU, the process')
    assert (stock['peak memory (MB)'], stock['memory of'], stock['hyper-parameters']) == ('5000', 'GPU', '9')
    diverged = by_loss['A', 'DR']
    assert (diverged['outcome'], diverged['AP'], diverged['detail']) == ('diverged', '', 'loss_cls is nan')


def test_page_has_the_tables_of_the_paper(made_up):
    page = (made_up.root / 'study.md').read_text()
    # 0.5, 0.52, 0.54: mean 0.52, sample standard deviation 0.02
    for line in (
        '| A | Focal+GIoU | 1.00 | 0.0100 | 0.400 | 5 | 1000 | 0 |',
        '|  | DR |  |  | diverged | 5 | 900 | 0 |',
        '|  | BRS | 1.05 | 0.0100 | 0.520 ± 0.020 | 1 | 1000 | 0, 1, 2 |',
        '| F | CE+L1 |  |  | 0.300 | 9 | 5000 | 0 |',
        '|  | RS |  |  | 0.000 | 3 | 1000 | 0 |',
        '| A | Focal+GIoU | 0.400 | 0.500 | 0.300 | 0.100 |  |  |',
        '| Detector | Loss | cell |',
        '| A | RS | 12 epochs | 1.49 (by loop) | 0.510 | 0.610 | 0.410 |',
        '|  | BRS | 18 epochs | 1.00 | 0.600 | 0.700 | 0.500 |',
        '| A, bbox_head.loss_cls | Focal+GIoU | early | 1 : 200 | 0.10 | 0.50 |',
        '- A, DR, seed 0: diverged. loss_cls is nan',
    ):
        assert line in page, line
    for name in re.findall(r'\]\((\w+\.png)\)', page):
        assert (made_up.root / name).stat().st_size > 10_000
    assert page.count('.png') == 3


def test_a_study_without_results_writes_nothing(tmp_path):
    write_report(Study(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('logged', 'expected'),
    [
        ({'coco/bbox_mAP': 1, 'coco/bbox_mAP_l': 2, 'coco/RBC_precision': 3}, {'AP': 1, 'APl': 2, 'RBC': 3}),
        ({'coco/bbox_mAP': 1, 'coco/segm_mAP_75': 2}, {'AP': 1, 'mask AP75': 2}),
        ({'lvis/bbox_AP': 1, 'lvis/bbox_APr': 2, 'lvis/segm_AP50': 3}, {'AP': 1, 'APr': 2, 'mask AP50': 3}),
        ({'pascal_voc/mAP': 1, 'pascal_voc/AP50': 2}, {'AP': 1, 'AP50': 2}),
        ({'data_time': 1, 'time': 2, 'coco/bbox_mAP_copypaste': 3, 'coco/AR@100': 4}, {}),
    ],
)
def test_metrics_of_other_data_sets(logged, expected, tmp_path):
    (tmp_path / 'vis_data').mkdir()
    (tmp_path / 'vis_data/scalars.json').write_text(json.dumps({'step': 7, **logged}))
    assert read_metrics(tmp_path) == [(7, expected)]


def test_a_detector_without_boxes_is_compared_by_its_masks(made_up):
    made_up.remember('SOLO', 'brs', 'BRS', '', 'SOLOv2', (True, 12))
    folder = made_up.folder('SOLO', 'brs', 0)
    finished(made_up, 'SOLO', 'brs', 0, [(12, 0.0)])
    for log in folder.glob('**/scalars.json'):
        log.write_text('{"coco/segm_mAP": 0.5, "coco/segm_mAP_75": 0.25, "coco/disc_precision": 0.4, "step": 12}')
    assert outcome_of(0, '', folder, 12) == dict(outcome='finished', detail='')
    (row,) = results_table(made_up).query("detector == 'SOLO'").to_dict('records')
    assert (row['AP'], row['AP75'], row['disc']) == (0.5, 0.25, 0.4)
    write_report(made_up)
    assert '| SOLO | BRS |  |  | 0.500 |' in (made_up.root / 'study.md').read_text()


def test_the_line_that_a_killed_run_was_writing_is_passed_over(tmp_path):
    (tmp_path / 'vis_data').mkdir()
    file = tmp_path / 'vis_data/scalars.json'
    file.write_text('{"coco/bbox_mAP": 0.5, "step": 1}\n{"coco/bbox_mAP": 0.')
    assert read_metrics(tmp_path) == [(1, {'AP': 0.5})]
    file.write_text('{"coco/bbox\n{"coco/bbox_mAP": 0.5, "step": 1}\n')
    with pytest.raises(UserError, match=r'scalars\.json: line 1 is damaged'):
        read_metrics(tmp_path)


def test_names_of_losses():
    config = pytest.importorskip('mmengine.config').Config
    for model, expected in (
        (config.fromfile(ATSS).model, ('Focal', 'GIoU')),
        (config.fromfile(FASTER).model, ('CE', 'L1')),
        (dict(roi_head=dict(bbox_head=[dict(loss_cls=dict(type='APLoss'))] * 2)), ('AP', '')),
        (dict(type='Other'), ('', '')),
    ):
        assert describe_losses(model) == expected


@pytest.mark.parametrize(
    ('text', 'error'),
    [
        ('Traceback\nRuntimeError: CUDA out of memory. Tried\nmore\n', 'RuntimeError: CUDA out of memory. Tried'),
        ('torch.OutOfMemoryError: none left', 'torch.OutOfMemoryError: none left'),
        ('Killed\n\n', 'Killed'),
        ('', 'no output'),
    ],
)
def test_last_error(text, error):
    assert last_error(text) == error


def test_the_first_the_middle_and_the_last_weights_are_kept(tmp_path):
    (tmp_path / 'run').mkdir()
    for number, kept in ((12, ['1', '6', '12']), (2, ['1', '2']), (0, [])):
        for step in range(1, number + 1):
            (tmp_path / f'run/{step}.pth').touch()
        keep_three(tmp_path)
        assert sorted((path.stem for path in tmp_path.glob('run/*')), key=int) == kept
        for path in tmp_path.glob('run/*'):
            path.unlink()


def test_a_loss_of_another_name_comes_after_those_of_the_paper(made_up):
    made_up.remember('A', 'ablation', 'RS', 'GIoU', 'ATSS', (True, 12))
    finished(made_up, 'A', 'ablation', 0, [(12, 0.45)])
    write_report(made_up)
    labels = list(results_table(made_up).query("detector == 'A'").label.unique())
    assert labels[-2:] == ['brs in equal time', 'ablation']
    assert '|  | RS+GIoU |  |  | 0.450 |  | 1000 | 0 |' in (made_up.root / 'study.md').read_text()


def test_a_run_stopped_by_a_signal_has_no_result(made_up):
    folder = made_up.folder('A', 'brs', 0)
    assert outcome_of(0, '', folder, 12) == dict(outcome='finished', detail='')
    assert outcome_of(0, '', folder, 13) == dict(
        outcome='failed', detail='stopped by a signal after step 12; the same command resumes it'
    )
    assert outcome_of(0, '', made_up.root / 'gradients', 12)['detail'] == 'no validation in its log'
    diverged = outcome_of(1, 'FloatingPointError: loss_cls is nan\nKilled', folder, 12)
    assert diverged == dict(outcome='diverged', detail='loss_cls is nan')
    assert outcome_of(1, 'KeyError: 3', folder, 12) == dict(outcome='failed', detail='KeyError: 3')


def test_progress_follows_the_logs(made_up):
    runs = [Run(detector(name='A'), 'brs', seed) for seed in (0, 7)]
    # 600 s per run are known; the first has reached its 7th of 12 epochs, the other has not begun.
    with (made_up.folder(*runs[0].key) / 'now/vis_data/scalars.json').open('a') as file:
        file.write('\n{"loss": 1.0, "step": 99, "epoch": 7}')
    assert share_done(made_up, runs[0]) == 0.5
    assert time_left(made_up, runs, runs[:1], 2) == 'about 8 min left of the study'
    assert time_left(made_up, runs * 10, [], 1) == 'about 3 h 20 min left of the study'


def test_the_time_left_does_not_follow_runs_that_were_resumed(made_up):
    """Only the seconds since their last start are known."""
    runs = [Run(detector(name='F'), loss, 7) for loss in ('stock', 'rs')]
    assert time_left(made_up, runs, [], 1) == 'about 20 min left of the study'
    shutil.copytree(made_up.folder('F', 'stock', 0) / 'now', made_up.folder('F', 'stock', 0) / 'later')
    result = made_up.result('F', 'stock', 0)
    made_up.write_result({**result, 'seconds_since_start': 60})
    assert time_left(made_up, runs, [], 1) == 'about 20 min left of the study', 'that of RS Loss'
    shutil.copytree(made_up.folder('F', 'rs', 0) / 'now', made_up.folder('F', 'rs', 0) / 'later')
    assert time_left(made_up, runs, [], 1) == 'time left not known yet'
    measured = dict(seconds_per_iteration=0.5, iterations_per_epoch=10)
    made_up.write_times('F', dict.fromkeys(['stock', 'rs'], measured))
    assert time_left(made_up, runs, [], 1) == 'about 2 min left of the study'


# The study in the docs


def test_the_page_on_studies_lists_all_files(made_up):
    page = (ROOT / 'docs/compare.md').read_text()
    files = [path.name for path in made_up.root.iterdir() if path.suffix in ('.csv', '.md', '.png')]
    assert {'study.csv', 'gradients.csv', 'study.md', 'gradients.png'} <= set(files)
    assert [name for name in files if f'`{name}`' not in page] == []


def test_the_published_page_is_what_the_report_makes_of_its_csv(tmp_path):
    folder = ROOT / 'docs/study'
    table = read_table(folder / 'study.csv')
    page = (folder / 'study.md').read_text()
    assert page.startswith('\n\n'.join(accuracy_sections(table)) + '\n\n## ')
    write_table(table, tmp_path / 'again.csv')
    assert (tmp_path / 'again.csv').read_text() == (folder / 'study.csv').read_text()
    assert set(table.outcome) <= {'finished', 'diverged'}
    for name in re.findall(r'\]\((\w+\.png)\)', page):
        assert (folder / name).is_file()
