"""What a study measures, and of which losses, without a training."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

pytest.importorskip('pandas')

from studies import detector, finished

from bucketed_losses.study.commands import Ended
from bucketed_losses.study.measurements import Measurements
from bucketed_losses.study.plan import Plan
from bucketed_losses.study.store import Study

TIMES = dict(seconds_per_iteration=1.0, seconds_in_losses=0.1, seconds_by_loops=0.5, iterations_per_epoch=10)


class MeasuresAtOnce:
    """Writes what each command would, unless a config is missing or is to fail, and remembers the configs."""

    jobs = 1

    def __init__(self, fails=()):
        self.stopping = threading.Event()
        self.fails = fails
        self.measured = []

    def call(self, command, alone=False):
        assert alone
        step, arguments = command.arguments[-2], json.loads(command.arguments[-1])
        configs = [Path(path) for path in arguments.get('configs', [arguments.get('config')])]
        self.measured.append((step, *(config.stem for config in configs)))
        if not all(config.is_file() and config.stem not in self.fails for config in configs):
            return Ended(1)
        content = {str(config): TIMES for config in configs} if step == 'times' else []
        Path(arguments['out']).write_text(json.dumps(content))
        return Ended(0)


def prepared(folder, planned, losses):
    """A study that has the configs of some losses, as if trials of the others had failed."""
    study = Study(folder)
    for loss in losses:
        run = planned.first_run(planned.detectors[0], loss)
        config = study.config(*run.key)
        config.parent.mkdir(parents=True, exist_ok=True)
        config.touch()
        finished(study, *run.key, [(12, 0.5)])
        weights = study.folder(*run.key) / 'weights'
        weights.mkdir()
        (weights / '1.pth').touch()
    return study


@pytest.fixture
def planned(tmp_path):
    losses = ['stock', 'rs', 'brs']
    return Plan(tmp_path, [detector(name='A')], losses, {loss: [0] for loss in losses}, equal_time=True)


def test_a_loss_without_a_config_is_not_measured(planned, tmp_path, capsys):
    """A trial of BRS Loss has failed."""
    study, executor = prepared(tmp_path, planned, ['stock', 'rs']), MeasuresAtOnce()
    measurements = Measurements(planned, study, executor)
    measurements.times()
    measurements.gradients()
    assert executor.measured == [('times', 'stock_0', 'rs_0'), ('gradients', 'rs_0'), ('gradients', 'rs_0')]
    assert study.times('A').keys() == {'stock', 'rs'}
    measurements.times()
    measurements.gradients()
    assert len(executor.measured) == 3, 'measured already'
    assert 'not measured' not in capsys.readouterr().out


def test_nothing_is_measured_without_configs(planned, tmp_path):
    executor = MeasuresAtOnce()
    measurements = Measurements(planned, Study(tmp_path), executor)
    measurements.times()
    measurements.gradients()
    assert executor.measured == []


def test_losses_are_measured_alone_if_one_of_them_fails(planned, tmp_path, capsys):
    study, executor = prepared(tmp_path, planned, planned.losses), MeasuresAtOnce(fails=['stock_0'])
    Measurements(planned, study, executor).times()
    together = ('times', 'stock_0', 'rs_0', 'brs_0')
    alone = [('times', f'{loss}_0') for loss in planned.losses]
    assert executor.measured == [together, *alone, ('times', 'rs_0', 'brs_0')]
    assert study.times('A').keys() == {'rs', 'brs', 'rs, loops timed', 'brs, loops timed'}
    assert 'A-stock.measured.log' in capsys.readouterr().out
