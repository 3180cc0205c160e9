"""Which checkpoints are complete, and the newest of them to resume from."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from .safe_loading import CheckpointError, UnreadableCheckpointError, safe_load


def why_incomplete(path: str | Path) -> str | None:
    """Why a training cannot be resumed from a file, or None; reads all of it and compares checksums.

    Raises:
        CheckpointError: the file is complete, but holds what safe loading refuses.
    """
    return why_damaged(path) or _without_progress(path)


def why_damaged(path: str | Path) -> str | None:
    """What damage a checkpoint has, or None; reads all of it and compares checksums. Its content is not looked at."""
    if not zipfile.is_zipfile(path):
        return 'it is truncated, or no checkpoint'
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        return f'it cannot be read: {error}'
    return None if damaged is None else f'{damaged} in it is damaged'


def _without_progress(path: str | Path) -> str | None:
    try:
        # Memory-mapped: only what is looked at is read.
        content = safe_load(path, map_location='cpu', mmap=True)
    except UnreadableCheckpointError as error:
        return str(error).removeprefix(f'{path}: ')
    if not isinstance(content, dict):
        return f'it holds a {type(content).__name__}, not a checkpoint'
    missing = [key for key in ('epoch', 'iter') if not isinstance(_meta(content).get(key), int)]
    if missing:
        return (
            f'it does not say where its training stood (no meta.{" and no meta.".join(missing)}), as published weights '
            'do not; load_from starts a training from those'
        )
    return None


def _meta(content: Any) -> dict:
    meta = content.get('meta') if isinstance(content, dict) else None
    return meta if isinstance(meta, dict) else {}


def newest_complete_checkpoint(work_dir: str | Path) -> str | None:
    """The checkpoint of a work directory that has come furthest, or None; the best ones do not count.

    Incomplete ones, and other files whose name ends in ``.pth``, are passed over with a warning that names them. A
    complete one that cannot be loaded safely is an error: going back behind it without a word would lose what it holds.

    Raises:
        CheckpointError: a checkpoint holds what safe loading refuses; names the file.
    """
    work_dir = Path(work_dir)
    folders = {work_dir, *_folder_of_last_checkpoint(work_dir)}
    paths = [path for folder in folders for path in sorted(folder.glob('*.pth')) if not path.name.startswith('best_')]
    damaged = []
    progress = {}
    for path in paths:
        try:
            # Memory-mapped: only what is looked at is read. A truncated file has no directory and fails at once.
            content = safe_load(path, map_location='cpu', mmap=True)
        except (CheckpointError, OSError) as error:
            why = why_damaged(path)
            refused = isinstance(error, CheckpointError) and not isinstance(error, UnreadableCheckpointError)
            if why is None and refused:
                raise
            damaged.append((path, why or str(error).removeprefix(f'{path}: ')))
            continue
        if not isinstance(content, dict):
            damaged.append((path, f'it holds a {type(content).__name__}'))
            continue
        iteration = _meta(content).get('iter')
        if isinstance(iteration, int):  # else published weights, or another program's
            progress[path] = (iteration, path.stat().st_mtime_ns)
    chosen = None
    for path in sorted(progress, key=progress.__getitem__, reverse=True):
        why = why_damaged(path)
        if why is None:
            chosen = str(path)
            break
        damaged.append((path, why))
    for path, why in damaged:
        print_log(
            f'{path} is not a complete checkpoint: {why}. '
            + (f'Resuming from {chosen}.' if chosen else 'There is no complete one beside it.'),
            'current',
            logging.WARNING,
        )
    return chosen


def _folder_of_last_checkpoint(work_dir: Path) -> list[Path]:
    """Where MMEngine says that its last checkpoint is: it may lie elsewhere (``out_dir``)."""
    pointer = work_dir / 'last_checkpoint'
    try:
        target = pointer.read_text().strip()
        folder = Path(target).parent
        return [folder] if target and folder.is_dir() else []
    except (OSError, ValueError):  # not there, or its content was lost with the power
        return []
