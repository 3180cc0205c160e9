"""Logs of runs that were resumed, killed, or trained again in the same work directory."""

from __future__ import annotations

import json

import pytest

from bucketed_losses.errors import UserError
from bucketed_losses.study.logs import read_metrics, read_scalars


def write_log(work_dir, time, name, steps, validations=(), steps_per_epoch=10):
    """A log as MMEngine writes it: ``name`` is in all its records, and a validation follows the end of its epoch."""
    folder = work_dir / time / 'vis_data'
    folder.mkdir(parents=True)
    records = [
        (step, 0, {'loss': 1.0, 'name': name, 'epoch': -(-step // steps_per_epoch), 'step': step}) for step in steps
    ]
    records += [(e * steps_per_epoch, 1, {'coco/bbox_mAP': e / 100, 'name': name, 'step': e}) for e in validations]
    lines = [json.dumps(record) for *_, record in sorted(records, key=lambda record: record[:2])]
    (folder / 'scalars.json').write_text('\n'.join(lines))


def names(records):
    return [(record['step'], record['name']) for record in records]


def test_the_logs_of_a_resumed_run_are_joined(tmp_path, caplog):
    write_log(tmp_path, '1', 'a', [5, 10, 15, 20, 25], [1, 2])
    write_log(tmp_path, '2', 'b', [25, 30, 35, 40], [3, 4])  # from the checkpoint of the second epoch
    train, val = read_scalars(tmp_path)
    assert names(train) == [(step, 'a') for step in (5, 10, 15, 20)] + [(step, 'b') for step in (25, 30, 35, 40)]
    assert names(val) == [(1, 'a'), (2, 'a'), (3, 'b'), (4, 'b')]
    assert not caplog.records


def test_a_training_that_began_anew_counts_alone(tmp_path, caplog):
    """Also if the earlier one was longer, and if it was resumed."""
    write_log(tmp_path, '1', 'a', [5, 10, 15, 20], [1, 2])
    write_log(tmp_path, '2', 'b', [25, 30, 35, 40], [3, 4])
    write_log(tmp_path, '3', 'c', [5, 10], [1])
    write_log(tmp_path, '4', 'd', [15, 20, 25, 30], [2, 3])
    for _ in range(2):
        train, val = read_scalars(tmp_path)
        assert names(train) == [(5, 'c'), (10, 'c'), (15, 'd'), (20, 'd'), (25, 'd'), (30, 'd')]
        assert names(val) == [(1, 'c'), (2, 'd'), (3, 'd')]
    assert read_metrics(tmp_path)[-1] == (3, {'AP': 0.03})
    message = f'{tmp_path} has logs of more than one training; those before 3 do not count'
    assert [record.getMessage() for record in caplog.records] == [message], 'once'


@pytest.mark.parametrize('steps_per_epoch', [5, 20])
def test_a_training_that_began_anew_with_other_batches(steps_per_epoch, tmp_path):
    """Its first record may come later than that of the earlier training."""
    write_log(tmp_path, '1', 'a', range(10, 121, 10), range(1, 13))
    write_log(
        tmp_path, '2', 'b', range(steps_per_epoch, 6 * steps_per_epoch + 1, steps_per_epoch), range(1, 7),
        steps_per_epoch=steps_per_epoch,
    )  # fmt: skip
    train, val = read_scalars(tmp_path)
    assert names(val) == [(epoch, 'b') for epoch in range(1, 7)]
    assert names(train)[-1] == (6 * steps_per_epoch, 'b')


def test_a_run_resumed_from_an_old_checkpoint_replaces_what_came_after(tmp_path, caplog):
    """Its schedule may be shorter, too."""
    write_log(tmp_path, '1', 'a', range(5, 61, 5), range(1, 7))
    write_log(tmp_path, '2', 'b', range(25, 41, 5), [3, 4])
    train, val = read_scalars(tmp_path)
    assert names(val) == [(1, 'a'), (2, 'a'), (3, 'b'), (4, 'b')]
    assert names(train)[-1] == (40, 'b') and not caplog.records


def test_a_run_killed_before_its_first_checkpoint_starts_again_without_a_warning(tmp_path, caplog):
    write_log(tmp_path, '1', 'a', [5, 10])
    write_log(tmp_path, '2', 'b', [])  # killed before its first record
    write_log(tmp_path, '3', 'c', [5])
    assert names(read_scalars(tmp_path)[0]) == [(5, 'c')]
    assert not caplog.records


def test_of_several_runs_below_a_folder_the_last_one_counts(tmp_path, caplog):
    write_log(tmp_path / 'run_1', '1', 'a', [5, 10, 15, 20], [1, 2])
    write_log(tmp_path / 'run_2', '1', 'b', [5, 10], [1])
    assert names(read_scalars(tmp_path)[1]) == [(1, 'b')]
    assert len(caplog.records) == 1


def write_lines(work_dir, *lines):
    folder = work_dir / '1/vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(
        '\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )


def test_scalars_of_hooks_are_no_validations(tmp_path):
    """RankingVisualizationHook logs in every epoch, also between validations and in the same step."""
    lines = []
    for epoch in range(1, 6):
        lines.append(dict(loss=1.0, step=10 * epoch, epoch=epoch))
        lines.append({'ranking_error/bbox_head.loss_cls': 0.9, 'step': epoch})
        if epoch == 2:
            lines.append({'coco/bbox_mAP': 0.2, 'data_time': 0.1, 'time': 0.2, 'step': epoch})
        if epoch == 4:  # nothing was detected
            lines.append({'data_time': 0.1, 'time': 0.2, 'step': epoch})
            lines.append({'sorting_error/bbox_head.loss_cls': 0.9, 'step': epoch})
    write_lines(tmp_path, *lines)
    assert read_metrics(tmp_path) == [(2, {'AP': 0.2}), (4, {})]
    assert len(read_scalars(tmp_path)[0]) == 5


def test_validations_of_a_training_that_counts_iterations(tmp_path):
    """MMEngine logs all of them as those of epoch 0, unless log_metric_by_epoch=False."""
    lines = []
    for step in (50, 100):
        lines += [dict(loss=1.0, step=step, iter=step), {'coco/bbox_mAP': step / 1000, 'time': 0.2, 'step': 0}]
    write_lines(tmp_path, *lines)
    assert read_metrics(tmp_path) == [(50, {'AP': 0.05}), (100, {'AP': 0.1})]


def test_a_damaged_line_is_named_and_one_that_was_cut_off_is_left_out(tmp_path):
    write_lines(tmp_path, dict(loss=1.0, step=1), dict(loss=1.0, step=2), '{"loss": 1')
    assert len(read_scalars(tmp_path)[0]) == 2
    write_lines(tmp_path / 'b', dict(loss=1.0, step=1), '{"loss": 1', dict(loss=1.0, step=3))
    with pytest.raises(UserError, match=r'scalars\.json: line 2 is damaged'):
        read_scalars(tmp_path / 'b')
