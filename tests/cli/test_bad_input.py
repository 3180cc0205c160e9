"""What a user gets wrong in configs, launchers, folders and checkpoints: one line on stderr, and exit status 2.

The line says what to do, and nothing is left half-written. Command lines run in this process where they can.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmdet')

import numpy as np
from launching import ROOT, environment, free_port
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from squares import training

from bucketed_losses import errors
from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.engine.config_checks import find_config, read_config
from bucketed_losses.new_files import check_folder, new_files
from bucketed_losses.study.times import TimedRun

MMDET_CONFIG = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'


@HOOKS.register_module()
class PressCtrlC(Hook):
    """Send this process the signal of Ctrl-C after an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGINT)


# Configs


BROKEN = {
    'nowhere.py': (None, r'nowhere\.py: there is no file'),
    'config.txt': ('', r'must end in \.py'),
    'base.py': ("_base_ = './nowhere.py'\n", r'base\.py: .*missing: .*nowhere\.py'),
    'syntax.py': ('a = 1\nmodel = dict(\n', r"syntax\.py: syntax error in this file, line 2, 'model = dict\('"),
    'inherits.py': (
        "_base_ = './wrong.py'\n",
        r"inherits\.py: syntax error in a file that it inherits, line 1, 'b = \['",
    ),
    'name.py': (
        'a = 1\nmodel = nothing\n',
        r"name\.py: NameError: name 'nothing' is not defined \(.*name\.py, line 2\)",
    ),
    'module.py': ("custom_imports = dict(imports=['no_such_module'])\n", r'module\.py: .*no_such_module'),
    'data.json': ('{"model": ', r'data\.json: '),
    'empty.py': ("work_dir = 'x'\n", r'empty\.py.* has no model'),
}


@pytest.mark.parametrize('tool', ['train', 'test', 'calibrate', 'swap', 'plot-ranks', 'convert'])
@pytest.mark.parametrize('name', BROKEN)
def test_a_config_that_cannot_be_read(name, tool, trained, tmp_path, refused):
    text, words = BROKEN[name]
    (tmp_path / 'wrong.py').write_text('b = [\n')
    if text is not None:
        (tmp_path / name).write_text(text)
    if tool == 'swap' and name == 'module.py':
        pytest.skip('it imports nothing')
    more = {'train': [], 'swap': [], 'test': [trained], 'calibrate': [trained]}
    arguments = [tmp_path / name, *more.get(tool, [trained, '--out', tmp_path / 'out'])]
    refused(tool, arguments, words)


@pytest.mark.parametrize('key', ['train_dataloader', 'optim_wrapper', 'train_cfg', 'val_evaluator'])
def test_a_config_without_a_part_of_a_training(key, data, tmp_path, refused):
    config = tmp_path / 'part.py'
    config.write_text(f"_base_ = '{data}/config.py'\n{key} = None\n")
    refused('train', [config, '--work-dir', tmp_path / 'run'], rf'part\.py has no {key};')


@pytest.mark.parametrize(
    'option, line, words',
    [
        ('--amp', 'optim_wrapper = None', r'has no optim_wrapper;'),
        ('--auto-scale-lr', 'auto_scale_lr = None', r'has no auto_scale_lr\.base_batch_size'),
        ('--auto-scale-lr', 'auto_scale_lr = dict(base_batch_size=None)', r'has no auto_scale_lr\.base_batch_size'),
    ],
)
def test_an_option_of_the_training_without_its_settings(option, line, words, data, tmp_path, refused):
    config = tmp_path / 'part.py'
    config.write_text(f"_base_ = '{data}/config.py'\n{line}\n")
    refused('train', [config, option, '--work-dir', tmp_path / 'run'], rf'part\.py {words}')


def test_configs_by_package_name(trained, tmp_path, refused, command):
    """``mmdet::`` in every command that takes a config: the first thing that is wrong is the data."""
    if not find_config(MMDET_CONFIG).is_file():
        pytest.skip('needs the configs of an installed MMDetection')
    options = ['--work-dir', tmp_path / 'run', '--cfg-options', f'data_root={tmp_path}/']
    missing = r'retinanet_r50_fpn_1x_coco\.py: .*instances_{}2017\.json does not exist'
    refused('train', [MMDET_CONFIG, *options], missing.format('train'))
    refused('test', [MMDET_CONFIG, trained, *options], missing.format('val'))
    refused('calibrate', [MMDET_CONFIG, trained, *options], missing.format('val'))
    refused('plot-ranks', [MMDET_CONFIG, trained, '--out', tmp_path / 'x.png', *options], missing.format('train'))
    refused('train', [MMDET_CONFIG.replace('1x', '1y'), *options], "there is no file .*did you mean 'retinanet_r50")
    refused('train', ['nopackage::a.py', *options], 'the package nopackage is not installed')
    for package in ('', 'no such package', 'mmdet.models', '.', 'a::b', 'mmdet>=3'):
        refused('swap', [f'{package}::a.py'], f"'{package}' is not the name of a package; write, for example, mmdet::a")
    assert command('swap', MMDET_CONFIG)[0] == 0
    assert read_config(MMDET_CONFIG).model.type == 'RetinaNet'


@pytest.mark.parametrize('option, words', [('a', "KEY=VALUE, got 'a'"), ('pipeline.9.x=1', '--cfg-options')])
def test_wrong_options(option, words, data, tmp_path, command):
    code, err = command('train', *training(data, tmp_path, option))
    assert code == 2 and words in err and 'Traceback' not in err


# Launchers


@pytest.mark.parametrize(
    'launcher, words',
    [
        ('pytorch', r'RANK, WORLD_SIZE not set.*tools/dist_train\.sh CONFIG GPUS'),
        ('slurm', r'SLURM_PROCID.*not set.*tools/slurm_train\.sh PARTITION'),
        ('mpi', 'OMPI_COMM_WORLD_RANK.*not set.*mpirun'),
    ],
)
def test_a_launcher_that_did_not_start_the_process(launcher, words, data, trained, tmp_path, refused, monkeypatch):
    for name in [name for name in os.environ if name.startswith(('SLURM_', 'OMPI_')) or name in ('RANK', 'WORLD_SIZE')]:
        monkeypatch.delenv(name)
    for tool, arguments in (('train', []), ('test', [trained]), ('calibrate', [trained])):
        refused(tool, [data / 'config.py', *arguments, '--launcher', launcher], f'--launcher {launcher}: .*{words}')


def test_another_process_reports_what_the_first_does_not(capsys, monkeypatch):
    """The first process reports at once; another one when its launcher has not ended it."""

    @errors.one_line_errors
    def main():
        raise UserError('two\nlines')

    waited = []
    monkeypatch.setattr(errors.time, 'sleep', waited.append)
    monkeypatch.setattr(sys, 'argv', ['tools/train.py'])
    for variable, number, text in (('RANK', 0, ''), ('RANK', 3, ' (process 3)'), ('SLURM_PROCID', 1, ' (process 1)')):
        monkeypatch.delenv('RANK', raising=False)
        monkeypatch.setenv(variable, str(number))
        with pytest.raises(SystemExit, match='two\nlines') as end:
            main()
        assert end.value.code == 2
        assert capsys.readouterr().err == f'train.py: error{text}: two lines\n'
    assert waited == [errors.SECONDS_FOR_FIRST] * 2


def test_an_error_in_the_config_is_printed_once_by_torchrun(data, tmp_path):
    """And without torchrun's own traceback."""
    options = ['--work-dir', tmp_path / 'run', '--cfg-options', 'model.bbox_head.loss_cls.type=BucketedRSLos']
    command = [ROOT / 'tools/dist_train.sh', data / 'config.py', '2', *options]
    env = environment(data, Path(sys.executable), PORT=free_port())
    began = time.monotonic()
    result = subprocess.run(list(map(str, command)), env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("did you mean 'BucketedRSLoss'") == 1, result.stderr
    assert 'Traceback' not in result.stderr and time.monotonic() - began < 300


# Output


@pytest.fixture
def unwritable(tmp_path):
    """Paths that no file can be written below: a file, a folder below it and, if one can be had, a read-only folder."""
    file, locked = tmp_path / 'a_file', tmp_path / 'locked'
    file.write_text('precious')
    locked.mkdir()
    locked.chmod(0o555)
    mounted = False
    if os.access(locked, os.W_OK):  # as root
        mount = ['mount', '-t', 'tmpfs', '-o', 'ro', 'tmpfs', locked]
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    yield [file, file / 'below', *([] if os.access(locked, os.W_OK) else [locked, locked / 'below'])]
    if mounted:
        subprocess.run(['umount', '-l', locked], check=True)
    locked.chmod(0o755)
    assert file.read_text() == 'precious'


def test_an_output_folder_that_cannot_be_written_to(data, trained, unwritable, tmp_path, refused):
    config = data / 'config.py'
    for path in unwritable:
        words = r'a_file is a file' if 'a_file' in str(path) else r'cannot write files to .*locked'
        refused('train', [config, '--work-dir', path], rf'--work-dir\) {path}: .*{words}')
        refused('test', [config, trained, '--work-dir', path], rf'--work-dir\) {path}: .*{words}')
        refused('calibrate', [config, trained, '--out', path], rf'--out\) {path}: .*{words}')
        refused('swap', [MMDET_CONFIG, '--out', path / 'new.py'], rf'new\.py cannot be written to {path}: ')


@pytest.fixture
def small_files():
    """A function after which this process may write no file of more bytes (None: as before), as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, before if size is None else (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_new_files_are_whole_or_not_there(tmp_path, small_files):
    old, new = tmp_path / 'old.txt', tmp_path / 'folder/new.txt'
    old.write_text('old')
    with new_files(old, new) as names:
        for name in names:
            name.write_text('written')
        assert old.read_text() == 'old' and not new.exists() and names[0].suffix == '.txt'
    assert old.read_text() == new.read_text() == 'written'
    small_files(1000)
    words = rf'old\.txt, other\.txt cannot be written to {tmp_path}: File too large'
    with pytest.raises(UserError, match=words), new_files(old, tmp_path / 'other.txt') as names:
        names[1].write_text('short')
        names[0].write_bytes(b'x' * 2000)
    with pytest.raises(RuntimeError, match='other'), new_files(old) as (name,):
        name.write_text('half')
        raise RuntimeError('other')
    assert old.read_text() == 'written'
    assert sorted(path.name for path in tmp_path.rglob('*')) == ['folder', 'new.txt', 'old.txt']
    check_folder('folder', tmp_path / 'may/be/missing')


@pytest.fixture
def fit_of_four_images(monkeypatch):
    """Let ``calibrate`` write maps that are not fitted: four images are not enough for a real fit."""
    import bucketed_losses.mmdet.evaluation as evaluation
    from bucketed_losses.cli import calibrate as module

    report = evaluation.CalibrationReport(0.0, 0.0)
    matches = [evaluation.ClassMatches(*(np.array([0.5, 0.6]) for _ in range(4)), 1)] * 2
    fitted = module.ScoreCalibration(2, 3), [True, True]
    monkeypatch.setattr(module, 'fit_calibration', lambda *args: fitted)
    monkeypatch.setattr(module, 'cross_validated', lambda *args: matches)
    monkeypatch.setattr(module, 'calibration_errors', lambda *args: report)


@pytest.mark.usefixtures('fit_of_four_images')
def test_a_full_disk_in_calibrate(data, trained, tmp_path, refused, command, small_files):
    arguments = [data / 'config.py', trained, '--out', tmp_path / 'out', '--work-dir', tmp_path / 'run']
    small_files(trained.stat().st_size // 2)
    refused('calibrate', arguments, r'config_calibrated\.pth, .* cannot be written to .*out: File too large')
    assert not list((tmp_path / 'out').iterdir())
    small_files(None)
    assert command('calibrate', *arguments)[0] == 0
    names = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert names == [f'config_calibrated.{suffix}' for suffix in ('png', 'pth', 'py')]


@pytest.mark.usefixtures('fit_of_four_images')
def test_verbs_without_a_default_scope(data, trained, tmp_path, command):
    plain, text = tmp_path / 'plain.py', (data / 'config.py').read_text()
    for name in ('RetinaNet', 'DetDataPreprocessor', 'CocoDataset', 'CocoMetric', 'PackDetInputs'):
        text = text.replace(f"'{name}'", f"'mmdet.{name}'")
    plain.write_text(f'{text}\ndefault_scope = None\n')
    folder = ['--work-dir', tmp_path / 'run']
    assert command('calibrate', plain, trained, '--out', tmp_path, *folder)[0] == 0
    assert read_config(tmp_path / 'plain_calibrated.py').model.detector == 'mmdet.RetinaNet'
    assert command('test', tmp_path / 'plain_calibrated.py', tmp_path / 'plain_calibrated.pth', *folder)[0] == 0
    assert 'is already calibrated' in command('calibrate', tmp_path / 'plain_calibrated.py', trained)[1]
    assert command('convert', plain, trained, '--out', tmp_path / 'out.pth')[0] == 0
    timed = TimedRun(str(plain), str(tmp_path / 'run'))
    timed.step()
    assert timed.iteration_times[0] > 0


@pytest.mark.usefixtures('fit_of_four_images')
def test_a_calibrated_lazy_config_can_be_read(data, trained, tmp_path, command):
    """Text cannot inherit it, and its types are classes."""
    lazy = tmp_path / 'lazy.py'
    text = (data / 'config.py').read_text().replace("type='RetinaNet'", 'type=RetinaNet')
    lazy.write_text(f'from mmdet.models import RetinaNet\n{text}'.replace('score_thr=0.0', 'score_thr=0.3'))
    folder = ['--work-dir', tmp_path / 'run']
    assert command('calibrate', lazy, trained, '--out', tmp_path, *folder)[0] == 0
    written, original = read_config(tmp_path / 'lazy_calibrated.py'), read_config(data / 'config.py')
    assert written.model.pop('calibration') == dict(num_classes=2, num_knots=3)
    assert (written.model.pop('type'), written.model.test_cfg.score_thr) == ('mmdet.CalibratedDetector', 0.0)
    assert written.model.pop('detector').endswith('.RetinaNet') and original.model.pop('type') == 'RetinaNet'
    assert written.model == original.model and written.val_dataloader == original.val_dataloader
    assert 'bucketed_losses.mmdet' in written.custom_imports.imports
    assert command('test', tmp_path / 'lazy_calibrated.py', tmp_path / 'lazy_calibrated.pth', *folder)[0] == 0


# Checkpoints


DAMAGES = {
    'missing': (lambda path, content: path.unlink(), 'there is no such file'),
    'empty': (lambda path, content: path.write_bytes(b''), ''),
    'truncated': (lambda path, content: path.write_bytes(content[: len(content) // 2]), 'it is truncated'),
    'flipped': (
        lambda path, content: path.write_bytes(content[:9000] + bytes(50) + content[9050:]),
        'is not a complete checkpoint',
    ),
    'text': (lambda path, content: path.write_text('epoch_1 is elsewhere\n'), 'not a checkpoint'),
    'tensor': (lambda path, content: torch.save(torch.zeros(2), path), 'contains a Tensor, not a checkpoint'),
    'folder': (lambda path, content: (path.unlink(), path.mkdir()), 'directory'),
}


@pytest.mark.parametrize('tool', ['test', 'calibrate', 'plot-ranks', 'convert', 'train'])
@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_checkpoint(damage, tool, data, trained, tmp_path, refused):
    path = tmp_path / 'bad.pth'
    path.write_bytes(trained.read_bytes())
    change, words = DAMAGES[damage]
    change(path, path.read_bytes())
    more = {'plot-ranks': ['--out', tmp_path / 'out.png'], 'convert': ['--out', tmp_path / 'out.pth']}.get(tool, [])
    arguments = [data / 'config.py', *(['--resume'] if tool == 'train' else []), path, *more]
    arguments += [] if tool == 'convert' else ['--work-dir', tmp_path / 'run']
    refused(tool, arguments, r'bad\.pth', words if tool != 'train' else '')
    if tool == 'train' and damage != 'folder':
        options = ['--cfg-options', f'load_from={path}', '--work-dir', tmp_path / 'run']
        refused('train', [data / 'config.py', *options], r'bad\.pth', words)


# Ctrl-C


@pytest.mark.parametrize(
    'loop, where', [('epoch', 'epoch 2 of 2, iteration 2 of 4'), ('iteration', 'iteration 2 of 4')]
)
def test_ctrl_c_in_training(loop, where, data, tmp_path, command):
    config, work_dir = tmp_path / 'stopped.py', tmp_path / 'run'
    hook = dict(type='PressCtrlC', iteration=3)
    iterations = "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=4, val_interval=4)\n"
    config.write_text(f"_base_ = '{data}/config.py'\ncustom_hooks = [{hook}]\n{iterations if loop != 'epoch' else ''}")
    # A shell ignores the signal in what it starts in the background, and a test runner may be that.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, err = command('train', config, '--work-dir', work_dir)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert code == 130 and 'Traceback' not in err, err
    (line,) = [line for line in err.splitlines() if 'Stopped at' in line]
    assert line.startswith(f'train.py: Stopped at {where}; '), line
    if loop == 'epoch':
        assert line.endswith(f'continue with --resume (from {work_dir}/epoch_1.pth)'), line
    else:
        assert 'no checkpoint is written yet, so --resume starts from the beginning' in line
    (work_dir / 'last_checkpoint').unlink(missing_ok=True)


def test_the_files_of_a_test_and_a_picture_have_a_folder(data, trained, tmp_path, refused):
    """Refused before the work, not after it."""
    file = tmp_path / 'a_file'
    file.write_text('')
    common = [data / 'config.py', trained]
    refused('test', [*common, '--out', file / 'x.pkl', '--work-dir', tmp_path / 'run'], r'--out .*a_file is a file')
    refused(
        'plot-ranks', [*common, '--out', file / 'x.png', '--work-dir', tmp_path / 'run'], r'picture .*a_file is a file'
    )


@pytest.mark.parametrize('hooks', [None, 'None', 'dict(visualization=None)'])
def test_pictures_need_a_hook(hooks, data, trained, tmp_path, refused):
    config = tmp_path / 'hooks.py'
    text = (data / 'config.py').read_text().replace('default_hooks =', 'other =')
    config.write_text(text + ('' if hooks is None else f'default_hooks = {hooks}\n'))
    words = r'--show and --show-dir need a visualization hook in default_hooks of .*hooks\.py'
    refused('test', [config, trained, '--work-dir', tmp_path / 'run', '--show-dir', 'pictures'], words)


def test_debug_shows_the_traceback(data, tmp_path, monkeypatch):
    import train

    monkeypatch.setattr(sys, 'argv', ['tools/train.py'])
    with pytest.raises(UserError, match='is a file'):
        train.main([str(data / 'config.py'), '--work-dir', str(data / 'config.py'), '--debug'])


@pytest.mark.slow
def test_ctrl_c_in_training_with_workers(data, tmp_path):
    """As a terminal sends it: to all processes, and twice."""
    options = ['train_dataloader.num_workers=2', 'train_dataloader.batch_size=1', 'train_cfg.max_epochs=1000']
    options += ['train_dataloader.persistent_workers=True', 'train_cfg.val_interval=1000']  # no forks while it runs
    arguments = training(data, tmp_path, *options)
    log = tmp_path / 'log'
    with log.open('w') as output:
        process = subprocess.Popen(
            list(map(str, [sys.executable, ROOT / 'tools/train.py', *arguments])),
            env=environment(data, Path(sys.executable)),
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / 'run/last_checkpoint').is_file():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.05)
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.2)
        # The second one ends what still runs after the report, as a shell would: with 128 + SIGINT.
        assert process.wait(60) in (130, -signal.SIGINT), log.read_text()[-3000:]
    finally:
        process.kill()
    assert 'Traceback' not in log.read_text(), log.read_text()[-3000:]
    assert 'continue with --resume (from ' in log.read_text()


@pytest.mark.parametrize('tool', ['test', 'plot-ranks'])
def test_a_config_that_resumes_does_not_resume_when_it_is_tested(tool, data, trained, tmp_path, command):
    """The checkpoint has weights only."""
    config = tmp_path / 'resumes.py'
    config.write_text(f"_base_ = '{data}/config.py'\nresume = True\n")
    out = ['--out', tmp_path / 'ranks.png'] if tool == 'plot-ranks' else []
    status, text = command(tool, config, trained, *out, '--work-dir', tmp_path / 'run')
    assert status == 0, text
