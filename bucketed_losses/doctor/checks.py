"""Checks that import torch and mmcv: they run in another process, so that a crash there becomes part of the report."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import operators

HERE = Path(__file__).resolve().parent
CHECKS = ('loss on CPU', 'loss on CUDA', 'NMS on CPU', 'RoIAlign on CPU', 'NMS on CUDA', 'RoIAlign on CUDA', 'plug-in')


def run_checks(checks: Sequence[str], timeout: float) -> tuple[dict[str, str], str | None]:
    """Run checks in another process of this interpreter.

    Returns:
        The results: ``'ok'`` or what went wrong, without the checks on a GPU that is not there; the name of the GPU.
    """
    path = os.pathsep.join([*(entry or str(Path.cwd()) for entry in sys.path), str(HERE.parents[1])])
    command = [sys.executable, str(HERE / '__main__.py'), '--run-checks', *checks]
    environment = {**os.environ, 'PYTHONPATH': path, 'PYTHONWARNINGS': 'ignore'}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
        )
        out, errors, end = done.stdout, done.stderr, f'the process ended with exit code {done.returncode}'
        if done.returncode < 0:
            end = f'the process ended with {signal.Signals(-done.returncode).name}'
    except subprocess.TimeoutExpired as error:
        out, errors, end = error.stdout or b'', error.stderr or b'', f'no result within {timeout:g} s'
    lines = [line.split('\t', 2) for line in out.decode(errors='replace').splitlines() if line.startswith('doctor\t')]
    results = {checks[0]: 'started', **{name: value for _, name, value in lines}}
    gpu = results.pop('GPU', '') or None
    last = errors.decode(errors='replace').strip().splitlines()[-1:]
    for name in checks:
        if results.get(name) == 'started':
            results[name] = ': '.join([end, *last])
    return {name: results[name] for name in checks if name in results}, gpu


ERRORS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError)
ERRORS += (SyntaxError, SystemError, TypeError, ValueError)  # type: ignore[assignment]


def _say(name: str, value: str) -> None:
    print('doctor', name, ' '.join(value.split()), sep='\t', flush=True)  # noqa: T201


def run_checks_here(checks: Sequence[str]) -> None:
    """The other process: report every check before and after it, so that a crash can be assigned to one."""
    import torch

    cuda = torch.cuda.is_available()
    try:
        _say('GPU', torch.cuda.get_device_name() if cuda else '')
    except RuntimeError as error:  # the checks on the GPU say more
        _say('GPU', f'unknown ({error})')
    for check in checks:
        device = 'cuda' if check.endswith('CUDA') else 'cpu'
        if device == 'cuda' and not cuda:
            continue
        _say(check, 'started')
        try:
            _run_check(check.split()[0], device)
        except ERRORS as error:
            _say(check, f'{type(error).__name__}: {error}'[:500])
        else:
            _say(check, 'ok')


def _run_check(what: str, device: str) -> None:
    if what == 'loss':
        import torch

        from bucketed_losses.functional import bucketed_rs_loss

        logits = torch.linspace(-2, 2, 32, device=device, requires_grad=True)
        loss = bucketed_rs_loss(logits, (torch.arange(32, device=device) % 8 == 0) * 0.5)
        (loss.ranking + loss.sorting).backward()
        if not (loss.ranking > 0 and logits.grad is not None and logits.grad.abs().sum() > 0):
            raise ValueError(f'bucketed_rs_loss returned {loss} without a gradient')
    elif what == 'NMS':
        operators.check_nms(device)
    elif what == 'RoIAlign':
        operators.check_roi_align(device)
    else:
        importlib.import_module('bucketed_losses.mmdet')
