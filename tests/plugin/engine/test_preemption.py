"""Stops at a signal, on a small MMEngine run: no gradient is lost, logs go on counting, no worker is waited for."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip('mmdet')

import torch
from gloo import on_processes
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from signalled_workers import Line, Points

from bucketed_losses.mmdet.engine import PreemptionHook, safe_load
from bucketed_losses.mmdet.engine.gradient_accumulation import holds_gradients, iterations_between_updates

ROOT = Path(__file__).resolve().parents[3]
NUMBERS = itertools.count()


class TwoLines(BaseModel):
    """Two parameters with an optimizer each, as in a GAN; the second one counts to another number."""

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.ParameterList([torch.ones(2), torch.zeros(2)])

    def forward(self, inputs, data_samples=None, mode='loss'):
        return dict(loss=torch.zeros(()))

    def train_step(self, data, optim_wrapper):
        data = self.data_preprocessor(data, True)
        for name, weight in zip(('first', 'second'), self.weights, strict=True):
            optim_wrapper[name].update_params((torch.stack(data) @ weight - 1).square().mean())
        return dict(loss=torch.zeros(()))


class Signal(Hook):
    """The process gets a signal after an iteration, counted from 1."""

    priority = 'VERY_HIGH'

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


class Batches(Hook):
    """The numbers that batches have within their epoch."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append((runner.epoch, batch_idx))


def build(work_dir, hooks=(), counts=4, by_epoch=True, resume=False, model=None, optim_wrapper=None, seed=0,
          workers=0, own_seed=None, epoch_seed=True, **preemption):  # fmt: skip
    train_cfg = dict(by_epoch=True, max_epochs=2) if by_epoch else dict(by_epoch=False, max_iters=12)
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    if own_seed is not None:
        sampler['seed'] = own_seed
    return Runner(
        model=model or Line(),
        work_dir=str(work_dir),
        train_dataloader=dict(dataset=Points(), sampler=sampler, batch_size=2, num_workers=workers),
        train_cfg=train_cfg,
        optim_wrapper=optim_wrapper
        or dict(accumulative_counts=counts, optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1), checkpoint=dict(type='AtomicCheckpointHook')),
        log_processor=dict(by_epoch=by_epoch),
        custom_hooks=[*([dict(type='EpochSeedHook')] if epoch_seed else []), PreemptionHook(**preemption), *hooks],
        load_from=str(Path(work_dir, 'preempted.pth')) if resume else None,
        resume=resume,
        randomness=dict(seed=seed),
        experiment_name=f'preemption {next(NUMBERS)} {os.getpid()}',
        log_level='INFO',
    )


def weights(runner):
    return {name: value.clone() for name, value in runner.model.state_dict().items()}


def stopped_and_resumed(folder, iteration, **options):
    """The iteration it stopped at, and the weights in the end."""
    with pytest.raises(SystemExit) as stop:
        build(folder, [Signal(iteration)], **options).train()
    assert stop.value.code == 0
    stopped_at = safe_load(folder / 'preempted.pth')['meta']['iter']
    runner = build(folder, resume=True, **options)
    runner.train()
    assert not (folder / 'preempted.pth').exists()
    return stopped_at, weights(runner)


@pytest.fixture(autouse=True)
def put_handlers_back():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


# Two epochs of six iterations; the second update is that of iteration 8, in the second epoch.
@pytest.mark.parametrize('by_epoch', [True, False], ids=['epochs', 'iterations'])
def test_a_stop_waits_for_the_update(by_epoch, tmp_path):
    whole = build(tmp_path / 'whole', by_epoch=by_epoch)
    whole.train()
    for iteration, expected in ((2, 4), (4, 4), (6, 8), (8, 8)):
        at, resumed = stopped_and_resumed(tmp_path / str(iteration), iteration, by_epoch=by_epoch)
        assert at == expected
        for name, value in weights(whole).items():
            assert torch.equal(resumed[name], value), (iteration, name)


def test_a_stop_at_the_end_of_an_epoch_and_of_the_run(tmp_path):
    """Six iterations and counts of three: an update is the last iteration; MMEngine makes one after the last of all."""
    for counts, iteration, expected in ((3, 5, 6), (3, 6, 6), (5, 11, 12), (5, 12, 12)):
        whole = build(tmp_path / f'whole{counts}', counts=counts)
        whole.train()
        folder = tmp_path / f'{counts} {iteration}'
        at, resumed = stopped_and_resumed(folder, iteration, counts=counts)
        assert at == expected
        assert torch.equal(resumed['weight'], weights(whole)['weight'])


def test_looks_that_never_meet_an_update(tmp_path):
    """A look in every third iteration and an update in every fourth: the stop follows the look, not the next one."""
    at, _ = stopped_and_resumed(tmp_path, 2, interval=3)
    assert at == 4


def two_optimizers(model):
    return OptimWrapperDict(
        **{
            name: OptimWrapper(torch.optim.SGD([weight], lr=0.1), accumulative_counts=counts)
            for name, weight, counts in zip(('first', 'second'), model.weights, (2, 3), strict=True)
        }
    )


def test_several_optimizers(tmp_path):
    """One updates in every second iteration, one in every third."""

    def options():
        model = TwoLines()
        return dict(model=model, optim_wrapper=two_optimizers(model))

    whole = build(tmp_path / 'whole', **options())
    whole.train()
    with pytest.raises(SystemExit):
        build(tmp_path / 'run', [Signal(2)], **options()).train()
    assert safe_load(tmp_path / 'run/preempted.pth')['meta']['iter'] == 6
    resumed = build(tmp_path / 'run', resume=True, **options())
    resumed.train()
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value), name


def test_optimizers_that_never_update_together_do_not_prevent_the_stop(tmp_path):
    model = TwoLines()
    wrappers = two_optimizers(model)
    assert iterations_between_updates(wrappers) == 6 and not holds_gradients(wrappers)
    assert not holds_gradients(object()) and iterations_between_updates(object()) == 1
    hook, stops = PreemptionHook(), []
    hook.signals.received = True
    hook._stop = stops.append
    wrappers['first']._inner_count = 1
    for iteration in range(62):
        hook.after_train_iter(SimpleNamespace(iter=iteration, optim_wrapper=wrappers), 0)
        assert bool(stops) == (iteration >= 60), iteration


def test_logs_and_hooks_count_on_after_a_resume(tmp_path):
    with pytest.raises(SystemExit):
        build(tmp_path, [Signal(3)]).train()
    batches = Batches()
    build(tmp_path, [batches], resume=True).train()
    assert batches.seen == [(0, 4), (0, 5), *((1, index) for index in range(6))]
    (log,) = [text for path in tmp_path.glob('*/*.log') if 'Skipping the' in (text := path.read_text())]
    numbers = re.findall(r'Epoch\(train\) *\[(\d)\]\[(\d)/6\]', log.partition('Skipping the')[2])
    assert numbers == [('1', '5'), ('1', '6'), *(('2', str(number)) for number in range(1, 7))]


class Seen(Hook):
    """The images of all batches."""

    def __init__(self):
        self.images = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.images += [tuple(point.tolist()) for point in data_batch]


def images_of(folder, **options):
    """The images until a stop after iteration 3, and those after it."""
    first, second = Seen(), Seen()
    with pytest.raises(SystemExit):
        build(folder, [first, Signal(3)], counts=1, **options).train()
    build(folder, [second], counts=1, resume=True, **options).train()
    return first.images, second.images


@pytest.mark.parametrize('by_epoch', [True, False], ids=['epochs', 'iterations'])
@pytest.mark.parametrize('epoch_seed', [True, False])
def test_a_run_without_a_fixed_seed_resumes_with_the_order_of_its_images(by_epoch, epoch_seed, tmp_path):
    before, after = images_of(tmp_path, seed=None, by_epoch=by_epoch, epoch_seed=epoch_seed)
    assert len(before) == 6 and len(after) == 18
    assert len(set(before + after[:6])) == 12, 'each image once in the interrupted epoch'


def test_a_seed_of_the_sampler_itself_is_kept(tmp_path):
    whole = Seen()
    build(tmp_path / 'whole', [whole], counts=1, seed=None, own_seed=7).train()
    before, after = images_of(tmp_path / 'run', seed=None, own_seed=7)
    assert before + after == whole.images


def test_workers_that_have_begun_with_another_order_are_told(tmp_path):
    images_of(tmp_path, seed=None, by_epoch=False, workers=1)
    text = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert text.count('already loaded images in a new order') == 1


def test_a_loop_of_the_users_own_keeps_its_class(tmp_path):
    runner = build(tmp_path)

    class Own(EpochBasedTrainLoop):
        pass

    runner._train_loop = Own(runner, runner._train_dataloader, max_epochs=1)
    hook = HOOKS.build(dict(type='PreemptionHook'))
    hook.before_run(runner)
    loop = runner.train_loop
    assert isinstance(loop, Own) and loop.max_iters == 6
    hook.before_run(runner)
    assert runner.train_loop is loop
    testing = SimpleNamespace(_train_loop=dict(by_epoch=True), seed=0)
    hook.before_run(testing)
    assert testing._train_loop == dict(by_epoch=True)


def test_a_pointer_that_cannot_be_written_does_not_prevent_the_stop(tmp_path):
    (tmp_path / 'last_checkpoint').mkdir()
    with pytest.raises(SystemExit) as stop:
        build(tmp_path, [Signal(4)]).train()
    assert stop.value.code == 0 and safe_load(tmp_path / 'preempted.pth')['meta']['iter'] == 4


def stop_two(folder):
    """The second process alone gets the signal, in the middle of an accumulation."""
    import torch.distributed as dist

    runner = build(folder, [Signal(2)] if dist.get_rank() == 1 else [])
    hook = next(hook for hook in runner.hooks if isinstance(hook, PreemptionHook))
    destroy = dist.destroy_process_group
    dist.destroy_process_group = lambda: None  # this process group is the test's
    try:
        runner.train()
    except SystemExit:
        return [runner.iter + 1, hook.signals.received]
    finally:
        dist.destroy_process_group = destroy


def test_two_processes_agree_on_the_update(tmp_path):
    """Three iterations per epoch and process: the fourth, the first of the second epoch, makes the update."""
    assert on_processes(2, stop_two, str(tmp_path)) == [[4, False], [4, True]]
    assert safe_load(tmp_path / 'preempted.pth')['meta']['iter'] == 4


@pytest.mark.parametrize('kind', ['merged', 'never taken'])
def test_a_parent_does_not_wait_for_a_worker_whose_signal_was_merged(kind):
    program = f'import signalled_workers; signalled_workers.merge_signals({kind!r})'
    env = {**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT}/tests/support', 'OMP_NUM_THREADS': '1'}
    result = subprocess.run([sys.executable, '-c', program], env=env, capture_output=True, text=True, timeout=180)
    assert result.returncode == 0 and 'Traceback' not in result.stderr, result.stderr
    assert result.stdout.splitlines()[-1] == 'exits'  # OneDL's MMDetection prints lines of its own when it is imported


@pytest.mark.parametrize('proof', [False, True])
def test_iteration_based_runs_with_workers(proof, tmp_path):
    """MMEngine starts their workers before any hook: the hook says what to write into the config."""
    program = f'import signalled_workers; signalled_workers.survive({proof})'
    env = {**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT}/tests/support', 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-c', program, str(tmp_path)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)
    output = result.stdout + result.stderr
    assert ('signal_proof_worker_init_fn' in output.partition('Iter(train)')[0]) == (not proof)
    if proof:
        assert result.returncode == 0 and 'finished' in output, output[-3000:]
