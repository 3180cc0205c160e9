"""What a study runs, from its command line."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

pytest.importorskip('mmdet')

from command_line import parse, run_verb
from studies import ATSS, FASTER, detector, plan

from bucketed_losses.cli._requirements import MissingPackagesError, Requirements, require
from bucketed_losses.cli.compare import executor_from
from bucketed_losses.errors import UserError
from bucketed_losses.study.executors import LocalExecutor
from bucketed_losses.study.lock import only_study
from bucketed_losses.study.plan import Plan, Refusal
from bucketed_losses.study.run import StudyRunner


def test_first_seeds_of_all_losses_come_first(tmp_path):
    seeds = ['--seeds', 'brs=0,1,2', '4,5']
    runs = plan(tmp_path, '--losses', 'stock', 'brs', 'dr', *seeds).runs()
    assert [(run.loss, run.seed) for run in runs] == [
        ('stock', 4), ('brs', 0), ('dr', 4), ('stock', 5), ('brs', 1), ('dr', 5), ('brs', 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--losses', 'focal'], 'invalid choice'),
        (['--seeds', 'brs=x'], r'expected 0,1,2 or LOSS=0,1,2 with one of stock, rs, brs, got .brs=x'),
        (['--seeds', 'dr=1'], 'got .dr=1'),
        (['--seeds', '0', '1', '2'], r'--seeds: .0. and .1. are both for all losses; separate .* by commas: 0,1$'),
        (['--seeds', '3', 'brs=0', 'brs=1,2'], r'.brs=0. and .brs=1,2. are both for brs; .*: brs=0,1,2$'),
        (['--lr-factors', '0.33', '1', '3'], r'--lr-factors: .0.33. and .1. are both for all losses; .*: 0.33,1$'),
        (['--losses', 'brs', '--equal-time'], 'add both to --losses'),
        (['--jobs', '0'], 'must be 1 or more'),
        (['--gpus', '0'], 'must be 1 or more'),
        (['--detectors', f'a/b={ATSS}'], 'may contain letters'),
        (['--detectors', f'A={ATSS}', f'A={FASTER}'], r'two detectors have the same name \(ATSS, A, A\)'),
        (['--slurm', 'partition=gpu'], '--slurm needs --executor slurm'),
        (['--cfg-options', 'a=1', 'foo'], "--cfg-options: write KEY=VALUE, got 'foo'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run_verb('compare', tmp_path / 'study', '--detectors', f'ATSS={ATSS}', *arguments)


def test_a_parameter_of_slurm_without_a_value_is_named(tmp_path):
    args = parse('compare', [tmp_path, '--detectors', ATSS, '--executor', 'slurm', '--slurm', 'foo'])
    with pytest.raises(UserError, match=r"--slurm: write KEY=VALUE, got 'foo'"):
        executor_from(args, plan(tmp_path), lock=None)


def test_wrong_configs_are_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(Refusal, match=r'there is no file nowhere\.py'):
        run_verb('compare', tmp_path / 'study', '--detectors', 'nowhere.py')
    assert not (tmp_path / 'study/times').exists() and not (tmp_path / 'study/runs').exists()


def test_a_plan_can_be_made_without_a_command_line(tmp_path):
    made = Plan(tmp_path, [detector()], ['stock'], {'stock': [3]})
    assert [str(run) for run in made.runs()] == ['ATSS stock seed 3']
    with pytest.raises(Refusal, match='add both'):
        Plan(tmp_path, [detector()], ['brs'], {'brs': [0]}, equal_time=True)


def test_two_studies_in_one_folder_are_refused(tmp_path):
    with (
        only_study(tmp_path),
        pytest.raises(Refusal, match=rf'another study writes into .* .process {os.getpid()},'),
        only_study(tmp_path),
    ):
        pass
    with only_study(tmp_path):
        pass


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(number, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, 'flock', flock)
    words = rf'study/\.lock cannot be locked: {os.strerror(number)}; .*give a STUDY on another one'
    with pytest.raises(Refusal, match=words), only_study(tmp_path / 'study'):
        pass


def test_a_study_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / 'file').write_text('precious')
    for folder in (tmp_path / 'file', tmp_path / 'file/below'):
        with pytest.raises(UserError, match=rf'\(STUDY\) {folder}: .*file is a file, not a folder'):
            run_verb('compare', folder, '--detectors', ATSS)
    (tmp_path / 'study/.lock').mkdir(parents=True)  # as a file of another user, it cannot be opened
    with pytest.raises(UserError, match=r'study/\.lock cannot be written: Is a directory'):
        run_verb('compare', tmp_path / 'study', '--detectors', ATSS)
    assert (tmp_path / 'file').read_text() == 'precious'


def test_configs_are_trained_on_this_machine_one_by_one_by_default(tmp_path):
    args = parse('compare', [tmp_path, '--detectors', ATSS])
    with only_study(tmp_path) as lock:
        assert executor_from(args, plan(tmp_path), lock).jobs == 1


def test_a_missing_package_names_its_extra():
    require(Requirements('study', ('json',)))
    with pytest.raises(MissingPackagesError, match=r'no_such_a, no_such_b are not installed: pip install "bucketed-l'):
        require(Requirements('study', ('no_such_a', 'no_such_b', 'json')))
    with pytest.raises(ImportError, match=r'no_such_b is not installed: pip install "bucketed-losses\[slurm\]"'):
        require(Requirements('slurm', ('no_such_b',)))


def test_runs_of_a_row_have_the_same_number_of_gpus(tmp_path):
    def prepared(gpus, seed):
        made = plan(tmp_path, '--losses', 'brs', '--gpus', gpus, '--seeds', seed)
        with only_study(tmp_path) as lock:
            return StudyRunner(made, LocalExecutor(lock)).prepare()

    prepared('2', '0')
    assert [run.seed for run in prepared('2', '1')] == [1]
    with pytest.raises(Refusal, match=r'ATSS brs has --gpus 2 in .*, got --gpus 4; .* use another STUDY'):
        prepared('4', '2')
