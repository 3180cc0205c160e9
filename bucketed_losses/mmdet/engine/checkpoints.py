"""Checks whether checkpoints are complete, and finds the newest complete one to resume from."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from ...errors import UserError
from .safe_loading import CheckpointError, UnreadableCheckpointError, safe_load

WITHOUT_OPTIMIZER = (
    'it does not contain the state of the optimizer (it was saved with save_optimizer=False); load_from starts a '
    'training from its weights'
)
# A pickled torch.serialization.MAGIC_NUMBER, with which files in PyTorch's format before zip archives start.
OLD_FORMAT = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'


def why_incomplete(path: str | Path) -> str | None:
    """The reason why a run cannot be resumed from a file, or None if it can. Reads the whole file and checks checksums.

    Raises:
        CheckpointError: The file is complete, but contains something that safe loading refuses.
    """
    return why_damaged(path) or _without_progress(path)


def why_damaged(path: str | Path) -> str | None:
    """What damage a checkpoint has, or None; reads all of it and compares checksums. Its content is not looked at."""
    if not zipfile.is_zipfile(path):
        return _why_no_archive(Path(path))
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        return f'it cannot be read: {error}'
    return None if damaged is None else f'{damaged} in it is damaged'


def _why_no_archive(path: Path) -> str:
    if path.is_file():
        with path.open('rb') as file:
            if file.read(len(OLD_FORMAT)) == OLD_FORMAT:
                return (
                    'it is in the format that PyTorch had before 1.6, which has no checksums; load it and save it '
                    'again with torch.save to change that'
                )
    return 'it is truncated, or no checkpoint'


def _without_progress(path: str | Path) -> str | None:
    try:
        # With memory mapping, only the parts that are used are read.
        content = safe_load(path, map_location='cpu', mmap=True)
    except UnreadableCheckpointError as error:
        return str(error).removeprefix(f'{path}: ')
    if not isinstance(content, dict):
        return f'it contains a {type(content).__name__}, not a checkpoint'
    missing = [key for key in ('epoch', 'iter') if not isinstance(_meta(content).get(key), int)]
    if missing:
        return (
            f'it does not contain the progress of its run (no meta.{" and no meta.".join(missing)}), like published '
            'weights; load_from starts a training from those'
        )
    return None if 'optimizer' in content else WITHOUT_OPTIMIZER


def _meta(content: Any) -> dict:
    meta = content.get('meta') if isinstance(content, dict) else None
    return meta if isinstance(meta, dict) else {}


def check_checkpoint(path: str | Path) -> None:
    """Check that MMEngine's ``Runner`` can load a checkpoint; a URL is not checked.

    The tensors are not loaded, but their checksums are compared.

    Raises:
        UserError: As for :func:`load_safely`.
    """
    if '://' not in str(path):
        load_safely(path, mmap=zipfile.is_zipfile(path))  # torch before 1.6 wrote another format


def load_safely(path: str | Path, mmap: bool | None = None) -> dict[str, Any]:
    """The content of a complete checkpoint, on the CPU.

    Args:
        path: Its file.
        mmap: As for :func:`torch.load`.

    Raises:
        UserError: The file is missing, incomplete or not a checkpoint, or contains more than tensors and plain data.
    """
    why = why_damaged(path) if zipfile.is_zipfile(path) else None
    if why is not None:
        raise UserError(f'{path} is not a complete checkpoint: {why}')
    try:
        checkpoint = safe_load(path, map_location='cpu', mmap=mmap)
    except FileNotFoundError as error:
        raise UserError(f'{path} cannot be loaded: there is no such file') from error
    except (OSError, CheckpointError) as error:
        why = 'it is truncated' if _lacks_directory(path) else str(error)
        raise UserError(f'{path} cannot be loaded safely: {why}') from error
    if not isinstance(checkpoint, dict):
        raise UserError(f'{path} contains a {type(checkpoint).__name__}, not a checkpoint')
    return checkpoint


def _lacks_directory(path: str | Path) -> bool:
    """Whether a file starts as a zip archive and lacks the directory at its end."""
    if not Path(path).is_file() or zipfile.is_zipfile(path):
        return False
    with Path(path).open('rb') as file:
        return file.read(2) == b'PK'


def newest_complete_checkpoint(work_dir: str | Path) -> str | None:
    """The complete checkpoint with the most iterations in a work directory, or None. ``best_*`` files are not used.

    Files that are older than the one that MMEngine's ``last_checkpoint`` names do not count if they have more
    iterations than it: they are of an earlier training in the same folder, and a warning names them.

    Incomplete checkpoints, and ``.pth`` files that are not checkpoints, are skipped with a warning that names them. A
    checkpoint without the state of the optimizer is skipped, too, because a run that continued from it would start its
    learning rate anew; a warning names it if there is no other. A complete checkpoint that cannot be loaded safely is
    an error, because resuming from an older one would silently lose its progress.

    Raises:
        CheckpointError: A checkpoint contains something that safe loading refuses; the message names the file.
    """
    work_dir = Path(work_dir)
    last = _last_checkpoint(work_dir)
    folders = {work_dir, *([last.parent] if last else [])}
    paths = [path for folder in folders for path in sorted(folder.glob('*.pth')) if not path.name.startswith('best_')]
    damaged = []
    weights_only = []
    progress = {}
    for path in paths:
        try:
            # With memory mapping, only the parts that are used are read. A truncated file has no directory, so it fails
            # immediately.
            content = safe_load(path, map_location='cpu', mmap=True)
        except (CheckpointError, OSError) as error:
            why = why_damaged(path)
            refused = isinstance(error, CheckpointError) and not isinstance(error, UnreadableCheckpointError)
            if why is None and refused:
                raise
            damaged.append((path, why or str(error).removeprefix(f'{path}: ')))
            continue
        if not isinstance(content, dict):
            damaged.append((path, f'it contains a {type(content).__name__}'))
            continue
        iteration = _meta(content).get('iter')
        if not isinstance(iteration, int):  # published weights, or a file of another program
            continue
        if 'optimizer' in content:
            progress[path] = (iteration, path.stat().st_mtime_ns)
        else:
            weights_only.append(path)
    earlier = _of_an_earlier_training(progress, last)
    for path in earlier:
        del progress[path]
    chosen = None
    for path in sorted(progress, key=progress.__getitem__, reverse=True):
        why = why_damaged(path)
        if why is None:
            chosen = str(path)
            break
        damaged.append((path, why))
    if chosen is None:
        damaged += [(path, WITHOUT_OPTIMIZER) for path in weights_only]
    for path in earlier:
        print_log(
            f'{path} has more iterations than {last} and is older, so it is of an earlier training in this folder. '
            f'Resuming from {chosen}; to resume from the other one, name it after --resume.',
            'current',
            logging.WARNING,
        )
    for path, why in damaged:
        print_log(
            f'{path} is not a complete checkpoint: {why}. '
            + (f'Resuming from {chosen}.' if chosen else 'There is no complete checkpoint.'),
            'current',
            logging.WARNING,
        )
    return chosen


def _last_checkpoint(work_dir: Path) -> Path | None:
    """MMEngine's last checkpoint, which may be outside the work directory (``out_dir``), and need not exist."""
    pointer = work_dir / 'last_checkpoint'
    try:
        target = pointer.read_text().strip()
        return Path(target) if target and '\0' not in target and Path(target).parent.is_dir() else None
    except (OSError, ValueError):  # it does not exist, or a power failure has damaged its content
        return None


def _of_an_earlier_training(progress: Mapping[Path, tuple[int, int]], last: Path | None) -> list[Path]:
    """Files with more iterations than the last checkpoint that are older than it.

    Args:
        progress: Iterations and time of change of each file.
        last: The last checkpoint.
    """
    named = [path for path in progress if path.samefile(last)] if last is not None and last.exists() else []
    if not named:
        return []
    iterations, time = progress[named[0]]
    earlier = [path for path, (more, before) in progress.items() if more > iterations and before < time]
    # Only then, because all of the last checkpoint is read.
    return earlier if earlier and why_damaged(named[0]) is None else []
