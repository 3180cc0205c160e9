"""Pickles written opcode by opcode: none of them runs code, sets an attribute or creates a foreign object."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile

import pytest

pytest.importorskip('mmdet')

import torch
from mmengine.logging import HistoryBuffer

from bucketed_losses.mmdet.engine import safe_load
from bucketed_losses.mmdet.engine.restricted_unpickler import RestrictedUnpickler

pytestmark = pytest.mark.stack

HISTORY = b'cmmengine.logging.history_buffer\nHistoryBuffer\n'
ORDERED_DICT = b'ccollections\nOrderedDict\n'
EMPTY = b')'
CALL, NEW, SET_STATE = b'R', b'\x81', b'b'


def text(value):
    data = value.encode()
    return b'X' + len(data).to_bytes(4, 'little') + data


def tuple_of(*parts):
    return b'(' + b''.join(parts) + b't'


def dict_of(*pairs):
    return b'}(' + b''.join(text(key) + value for key, value in pairs) + b'u'


DTYPE = b'cnumpy\ndtype\n' + tuple_of(text('f8'), b'\x89', b'\x88') + CALL
ARRAY = b'cnumpy.core.multiarray\n_reconstruct\n' + tuple_of(b'cnumpy\nndarray\n', b'K\x00\x85', b'C\x01b') + CALL

PROGRAMS = {
    'calls os.system': b'cposix\nsystem\n' + tuple_of(text('touch executed')) + CALL,
    'calls eval': b'c__builtin__\neval\n' + tuple_of(text('1')) + CALL,
    'looks up an attribute': b'c__builtin__\ngetattr\n' + tuple_of(HISTORY, text('__init__')) + CALL,
    'calls what it looked up': b'c__builtin__\ngetattr\n' + tuple_of(HISTORY, text('mean')) + CALL + EMPTY + CALL,
    'calls a class': b'ctorch\nTensor\n' + EMPTY + CALL,
    'calls HistoryBuffer': HISTORY + EMPTY + CALL,
    'creates an object of a foreign class': b'ctorch\nTensor\n' + EMPTY + NEW,
    'creates an array itself': b'cnumpy\nndarray\n' + tuple_of(b'K\x02') + NEW,
    'old opcode for an instance': b'(icollections\nOrderedDict\n',
    'opcode for an object': b'(' + ORDERED_DICT + b'o',
    'extension registry': b'\x82\x01',
    'out-of-band buffer': b'\x97',
    'attributes of a class': b'ctorch\nTensor\n' + dict_of(('planted', b'\x88')) + SET_STATE,
    'attributes of a function': b'ctorch._utils\n_rebuild_tensor_v2\n' + dict_of(('planted', b'\x88')) + SET_STATE,
    'attributes of a dict': ORDERED_DICT + EMPTY + CALL + dict_of(('as_subclass', HISTORY)) + SET_STATE,
    'attributes of a log history': HISTORY + EMPTY + NEW + dict_of(('as_subclass', b'\x88')) + SET_STATE,
    'a function among statistics': (
        HISTORY + EMPTY + NEW + dict_of(('statistics_methods', dict_of(('mean', ORDERED_DICT)))) + SET_STATE
    ),
    'a log history of lists': (
        HISTORY
        + EMPTY
        + NEW
        + dict_of(('_log_history', b']'), ('_count_history', b']'), ('max_length', b'K\x01'))
        + SET_STATE
    ),
    'an array of objects': (
        ARRAY + tuple_of(b'K\x01', b'K\x01\x85', b'cnumpy\ndtype\n' + tuple_of(text('O8')) + CALL, b'\x89', b']')
    ),
    'an array of another class': (
        b'cnumpy.core.multiarray\n_reconstruct\n' + tuple_of(ORDERED_DICT, b'K\x00\x85', b'C\x01b') + CALL
    ),
    'a subclass of tensors': (
        b'ctorch._tensor\n_rebuild_from_type_v2\n' + tuple_of(ORDERED_DICT, ORDERED_DICT, EMPTY, b'}') + CALL
    ),
    'a tensor without storage': (
        b'ctorch._utils\n_rebuild_tensor\n' + tuple_of(HISTORY, b'K\x00', EMPTY, EMPTY) + CALL
    ),
    'a module as storage': tuple_of(text('module'), HISTORY, text('file'), text('source'), b'K\x01') + b'Q',
    'items of a set': b'c__builtin__\nset\n' + tuple_of(b']') + CALL + b'K\x01a',
    'items of a tuple': EMPTY + b'K\x01a',
    'keys of a list': b']K\x01K\x02s',
}


@pytest.mark.parametrize('name', PROGRAMS)
def test_programs_that_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(vars(torch.Tensor)), set(vars(HistoryBuffer)), dict(HistoryBuffer._statistics_methods)
    with pytest.raises((pickle.UnpicklingError, KeyError)):
        RestrictedUnpickler(io.BytesIO(b'\x80\x02' + PROGRAMS[name] + b'.')).load()
    after = set(vars(torch.Tensor)), set(vars(HistoryBuffer)), dict(HistoryBuffer._statistics_methods)
    assert before == after and not list(tmp_path.iterdir())
    assert not hasattr(torch._utils._rebuild_tensor_v2, 'planted')


def test_the_assembler_above_writes_what_is_meant():
    """Programs of the same parts that are data do load."""
    program = ORDERED_DICT + EMPTY + CALL + dict_of(('_metadata', b'}')) + SET_STATE
    loaded = RestrictedUnpickler(io.BytesIO(b'\x80\x02' + program + b'.')).load()
    assert loaded == {} and loaded._metadata == {}
    program = ARRAY + tuple_of(b'K\x01', b'K\x01\x85', DTYPE, b'\x89', b'C\x08' + bytes(8)) + SET_STATE
    assert RestrictedUnpickler(io.BytesIO(b'\x80\x02' + program + b'.')).load().tolist() == [0.0]
    program = b'c__builtin__\nset\n' + tuple_of(b']K\x01a') + CALL
    assert RestrictedUnpickler(io.BytesIO(b'\x80\x02' + program + b'.')).load() == {1}


@pytest.mark.parametrize('content', [DTYPE, HISTORY, HISTORY + EMPTY + NEW, ARRAY, ORDERED_DICT], ids=str)
def test_stand_ins_do_not_reach_the_caller(content, tmp_path):
    with zipfile.ZipFile(tmp_path / 'file.pth', 'w') as archive:
        archive.writestr('file/data.pkl', b'\x80\x02]' + content + b'a.')
        archive.writestr('file/version', b'3\n')
    with pytest.raises(pickle.UnpicklingError, match='Weights only load failed'):
        safe_load(tmp_path / 'file.pth')


def test_a_storage_that_is_larger_than_its_data(tmp_path):
    """Its tensor would show the memory behind them."""
    torch.save({'x': torch.ones(64)}, tmp_path / 'good.pth')
    with zipfile.ZipFile(tmp_path / 'good.pth') as good, zipfile.ZipFile(tmp_path / 'short.pth', 'w') as short:
        for name in good.namelist():
            content = good.read(name)
            short.writestr(name, content[:16] if name.endswith('data/0') else content)
    assert safe_load(tmp_path / 'good.pth')['x'].sum() == 64
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        safe_load(tmp_path / 'short.pth')


def test_formats_that_are_not_read(tmp_path):
    with tarfile.open(tmp_path / 'old.pth', 'w') as archive:
        archive.add(__file__, 'storages')
    with pytest.raises(pickle.UnpicklingError, match=r'torch before 0\.1\.10'):
        safe_load(tmp_path / 'old.pth')
    (tmp_path / 'text.pth').write_text('ein Text\n')
    with pytest.raises(pickle.UnpicklingError, match='Weights only load failed'):
        safe_load(tmp_path / 'text.pth')
    (tmp_path / 'empty.pth').touch()
    with pytest.raises(EOFError):
        safe_load(tmp_path / 'empty.pth')


def test_a_switch_of_torch_changes_nothing(tmp_path, monkeypatch):
    torch.save({'history': HistoryBuffer([1.0], [1])}, tmp_path / 'good.pth')
    for name in ('TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        monkeypatch.setenv(name, '1')
        assert safe_load(tmp_path / 'good.pth')['history'].mean() == 1
        monkeypatch.delenv(name)
