"""Fixtures of the tests of the plugin."""

from __future__ import annotations

import pytest
from fake_cuda import fake_cuda  # noqa: F401
from launching import write_config


@pytest.fixture(autouse=True)
def _mmdet_scope():
    """Every test starts in MMDetection's scope and leaves the scope as it was. A Runner leaves its own one behind."""
    registry = pytest.importorskip('mmengine.registry')
    with registry.DefaultScope.overwrite_default_scope('mmdet'):
        yield


@pytest.fixture
def logged(monkeypatch):
    """What is logged, whichever logger other tests have left."""
    messages = []
    for module in (
        'datasets.checked_coco',
        'engine.batch_size',
        'engine.preemption_hook',
        'engine.slurm',
        'engine.checkpoints',
    ):
        name = f'bucketed_losses.mmdet.{module}.print_log'
        monkeypatch.setattr(name, lambda message, *args: messages.append(message))
    return messages


@pytest.fixture(scope='module')
def two_epochs(shapes_root, tmp_path_factory):
    """A finished run of two epochs of four iterations, with two workers."""
    from training_runs import MORE, run, train

    folder = tmp_path_factory.mktemp('two_epochs')
    config = write_config(folder, MORE)
    output = run(train(config, folder / 'run'), shapes_root)
    assert not (folder / 'run/preempted.pth').exists()
    return config, folder / 'run', output
