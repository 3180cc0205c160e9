"""Whether a training finished, diverged or failed, by its exit code and its logs."""

from __future__ import annotations

import re
from pathlib import Path

from .logs import NoLogsError, read_metrics

FINISHED, DIVERGED, FAILED = 'finished', 'diverged', 'failed'
NOTHING_DETECTED = 'testing results of the whole dataset is empty'  # in the log of MMDetection's metrics


def outcome_of(code: int, output: str, work_dir: Path, budget: int) -> dict[str, str]:
    """The outcome of a training and, if there is one, a detail in one line.

    Args:
        code: Exit code of the training.
        output: What it printed.
        work_dir: Its work directory.
        budget: Epochs or iterations that it should have.
    """
    if code:
        diverged = re.findall(r'FloatingPointError: (.*)', output)
        if diverged:
            return dict(outcome=DIVERGED, detail=diverged[-1])
        return dict(outcome=FAILED, detail=last_error(output))
    try:
        step, metrics = read_metrics(work_dir)[-1]
    except (NoLogsError, IndexError):
        return dict(outcome=FAILED, detail='no validation in its log')
    if step < budget:
        return dict(outcome=FAILED, detail=f'stopped by a signal after step {step}; the same command resumes it')
    if metrics.keys().isdisjoint(('AP', 'mask AP')):
        if NOTHING_DETECTED in output:
            return dict(outcome=FINISHED, detail='AP 0: nothing was detected')
        return dict(outcome=FAILED, detail=f'no AP among what was evaluated: {", ".join(metrics) or "nothing"}')
    return dict(outcome=FINISHED, detail='')


def last_error(output: str) -> str:
    """The last line that names an exception, or else the last line."""
    lines = [line for line in output.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r'[\w.]*(Error|Exception|Interrupt)\b', line.strip())]
    return (named or lines or ['no output'])[-1].strip()[:300]


def keep_three(weights: Path) -> None:
    """Of the weights of a training, keep the first, the middle and the last file."""
    files = sorted_weights(weights)
    keep = {files[0], files[(len(files) - 1) // 2], files[-1]} if files else set()
    for path in files:
        if path not in keep:
            path.unlink()


def sorted_weights(weights: Path) -> list[Path]:
    """The files of weights in the order of their epochs or iterations."""
    return sorted(weights.glob('**/*.pth'), key=lambda path: int(path.stem))
