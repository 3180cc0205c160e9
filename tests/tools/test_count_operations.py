"""The tool that counts operations."""

from __future__ import annotations

import pytest
import torch
from count_operations import LOSSES, count, main

from bucketed_losses.core import devices

pytestmark = pytest.mark.stack


def test_it_prints_a_row_for_each_loss_and_number_of_positives(capsys):
    main(['--positives', '3', '40', '--negatives', '500'])
    rows = [line.strip('| ').split(' | ') for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [[name, num] for num in ('3', '40') for name in LOSSES]
    assert all(float(row[3]) == round(int(row[2]) * 0.005, 2) for row in rows)
    main(['--positives', '40', '--negatives', '500', '--groups', '5', '--delta', '0'])
    grouped = [line.strip('| ').split(' | ') for line in capsys.readouterr().out.splitlines()[2:]]
    assert [int(row[2]) for row in grouped] != [int(row[2]) for row in rows[4:]]


def test_the_way_of_an_accelerator_ends_with_the_count():
    assert count(LOSSES['RS'], 40, 500).names
    assert devices.on_cpu(torch.zeros(1))
