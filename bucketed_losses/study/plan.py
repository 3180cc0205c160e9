"""What a study runs: detectors, losses, seeds, and the order of the runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bucketed_losses.errors import UserError

STOCK = 'stock'
EQUAL_TIME = 'brs in equal time'


class Refusal(UserError):  # noqa: N818
    """What a user has to correct before a study can begin."""


@dataclass(frozen=True)
class Detector:
    """A detector with its own losses, given by a config."""

    name: str
    config: str
    """A file, or PACKAGE::PATH."""


@dataclass(frozen=True)
class Run:
    """One training. ``epochs`` replaces the budget of the config (in the equal-time experiment)."""

    detector: Detector
    loss: str
    seed: int
    epochs: int | None = None

    @property
    def label(self) -> str:
        """What the tables call the loss; unique among the runs of a detector and a seed."""
        return EQUAL_TIME if self.epochs else self.loss

    @property
    def key(self) -> tuple[str, str, int]:
        """Name of the detector, label and seed, by which a study stores the run."""
        return self.detector.name, self.label, self.seed

    def __str__(self) -> str:
        return f'{self.detector.name} {self.label} seed {self.seed}'


@dataclass(frozen=True)
class Plan:
    """What one command adds to a study.

    Raises:
        Refusal: the values contradict each other.
    """

    folder: Path
    detectors: Sequence[Detector]
    losses: Sequence[str]
    seeds: Mapping[str, Sequence[int]]
    """Seeds of each loss, the first of which is also used for measurements."""
    data: Path | None = None
    """A config with the data set, the loaders and the evaluators of all runs."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings for every run, as ``--cfg-options`` takes them."""
    equal_time: bool = False
    gpus: int = 1
    """Processes of each training."""
    time_iterations: int = 10
    """Iterations that are timed."""

    def __post_init__(self) -> None:
        if self.equal_time and not {'rs', 'brs'} <= set(self.losses):
            raise Refusal('--equal-time compares rs and brs; add both to --losses')
        if min(self.gpus, self.time_iterations) < 1:
            raise Refusal('--gpus and --time-iterations must be 1 or more')
        names = [detector.name for detector in self.detectors]
        if len(set(names)) < len(names):
            raise Refusal(f'two detectors have the same name ({", ".join(names)}); name them by NAME=CONFIG')

    def runs(self) -> list[Run]:
        """All runs, first seeds first, so that a table has all its rows before a row has a standard deviation."""
        return [
            Run(detector, loss, seeds[rank])
            for rank in range(max(len(seeds) for seeds in self.seeds.values()))
            for detector in self.detectors
            for loss in self.losses
            if rank < len(seeds := self.seeds[loss])
        ]

    def first_run(self, detector: Detector, loss: str) -> Run:
        """The run of a loss with its first seed."""
        return Run(detector, loss, self.seeds[loss][0])


def parse_detector(text: str) -> Detector:
    """The detector of ``[NAME=]CONFIG``; without a name it is named after the file of the config.

    Raises:
        Refusal: the name cannot be the name of a folder.
    """
    name, separator, path = text.partition('=')
    config = path if separator else text
    if not re.fullmatch(r'[\w.+() -]+', name := name if separator else Path(config.rpartition('::')[2]).stem):
        raise Refusal(f'--detectors: the name of a detector may contain letters, digits and spaces, got {name!r}')
    return Detector(name, config)


def parse_losses(names: Sequence[str], choices: Sequence[str]) -> list[str]:
    """The losses without repetitions.

    Raises:
        Refusal: one of them is unknown.
    """
    for name in names:
        if name not in choices:
            raise Refusal(f'--losses: invalid choice: {name!r} (choose from {", ".join(choices)})')
    return list(dict.fromkeys(names))


def parse_seeds(texts: Sequence[str], losses: Sequence[str]) -> dict[str, list[int]]:
    """Seeds of each loss, from ``0,1`` (for all losses) and ``LOSS=0,1,2``.

    Raises:
        Refusal: a text has another form, or names another loss.
    """
    seeds = {loss: [0] for loss in losses}
    for text in sorted(texts, key=lambda text: '=' in text):
        loss, separator, numbers = text.rpartition('=')
        if not re.fullmatch(r'\d+(,\d+)*', numbers) or (separator and loss not in seeds):
            raise Refusal(f'--seeds: expected 0,1,2 or LOSS=0,1,2 with one of {", ".join(losses)}, got {text!r}')
        values = list(dict.fromkeys(map(int, numbers.split(','))))
        seeds.update({loss: values} if separator else dict.fromkeys(losses, values))
    return seeds
