"""Load checkpoints without running what they contain, on every torch from 2.1 on.

A checkpoint is a pickle, and an unrestricted pickle runs code. torch and MMEngine differ by version:

=================  ================================================================================================
stack              what happens without this module
=================  ================================================================================================
torch < 2.6        ``torch.load`` runs whatever a checkpoint contains, and MMEngine does not restrict it
torch >= 2.6       ``torch.load`` refuses every class that it does not know, MMEngine's log history among them
OneDL's MMEngine   loads once more without restrictions when the safe load has refused a file
every torch        a checkpoint that MMEngine downloads (``http://``, ``torchvision://``) loads without restrictions
=================  ================================================================================================

:func:`load_checkpoints_safely` gives all of them one behaviour: tensors, plain containers and MMEngine's log history
load; a file that names anything else is refused.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint as mmengine_checkpoint

_TORCH = tuple(int(part) for part in torch.__version__.split('+')[0].split('.')[:2])
_HAS_ALLOW_LIST = _TORCH >= (2, 4)
_IS_SAFE_BY_DEFAULT = _TORCH >= (2, 6)


def safe_load(file: str | Path | IO[bytes], map_location: Any = None, mmap: bool | None = None) -> Any:
    """``torch.load`` that refuses everything except tensors, plain containers and MMEngine's log history.

    Args:
        file: A path or a file opened for reading.
        map_location: As for :func:`torch.load`.
        mmap: As for :func:`torch.load`; needs a path.

    Returns:
        The content of the file.

    Raises:
        pickle.UnpicklingError: The file names another class or function. No code of the file has run.
        RuntimeError, EOFError, OSError: The file is incomplete or is not a checkpoint.
    """
    file = str(file) if isinstance(file, Path) else file
    if _HAS_ALLOW_LIST:
        return torch.load(file, map_location=map_location, weights_only=True, mmap=mmap)
    if _is_torchscript(file):
        raise pickle.UnpicklingError('Weights only load failed: the file is a TorchScript archive, which contains code')
    restricted: Any = SimpleNamespace(__name__='restricted_pickle', Unpickler=_Unpickler, load=_load)
    try:
        return torch.load(file, map_location=map_location, pickle_module=restricted, weights_only=False, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise pickle.UnpicklingError(f'Weights only load failed: {error}') from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # what pickle raises for any other file
        raise pickle.UnpicklingError(f'Weights only load failed: the file is not a checkpoint ({error!r})') from error


def allow_mmengine_checkpoints() -> None:
    """Allow torch's safe loading exactly what an MMEngine checkpoint holds besides tensors and plain containers.

    MMEngine 0.10 saves its log history in each checkpoint: ``HistoryBuffer`` objects around numpy arrays. Only data is
    allowed here; a checkpoint that names any other class or function is still refused. Safe to call repeatedly. Does
    nothing on torch < 2.4, whose safe loading has no such list; :func:`safe_load` brings its own there.
    """
    if _HAS_ALLOW_LIST:
        torch.serialization.add_safe_globals([_named(name, value) for name, value in _allowed().items()])


def load_checkpoints_safely() -> None:
    """Make every load of MMEngine's ``runner.checkpoint`` a safe one. Importing the plug-in calls this.

    MMEngine offers no setting for it. Downloads go through :func:`_load_url`. Where torch does not load safely by
    default, the module (and no other) sees a torch whose ``load`` is :func:`safe_load`; OneDL's function that falls
    back to unsafe loading is replaced.
    """
    allow_mmengine_checkpoints()
    module: Any = mmengine_checkpoint
    if hasattr(module, '_safe_torch_load'):
        module._safe_torch_load = lambda file, map_location=None, weights_only=None: safe_load(file, map_location)
    module.load_url = _load_url
    if not _IS_SAFE_BY_DEFAULT and module.torch is torch:
        module.torch = _TorchThatLoadsSafely()


class _TorchThatLoadsSafely(ModuleType):
    """torch with :func:`safe_load` as ``load``; everything else is looked up in torch itself."""

    def __init__(self) -> None:
        super().__init__('torch')
        self.load = safe_load

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _load_url(url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True) -> Any:
    """``torch.hub.load_state_dict_from_url`` with :func:`safe_load`.

    torch itself loads without restrictions there, in every version.
    """
    folder = Path(model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints'))  # noqa: PTH118
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(urlparse(url).path).name
    if not path.exists():
        torch.hub.download_url_to_file(url, str(path), progress=progress)
    return safe_load(path, map_location)


@lru_cache
def _allowed() -> dict[str, Any]:
    """The classes and functions of an MMEngine checkpoint, by the names that checkpoints call them."""
    names: dict[str, Any] = {
        'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': np.dtype,
        'builtins.getattr': _history_buffer_method,
    }
    for code in np.typecodes['AllInteger'] + np.typecodes['Float'] + '?':
        kind = type(np.dtype(code))
        names[f'{kind.__module__}.{kind.__name__}'] = kind
    rebuild_array: Any = np.empty(0).__reduce__()[0]
    rebuild_scalar: Any = np.float64(0).__reduce__()[0]
    for function in (rebuild_array, rebuild_scalar):
        # numpy 1 and 2 write different names for the same function.
        for package in ('numpy._core.multiarray', 'numpy.core.multiarray'):
            names[f'{package}.{function.__name__}'] = function
    return names


def _named(name: str, value: Any) -> Any:
    """An entry of torch's allow-list under a name; torch 2.4 and 2.5 take the name from the object itself."""
    if f'{value.__module__}.{value.__name__}' == name:
        return value
    if _IS_SAFE_BY_DEFAULT:
        return value, name

    def renamed(*args: Any) -> Any:
        return value(*args)

    renamed.__module__, _, renamed.__name__ = name.rpartition('.')
    return renamed


def _history_buffer_method(owner: Any, name: Any) -> Any:
    """Stands in for ``getattr`` in checkpoints, where MMEngine needs it for ``HistoryBuffer.mean`` and the like.

    The real ``getattr`` would hand a malicious checkpoint every object of the process.
    """
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(
        f'the checkpoint asks for attribute {name!r} of {owner!r}; only the statistics of HistoryBuffer are allowed'
    )


_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):
    """An unpickler for torch < 2.4 that finds only what torch's safe loading allows there, and :func:`_allowed`.

    It is the standard library's implementation in Python, because the one in C cannot restrict which objects receive
    a state.
    """

    def find_class(self, module: str, name: str) -> Any:
        from torch import _weights_only_unpickler as torch_safe

        module = 'builtins' if module == '__builtin__' else module  # its name in the pickles that torch writes
        names = {**torch_safe._get_allowed_globals(), **_allowed(), '_codecs.encode': _encode, 'builtins.set': set}
        try:
            return names[f'{module}.{name}']
        except KeyError:
            raise pickle.UnpicklingError(
                f'Unsupported global: GLOBAL {module}.{name}. The file is not loaded: it names more than tensors, '
                "plain containers and MMEngine's log history"
            ) from None

    def load_build(self) -> None:
        receiver = self.stack[-2]
        if not isinstance(receiver, (HistoryBuffer, np.ndarray, np.dtype, OrderedDict, torch.Tensor)):
            raise pickle.UnpicklingError(f'the checkpoint sets the state of a {type(receiver).__name__}')
        super().load_build()

    dispatch = {**_PythonUnpickler.dispatch, pickle.BUILD[0]: load_build}


def _encode(text: str, encoding: str = 'utf-8') -> bytes:
    """``codecs.encode`` for the one encoding in which Python writes bytes into old pickles."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'the checkpoint asks for the encoding {encoding!r}; only latin1 is allowed')
    return text.encode(encoding)


def _is_torchscript(file: str | IO[bytes]) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        found = any(Path(name).name == 'constants.pkl' for name in archive.namelist())
    if not isinstance(file, str):
        file.seek(0)
    return found


def _load(file: IO[bytes], **options: Any) -> Any:
    return _Unpickler(file, **options).load()
