"""Loads checkpoints without running code in them, in the same way with every torch version from 2.1.

A checkpoint is a pickle, and loading a pickle without restrictions can run code. torch and MMEngine differ by version:

=================  ================================================================================================
stack              what happens without this module
=================  ================================================================================================
torch < 2.6        ``torch.load`` runs any code in a checkpoint, and MMEngine does not restrict it
torch >= 2.6       ``torch.load`` refuses every class that it does not know, including MMEngine's log history;
                   allowing those classes would allow more than data, because a file can combine them
OneDL's MMEngine   loads a file again without restrictions if the safe load has refused it
every torch        a checkpoint that MMEngine downloads (``http://``, ``torchvision://``) loads without restrictions
=================  ================================================================================================

:func:`load_checkpoints_safely` gives all of them the same behaviour: tensors, plain containers and MMEngine's log
history load; a file that contains anything else is refused
(:mod:`~bucketed_losses.mmdet.engine.restricted_unpickler`).
"""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, Any
from urllib.parse import urlparse

import torch
from mmengine.runner import checkpoint as mmengine_checkpoint

from ...errors import UserError
from .restricted_unpickler import RestrictedUnpickler, check_complete, storage_sizes


class CheckpointError(UserError, pickle.UnpicklingError):
    """Safe loading refuses a file; the message names the file and the reason. No code of the file has run."""


class UnreadableCheckpointError(CheckpointError, EOFError, RuntimeError):
    """A file is not a checkpoint, or is incomplete; the message names the file and the reason.

    The class derives from EOFError and RuntimeError, because PyTorch raises these for such files.
    """


def safe_load(file: str | Path | IO[bytes], map_location: Any = None, mmap: bool | None = None) -> Any:
    """``torch.load`` that refuses everything except tensors, plain containers and MMEngine's log history.

    Args:
        file: A path or a file opened for reading.
        map_location: As for :func:`torch.load`.
        mmap: As for :func:`torch.load`; needs a path.

    Returns:
        The content of the file.

    Raises:
        CheckpointError: The file contains something else or is damaged. No code of the file has run.
        UnreadableCheckpointError: The file is incomplete or is not a checkpoint.
        OSError: The file cannot be read.
    """
    name = file if isinstance(file, (str, Path)) else getattr(file, 'name', 'the file')
    try:
        return _safe_load(str(file) if isinstance(file, Path) else file, map_location, mmap)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f'{name}: {error}') from error
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError, OverflowError, struct.error) as error:
        # The unpickler raises these for a file that is damaged or not a pickle.
        raise CheckpointError(f'{name}: Weights only load failed: the file is not a checkpoint ({error!r})') from error
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, EOFError, zipfile.BadZipFile) as error:
        (reason, *_) = str(error).splitlines() or [type(error).__name__]
        raise UnreadableCheckpointError(f'{name}: the file is incomplete or is not a checkpoint ({reason})') from error


def _safe_load(file: str | IO[bytes], map_location: Any, mmap: bool | None) -> Any:
    if isinstance(file, str):
        with open(file, 'rb') as opened:  # noqa: PTH123
            sizes = storage_sizes(opened)
    else:
        sizes = storage_sizes(file)

    class Unpickler(RestrictedUnpickler):
        pass

    Unpickler.sizes = sizes
    restricted: Any = SimpleNamespace(
        __name__='restricted_pickle', Unpickler=Unpickler, load=lambda opened, **options: Unpickler(opened).load()
    )
    with _own_unpickler_allowed():
        content = torch.load(file, map_location=map_location, pickle_module=restricted, weights_only=False, mmap=mmap)
    check_complete(content)
    return content


@contextmanager
def _own_unpickler_allowed() -> Iterator[None]:
    """Unset a variable that makes torch refuse any unpickler except its own; ours is stricter."""
    forced = os.environ.pop('TORCH_FORCE_WEIGHTS_ONLY_LOAD', None)
    try:
        yield
    finally:
        if forced is not None:
            os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = forced


def load_checkpoints_safely() -> None:
    """Make MMEngine's ``runner.checkpoint`` load all files with :func:`safe_load`. Importing the plug-in calls this.

    MMEngine has no setting for this. In that module only, the name ``torch`` refers to a copy of torch with another
    ``load`` function, and downloaded files are loaded by it too. It can be called repeatedly.
    """
    module: Any = mmengine_checkpoint
    module.load_url = _load_url
    module.torch = _TORCH_FOR_MMENGINE
    if hasattr(module, '_safe_torch_load'):  # in OneDL's MMEngine; it falls back to loading without restrictions
        module._safe_torch_load = lambda file, map_location=None, weights_only=None: _load(file, map_location)


def _load(file: Any, map_location: Any = None, **_: Any) -> Any:
    """:func:`safe_load` for MMEngine, without ``meta['config']``, because ``Runner.resume`` runs that text as Python.

    Checkpoints of MMDetection 2 have it. MMEngine writes ``meta['cfg']`` instead, which ``resume`` does not run.

    Raises:
        UnreadableCheckpointError: As :func:`safe_load`, or the content has no state dict.
    """
    content = safe_load(file, map_location)
    name = file if isinstance(file, (str, Path)) else getattr(file, 'name', 'the file')
    if not isinstance(content, dict):
        raise UnreadableCheckpointError(f'{name}: the file contains a {type(content).__name__}, not a checkpoint')
    if not isinstance(content.get('state_dict', content), dict):
        kind = type(content['state_dict']).__name__
        raise UnreadableCheckpointError(f'{name}: the file is not a checkpoint: its state_dict is a {kind}')
    if isinstance(content.get('meta'), dict):
        content['meta'].pop('config', None)
    return content


class _TorchThatLoadsSafely(ModuleType):
    """torch with another ``load``; all other names are looked up in torch itself."""

    def __init__(self) -> None:
        super().__init__('torch')
        self.load = _load

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


_TORCH_FOR_MMENGINE = _TorchThatLoadsSafely()


def _load_url(url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True) -> Any:
    """``torch.hub.load_state_dict_from_url`` with :func:`safe_load`.

    The function of torch loads without restrictions, in every version.
    """
    folder = Path(model_dir) if model_dir else Path(torch.hub.get_dir(), 'checkpoints')
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(urlparse(url).path).name
    if not path.exists():
        torch.hub.download_url_to_file(url, str(path), progress=progress)
    return _load(path, map_location)
