"""The warning about a learning rate that is for another number of images."""

from __future__ import annotations

import re

import pytest

pytest.importorskip('mmdet')

from launching import free_port, write_config
from mmengine.config import Config
from training_runs import run, start, train

from bucketed_losses.mmdet.engine.batch_size import base_batch_size, images_per_update, warn_of_learning_rate


def config(batch_size=4, base=16, enable=False, **optim_wrapper):
    scaling = {} if base is None else dict(auto_scale_lr=dict(base_batch_size=base, enable=enable))
    loader = {} if batch_size is None else dict(batch_size=batch_size)
    return Config(dict(train_dataloader=loader, optim_wrapper=optim_wrapper, **scaling))


@pytest.mark.parametrize(
    ('settings', 'processes', 'expected'),
    [
        (dict(), 4, None),
        (dict(), 8, r'is for 16 images .*, and 8 processes of this config train on 32\. .* by 2; --auto-scale-lr'),
        (dict(), 1, r'one process of this config trains on 4\. .* by 0\.25; --auto-scale-lr does so$'),
        (dict(batch_size=2), 3, r'on 6\. .* by 0\.375;'),
        (dict(enable=True), 8, None),
        (dict(accumulative_counts=4), 1, None),
        (dict(accumulative_counts=2), 1, r'on 8\. The linear rule multiplies it by 0\.5$'),
        (dict(base=None), 8, None),
        (dict(batch_size=None), 8, None),
    ],
)  # fmt: skip
def test_one_line_where_images_and_learning_rate_do_not_fit(settings, processes, expected, logged):
    warn_of_learning_rate(config(**settings), processes)
    assert len(logged) == (expected is not None)
    if expected:
        assert re.search(expected, logged[0]) and '\n' not in logged[0]


def test_images_of_an_update():
    assert images_per_update(config(3, accumulative_counts=5), 2) == 30
    assert images_per_update(config(None), 2) is None
    assert base_batch_size(config(base=None)) is None and base_batch_size(config(base=12)) == 12


@pytest.mark.medium
def test_tools_train_warns_once(shapes_root, tmp_path):
    """A config for 8 images, trained with one process and two images; scaled, nothing is said."""
    small = write_config(tmp_path)
    output = run(train(small, tmp_path / 'run'), shapes_root)
    assert len(re.findall('the learning rate is for 8 images', output)) == 1
    assert 'one process of this config trains on 2. The linear rule multiplies it by 0.25' in output
    scaled = run(train(small, tmp_path / 'scaled', '--auto-scale-lr'), shapes_root)
    assert 'the learning rate is for' not in scaled


@pytest.mark.medium
def test_two_processes_warn_once(shapes_root, tmp_path):
    small = write_config(tmp_path)
    port = free_port()
    both = [start(small, tmp_path / 'run', shapes_root, rank, 2, port) for rank in range(2)]
    assert [process.wait(600) for process in both] == [0, 0]
    logs = [(tmp_path / f'log{rank}').read_text() for rank in range(2)]
    assert logs[0].count('2 processes of this config train on 4') == 1 and 'learning rate is for' not in logs[1]
