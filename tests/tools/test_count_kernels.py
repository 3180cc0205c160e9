"""The tool that counts what inductor generates."""

from __future__ import annotations

import csv

import count_kernels
import pytest
from count_kernels import FUNCTION, LIBRARY_CALL

CODE = """
aten = torch.ops.aten
cpp_fused_sort_0 = async_compile.cpp_pybinding(['const float*', 'float*'], '''...''')
        # Source: [...], Original ATen: [aten.sort, aten.add]
        cpp_fused_sort_0(arg0_1, buf0)
        buf1 = torch.ops.aten.sort.stable(buf0, stable=False, dim=0, descending=False)
        extern_kernels.mm(buf2, buf3, out=buf4)
        buf5 = aten.cumsum(buf4, 0)
"""


@pytest.mark.stack
def test_what_is_counted_in_generated_code():
    assert len(FUNCTION.findall(CODE)) == 1
    assert len(LIBRARY_CALL.findall(CODE)) == 3


@pytest.mark.slow
def test_a_loss_is_few_kernels(tmp_path, capsys):
    out = tmp_path / 'kernels.csv'
    count_kernels.main(['--positives', '50', '--negatives', '2000', '--losses', 'AP', '--out', str(out)])
    with out.open() as file:
        (row,) = csv.DictReader(file)
    assert 0 < int(row['library_calls']) + int(row['functions']) < 30
    assert int(row['kernels']) >= int(row['functions']) > 0
    assert f'| AP | 50 | {row["kernels"]} |' in capsys.readouterr().out
