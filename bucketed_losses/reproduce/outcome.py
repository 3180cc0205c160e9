"""AP and seconds per iteration of a run, from the logs that MMEngine writes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bucketed_losses.study.logs import NoLogsError, read_scalars

# Of the metrics of COCO and LVIS. Cityscapes' own metric has other names and is not what the paper's figures are.
_AP = {'box AP': re.compile(r'(?:.*/)?bbox_m?AP'), 'mask AP': re.compile(r'(?:.*/)?segm_m?AP')}


@dataclass(frozen=True)
class Outcome:
    """What a run has reached.

    Attributes:
        epochs: Its last epoch that was evaluated.
        ap: 'box AP' and, for detectors with masks, 'mask AP' after that epoch, in per cent.
        seconds: The median of its logged seconds per iteration; None if none were logged.
        device: The name of the first GPU, or 'CPU'.
    """

    epochs: int
    ap: dict[str, float]
    seconds: float | None
    device: str


def read_outcome(work_dir: Path) -> Outcome | None:
    """The outcome of a run; None if nothing was evaluated there yet."""
    try:
        train, val = read_scalars(work_dir)
    except NoLogsError:
        return None
    if not val or not train:
        return None
    last = val[-1]
    ap = {kind: 100 * last[key] for kind, pattern in _AP.items() for key in last if pattern.fullmatch(key)}
    # The first record has the start of the data loader in it. MMDetection logs no AP where nothing was detected.
    times = [record['time'] for record in train[1:] or train if 'time' in record]
    seconds = median(times) if times else None
    return Outcome(last['step'], ap or {'box AP': 0.0}, seconds, _device(work_dir))


def _device(work_dir: Path) -> str:
    for log in sorted(work_dir.glob('*/*.log')):
        if match := re.search(r'^\s*GPU 0[^:\n]*: (.+)$', log.read_text(errors='replace'), re.MULTILINE):
            return match[1].strip()
    return 'CPU'
