"""What a resumed run starts from and how it ends, on a small MMEngine run."""

from __future__ import annotations

import itertools
import os

import pytest

pytest.importorskip('mmdet')

from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import Runner
from signalled_workers import Line, Points

from bucketed_losses.mmdet.engine import LastValidationHook, newest_complete_checkpoint
from bucketed_losses.study.weights_hook import WeightsHook

NUMBERS = itertools.count()


class Nothing(BaseMetric):
    """A metric that is always 0."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(nothing=0.0)


class Validations(Hook):
    """Counts validations."""

    def __init__(self):
        self.number = 0

    def after_val_epoch(self, runner, metrics=None):
        self.number += 1


class Killed(Hook):
    """The run ends in a validation, counted from 1."""

    def __init__(self, validation):
        self.left = validation

    def before_val(self, runner):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


class Predicts(Line):
    def forward(self, inputs, data_samples=None, mode='loss'):
        return super().forward(inputs, data_samples, mode) if mode == 'loss' else [0]


def build(work_dir, hooks=(), by_epoch=True, load_from=None):
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    loader = dict(dataset=Points(), batch_size=2, num_workers=0)
    validations = Validations()
    runner = Runner(
        model=Predicts(),
        work_dir=str(work_dir),
        train_dataloader=dict(sampler=sampler, **loader),
        train_cfg=dict(by_epoch=True, max_epochs=3) if by_epoch else dict(by_epoch=False, max_iters=6, val_interval=2),
        val_dataloader=dict(sampler=dict(type='DefaultSampler', shuffle=False), **loader),
        val_cfg=dict(),
        val_evaluator=[Nothing()],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        param_scheduler=dict(type='MultiStepLR', milestones=[1, 2], by_epoch=by_epoch),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1 if by_epoch else 2, by_epoch=by_epoch)),
        log_processor=dict(by_epoch=by_epoch),
        custom_hooks=[*hooks, validations],
        load_from=load_from,
        resume=load_from is not None,
        experiment_name=f'ends {next(NUMBERS)} {os.getpid()}',
    )
    return runner, validations


@pytest.mark.parametrize('by_epoch', [True, False], ids=['epochs', 'iterations'])
def test_a_run_killed_in_its_last_validation_is_validated_when_it_is_resumed(by_epoch, tmp_path):
    runner, validations = build(tmp_path, [Killed(3), LastValidationHook()], by_epoch)
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert validations.number == 2
    last = newest_complete_checkpoint(tmp_path)
    assert last.endswith('epoch_3.pth' if by_epoch else 'iter_6.pth')
    for hooks, expected in (([], 0), ([LastValidationHook()], 1)):
        runner, validations = build(tmp_path, hooks, by_epoch, last)
        runner.train()
        assert validations.number == expected


def test_other_runs_are_validated_as_often_as_before(tmp_path):
    runner, validations = build(tmp_path, [LastValidationHook()])
    runner.train()
    assert validations.number == 3
    runner, validations = build(tmp_path, [LastValidationHook()], load_from=str(tmp_path / 'epoch_1.pth'))
    runner.train()
    assert validations.number == 2


def test_a_run_resumes_with_its_learning_rate_although_newer_weights_are_there(tmp_path):
    weights = dict(interval=1, by_epoch=True, save_optimizer=False, save_param_scheduler=False, filename_tmpl='{}.pth')
    runner, _ = build(tmp_path, [WeightsHook(out_dir=str(tmp_path / 'weights'), **weights), Killed(2)])
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert [path.name for path in sorted(tmp_path.glob('weights/**/*.pth'))] == ['1.pth', '2.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_2.pth')
    # As MMEngine's own hook does, the last of the hooks.
    (tmp_path / 'last_checkpoint').write_text(str(next(tmp_path.glob('weights/**/2.pth'))))
    newest = newest_complete_checkpoint(tmp_path)
    assert newest == str(tmp_path / 'epoch_2.pth')
    runner, _ = build(tmp_path, load_from=newest)
    runner.train()
    assert runner.optim_wrapper.get_lr()['lr'] == [pytest.approx(0.001)]
