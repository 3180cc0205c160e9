"""An unpickler that builds only data: tensors, plain containers, numbers, arrays and MMEngine's log history.

A pickle is a program for a small stack machine, and it can call any function or class that it names. A list of allowed
names is not enough: harmless functions and classes can be combined to do harm, because the program chooses their
arguments and may change their attributes. In this unpickler

* a name stands for a function of this module that checks its arguments, or for a marker that cannot be called;
* a pickle can call only these functions, and no class;
* a pickle can set the state of, or add items to, only the types below, each in one form;
* opcodes that torch and MMEngine do not write are unknown.

It is based on the standard library's unpickler in Python, because the one in C cannot be restricted in this way.
"""

from __future__ import annotations

import operator
import pickle
import re
import tarfile
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import IO, Any, NoReturn

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch.serialization import StorageType

_rebuild: Any = torch._utils
_Python: Any = pickle._Unpickler
STATISTICS = ('min', 'max', 'current', 'mean')
"""The methods that MMEngine writes into each log history."""


def refuse(why: str) -> NoReturn:
    """Stop reading a file.

    Raises:
        pickle.UnpicklingError: Always.
    """
    raise pickle.UnpicklingError(f'Weights only load failed: {why}')


# Stand-ins take the place of objects while a file is read. When a stand-in gets its state, the object replaces it.


class _Dtype:
    """A numpy dtype."""

    def __init__(self, value: np.dtype) -> None:
        self.value = value
        self.complete = False


class _Array:
    """A numpy array without content."""


class _History:
    """A HistoryBuffer without content."""


_HISTORY, _NDARRAY, _METHOD = (object() for _ in range(3))
"""Names that a file may mention, but not call: HistoryBuffer, numpy.ndarray, a statistics method."""


# The functions that are called in place of the functions and classes that a file names.


def _dtype(code: str, align: bool = False, copy: bool = False) -> _Dtype:
    if type(code) is not str or not re.fullmatch(r'[<>=|]?(?:[biufc]\d{1,2}|b1|\?)', code):
        refuse(f'it contains a numpy dtype {code!r}')
    return _Dtype(np.dtype(code))


def _value_of(dtype: Any) -> np.dtype:
    if type(dtype) is not _Dtype:
        refuse('a numpy array or number has no dtype')
    return dtype.value


def _array(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _NDARRAY or shape != (0,):
        refuse('it contains a numpy array of another kind')
    return _Array()


def _scalar(dtype: Any, data: Any) -> Any:
    value = _value_of(dtype)
    if type(data) is not bytes or len(data) != value.itemsize:
        refuse('it contains a damaged numpy number')
    return np.frombuffer(data, value)[0]


def _getattr(owner: Any, name: Any) -> Any:
    if owner is not _HISTORY or name not in STATISTICS:
        refuse(f'it asks for the attribute {name!r}')
    return _METHOD


def _encode(text: Any, encoding: Any = 'utf-8') -> bytes:
    """Bytes, in the form in which Python writes them in old versions of the format."""
    if type(text) is not str or encoding != 'latin1':
        refuse(f'it asks for the encoding {encoding!r}')
    return text.encode('latin1')


def _bytes() -> bytes:
    return b''


def _bytearray(data: Any = b'') -> bytearray:
    return bytearray(data) if type(data) is bytes else refuse('it contains a damaged bytearray')


def _set(items: Any = ()) -> set:
    return set(items) if type(items) in (list, tuple) else refuse('it contains a damaged set')


def _complex(real: float, imaginary: float) -> complex:
    return complex(real, imaginary)


def _ordered_dict(items: Any = ()) -> OrderedDict:
    return OrderedDict(items) if type(items) in (list, tuple) else refuse('it contains a damaged OrderedDict')


def _counter(items: Any = None) -> Counter:
    return Counter(items) if items is None or type(items) is dict else refuse('it contains a damaged Counter')


def _size(items: Any) -> torch.Size:
    return torch.Size([operator.index(item) for item in items])


def _device(*arguments: Any) -> torch.device:
    return torch.device(*arguments)


def _layout(name: Any) -> torch.layout:
    value = getattr(torch, str(name).removeprefix('torch.'), None)
    return value if isinstance(value, torch.layout) else refuse(f'it names the layout {name!r}')


def _checked(storage: Any) -> Any:
    if not isinstance(storage, (torch.storage.TypedStorage, torch.UntypedStorage)):
        refuse('a tensor has no storage')
    return storage


def _no_hooks(hooks: Any) -> OrderedDict:
    return refuse('a tensor has backward hooks') if hooks else OrderedDict()


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> torch.Tensor:
    return _rebuild._rebuild_tensor(_checked(storage), offset, size, stride)


def _tensor_v2(storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, *meta: Any) -> torch.Tensor:
    return _rebuild._rebuild_tensor_v2(_checked(storage), offset, size, stride, grad, _no_hooks(hooks), *meta)


def _tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *meta: Any
) -> torch.Tensor:
    return _rebuild._rebuild_tensor_v3(_checked(storage), offset, size, stride, grad, _no_hooks(hooks), dtype, *meta)


def _quantized(storage: Any, offset: Any, size: Any, stride: Any, how: Any, grad: Any, hooks: Any) -> torch.Tensor:
    return _rebuild._rebuild_qtensor(_checked(storage), offset, size, stride, how, grad, _no_hooks(hooks))


def _parameter(data: Any, grad: Any, hooks: Any) -> torch.nn.Parameter:
    if type(data) not in (torch.Tensor, torch.nn.Parameter):
        refuse('a parameter has no tensor')
    return _rebuild._rebuild_parameter(data, grad, _no_hooks(hooks))


def _parameter_with_state(data: Any, grad: Any, hooks: Any, state: Any) -> torch.nn.Parameter:
    return _with_attributes(_parameter(data, grad, hooks), state)


def _of_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    if not any(function is allowed for allowed in _TENSORS) or kind not in (torch.Tensor, torch.nn.Parameter):
        refuse('it contains a subclass of tensors')
    tensor = function(*arguments)
    return _with_attributes(tensor, state) if type(tensor) is kind else refuse('it contains a subclass of tensors')


def _with_attributes(tensor: Any, state: Any) -> Any:
    """A tensor with the attributes that a user has set; they must not hide attributes of the class."""
    if type(state) is tuple and len(state) == 2 and not state[1]:
        state = state[0]
    names = state if type(state) is dict else refuse('the attributes of a tensor are damaged') if state else {}
    if any(type(name) is not str or name.startswith('_') or hasattr(torch.Tensor, name) for name in names):
        refuse(f'it sets the attributes {", ".join(map(str, names))} of a tensor')
    tensor.__dict__.update(names)
    return tensor


_TENSORS = (_tensor, _tensor_v2, _tensor_v3, _quantized, _parameter, _parameter_with_state)


@lru_cache
def _functions() -> dict[str, Callable]:
    functions: dict[str, Callable] = {
        'numpy.dtype': _dtype,
        'builtins.getattr': _getattr,
        'builtins.bytes': _bytes,
        'builtins.bytearray': _bytearray,
        'builtins.set': _set,
        'builtins.complex': _complex,
        '_codecs.encode': _encode,
        'collections.OrderedDict': _ordered_dict,
        'collections.Counter': _counter,
        'torch.Size': _size,
        'torch.device': _device,
        'torch.serialization._get_layout': _layout,
        'torch._utils._rebuild_tensor': _tensor,
        'torch._utils._rebuild_tensor_v2': _tensor_v2,
        'torch._utils._rebuild_tensor_v3': _tensor_v3,
        'torch._utils._rebuild_qtensor': _quantized,
        'torch._utils._rebuild_parameter': _parameter,
        'torch._utils._rebuild_parameter_with_state': _parameter_with_state,
        'torch._tensor._rebuild_from_type_v2': _of_type,
    }
    for package in ('numpy._core', 'numpy.core'):  # numpy 2 and 1
        functions |= {f'{package}.multiarray._reconstruct': _array, f'{package}.multiarray.scalar': _scalar}
    return functions


@lru_cache
def _values() -> dict[str, Any]:
    values: dict[str, Any] = {
        'mmengine.logging.history_buffer.HistoryBuffer': _HISTORY,
        'numpy.ndarray': _NDARRAY,
        'torch.Tensor': torch.Tensor,
        'torch.nn.parameter.Parameter': torch.nn.Parameter,
        'torch.storage.UntypedStorage': torch.UntypedStorage,
    }
    values |= {f'mmengine.logging.history_buffer.HistoryBuffer.{name}': _METHOD for name in STATISTICS}
    return values | {str(v): v for v in vars(torch).values() if isinstance(v, (torch.dtype, torch.qscheme))}


# fmt: off
_HARMLESS = (
    'PROTO', 'FRAME', 'STOP', 'MARK', 'NONE', 'NEWTRUE', 'NEWFALSE', 'BININT', 'BININT1', 'BININT2', 'LONG1',
    'LONG4', 'BINFLOAT', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'BINSTRING', 'SHORT_BINSTRING',
    'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3', 'EMPTY_TUPLE',
    'EMPTY_LIST', 'EMPTY_DICT', 'EMPTY_SET', 'FROZENSET', 'GLOBAL', 'STACK_GLOBAL', 'BINGET', 'LONG_BINGET',
    'BINPUT', 'LONG_BINPUT', 'MEMOIZE',
)
# fmt: on
"""Opcodes that create numbers, strings and containers, look up names, or remember objects."""


class RestrictedUnpickler(_Python):
    """The unpickler that the docstring of this module describes; torch uses it in place of ``pickle.Unpickler``.

    Attributes:
        sizes: Number of bytes of each storage in the file, by its key; None if the file does not contain it.
    """

    sizes: dict[str, int] | None = None

    def find_class(self, module: str, name: str) -> Any:
        module = {'__builtin__': 'builtins', 'torch.tensor': 'torch._tensor'}.get(module, module)
        full = f'{module}.{name}'
        for names in (_functions(), _values()):
            if full in names:
                return names[full]
        return refuse(
            f'Unsupported global: GLOBAL {full}. The file is not loaded: it names more than tensors, plain containers '
            "and MMEngine's log history"
        )

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if type(arguments) is not tuple or not any(function is allowed for allowed in _functions().values()):
            refuse(f'it calls {function!r}')
        self.stack[-1] = function(*arguments)

    def load_newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if kind is _HISTORY and arguments == ():
            self.append(_History())
        elif kind is _counter and arguments == ():
            self.append(Counter())
        elif kind is torch.nn.Parameter and arguments and type(arguments[0]) is torch.Tensor:
            self.append(torch.nn.Parameter(*arguments))
        else:
            refuse(f'it creates an object of {kind!r}')

    def load_build(self) -> None:
        state, receiver = self.stack.pop(), self.stack[-1]
        kind = type(receiver)
        if kind is _Dtype:
            self._finish_dtype(receiver, state)
        elif kind is _Array:
            self._replace(_filled_array(state))
        elif kind is _History:
            self._replace(_filled_history(state))
        elif kind is OrderedDict and type(state) is dict and set(state) <= {'_metadata'}:
            receiver.__dict__.update(state)
        elif kind is torch.Tensor and type(state) is tuple and state:  # written by torch before 0.4
            receiver.set_(_checked(state[0]), *state[1:])
        else:
            refuse(f'it sets the state of a {kind.__name__}')

    @staticmethod
    def _finish_dtype(dtype: _Dtype, state: Any) -> None:
        plain = type(state) is tuple and len(state) >= 8 and all(part is None for part in state[2:5])
        if dtype.complete or not plain or state[1] not in ('<', '>', '|', '='):
            refuse('it contains a numpy dtype with fields')
        dtype.value, dtype.complete = dtype.value.newbyteorder(state[1]), True

    def _replace(self, value: Any) -> None:
        """Put the object in place of its stand-in."""
        stand_in, self.stack[-1] = self.stack[-1], value
        for key, remembered in self.memo.items():
            if remembered is stand_in:
                self.memo[key] = value

    def load_binpersid(self) -> None:
        key = self.stack.pop()
        known = type(key) is tuple and len(key) >= 5 and key[0] in ('storage', b'storage')
        if not known or not (isinstance(key[1], StorageType) or key[1] is torch.UntypedStorage):
            refuse('it contains a storage of another kind')
        if type(key[4]) is not int or key[4] < 0:
            refuse('a storage has no size')
        if self.sizes is not None:
            dtype = torch.uint8 if key[1] is torch.UntypedStorage else getattr(key[1], 'dtype', torch.uint8)
            if self.sizes.get(str(key[2])) != key[4] * _rebuild._element_size(dtype):
                refuse('a storage has another size than its data')
        self.append(self.persistent_load(key))

    dispatch = {getattr(pickle, name)[0]: _Python.dispatch[getattr(pickle, name)[0]] for name in _HARMLESS} | {
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.BUILD[0]: load_build,
        pickle.BINPERSID[0]: load_binpersid,
    }


def _adds_to(opcode: bytes, kinds: tuple[type, ...], depth: int) -> Callable[[Any], None]:
    """An opcode that adds items to the object ``depth`` below the top of the stack; 0 is the object below the mark."""

    def load(self: Any) -> None:
        receiver = self.stack[-depth - 1] if depth else self.metastack[-1][-1]
        if type(receiver) not in kinds:
            refuse(f'it adds items to a {type(receiver).__name__}')
        _Python.dispatch[opcode[0]](self)

    return load


RestrictedUnpickler.dispatch |= {
    pickle.APPEND[0]: _adds_to(pickle.APPEND, (list,), 1),
    pickle.APPENDS[0]: _adds_to(pickle.APPENDS, (list,), 0),
    pickle.SETITEM[0]: _adds_to(pickle.SETITEM, (dict, OrderedDict, Counter), 2),
    pickle.SETITEMS[0]: _adds_to(pickle.SETITEMS, (dict, OrderedDict, Counter), 0),
    pickle.ADDITEMS[0]: _adds_to(pickle.ADDITEMS, (set,), 0),
}


def _filled_array(state: Any) -> np.ndarray:
    if type(state) is not tuple or len(state) != 5:
        refuse('it contains a damaged numpy array')
    _, shape, dtype, fortran, data = state
    value = _value_of(dtype)
    if type(data) is not bytes or type(shape) is not tuple:
        refuse('it contains a damaged numpy array')
    return np.frombuffer(data, value).copy().reshape(shape, order='F' if fortran else 'C')


def _filled_history(state: Any) -> HistoryBuffer:
    if type(state) is not dict or set(state) - {'max_length', '_log_history', '_count_history', 'statistics_methods'}:
        refuse('it contains a damaged log history')
    log, count, length = state.get('_log_history'), state.get('_count_history'), state.get('max_length')
    arrays = [value for value in (log, count) if type(value) is np.ndarray and value.ndim == 1]
    methods = state.get('statistics_methods', {})
    if len(arrays) != 2 or len(arrays[0]) != len(arrays[1]) or type(length) is not int or type(methods) is not dict:
        refuse('it contains a damaged log history')
    if any(method is not _METHOD for method in methods.values()):
        refuse('its log history contains a function')
    history = HistoryBuffer(max_length=length)
    history._log_history, history._count_history = arrays
    return history


def check_complete(value: Any) -> None:
    """Check that the content of a file contains no stand-in.

    Raises:
        pickle.UnpicklingError: It contains one, so the file is damaged.
    """
    seen: set[int] = set()
    todo = [value]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            todo += [*value, *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            todo += value
        elif type(value) in (_Dtype, _Array, _History) or any(value is m for m in (_HISTORY, _NDARRAY, _METHOD)):
            refuse('it contains an object without content, or a numpy dtype alone')
        elif callable(value) and any(value is function for function in _functions().values()):
            refuse('it contains a function')


def storage_sizes(file: IO[bytes]) -> dict[str, int] | None:
    """Number of bytes of each storage in a zip file, by key; None for a file in torch's old format.

    Raises:
        pickle.UnpicklingError: The file contains code (TorchScript), is a tar archive of torch before 0.1.10, or its
            directory is ambiguous.
    """
    start = file.tell()
    is_zip = file.read(4) == b'PK\x03\x04'
    file.seek(start)
    if not is_zip:
        if start == 0:
            try:
                with tarfile.open(fileobj=file, mode='r:'):
                    refuse('the format of torch before 0.1.10 is not supported')
            except tarfile.TarError:
                pass
            finally:
                file.seek(start)
        return None
    reader: Any = torch._C.PyTorchFileReader(file)
    records = reader.get_all_records()
    if any(record == 'constants.pkl' or record.startswith('code/') for record in records):
        refuse('the file is a TorchScript archive, which contains code')
    file.seek(start)
    sizes = {}
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename.partition('/')[2] or entry.filename: entry for entry in archive.infolist()}
        if sorted(entries) != sorted(records) or len(entries) != len(archive.infolist()):
            refuse('its directory is ambiguous')
        for record, entry in entries.items():
            if not record.startswith('data/'):
                continue
            file.seek(start + entry.header_offset + 26)
            lengths = (int.from_bytes(file.read(2), 'little') for _ in range(2))
            offset = entry.header_offset + 30 + sum(lengths)
            if reader.get_record_offset(record) != offset or entry.compress_type != zipfile.ZIP_STORED:
                refuse('its directory is ambiguous')
            sizes[record.removeprefix('data/')] = entry.file_size
    file.seek(start)
    return sizes
