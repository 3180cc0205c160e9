"""What a study runs: detectors, losses, seeds, learning rates, and the order of the runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, log
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
    """One training run."""

    detector: Detector
    loss: str
    seed: int
    epochs: int | None = None
    """The budget of the equal-time experiment, which replaces that of the study."""
    config: str | None = None
    """A config of the detector that already has the loss; None if the loss is put into the detector's config."""
    lr_factor: float = 1.0
    """The learning rate, as a multiple of that of the config."""
    is_trial: bool = False
    """Whether the run only serves to choose the learning rate."""

    @property
    def label(self) -> str:
        """What the tables call the loss; unique among the runs of a detector and a seed."""
        if self.is_trial:
            return f'{self.loss} lr {self.lr_factor:g}'
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
    configs: Mapping[str, str] = field(default_factory=dict)
    """Configs of the losses that are given by NAME=CONFIG."""
    epochs: int | None = None
    """Epochs or iterations of every run; None for those of the configs."""
    lr_factors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Learning rates of each loss, as multiples of that of the config. Several are tried; a single one is taken."""
    tuning_seed: int = 100
    """The seed of these trials."""
    tuning_epochs: int | None = None
    """Epochs or iterations of these trials; None for those of the other runs."""

    def __post_init__(self) -> None:
        if self.equal_time and not {'rs', 'brs'} <= set(self.losses):
            raise Refusal('--equal-time compares rs and brs; add both to --losses')
        if min(self.gpus, self.time_iterations) < 1:
            raise Refusal('--gpus and --time-iterations must be 1 or more')
        for option, epochs in (('--epochs', self.epochs), ('--tuning-epochs', self.tuning_epochs)):
            if epochs is not None and epochs < 1:
                raise Refusal(f'{option} must be 1 or more, got {epochs}')
        if self.tuning_epochs is not None and not self.trials():
            raise Refusal('--tuning-epochs is for runs that choose a learning rate; add --lr-factors 0.33,1,3')
        if self.configs and len(self.detectors) > 1:
            raise Refusal('--losses: NAME=CONFIG is a config of one detector, so --detectors must name one detector')
        if self.trials() and any(self.tuning_seed in seeds for seeds in self.seeds.values()):
            raise Refusal(
                f'--tuning-seed {self.tuning_seed} is one of --seeds; choose another, so that no run of the comparison '
                'has chosen the learning rate'
            )
        names = [detector.name for detector in self.detectors]
        if len(set(names)) < len(names):
            raise Refusal(f'two detectors have the same name ({", ".join(names)}); name them by NAME=CONFIG')

    def runs(self) -> list[Run]:
        """All runs, first seeds first, so that a table has all its rows before a row has a standard deviation."""
        return [
            self.run_of(detector, loss, seeds[rank])
            for rank in range(max(len(seeds) for seeds in self.seeds.values()))
            for detector in self.detectors
            for loss in self.losses
            if rank < len(seeds := self.seeds[loss])
        ]

    def first_run(self, detector: Detector, loss: str) -> Run:
        """The run of a loss with its first seed."""
        return self.run_of(detector, loss, self.seeds[loss][0])

    def trials(self) -> list[Run]:
        """The runs that choose the learning rate of each detector and loss: one for each factor, if it has several."""
        factors = {loss: tried for loss in self.losses if len(tried := self.lr_factors.get(loss, ())) > 1}
        grid = dict.fromkeys(factor for tried in factors.values() for factor in tried)
        return [
            self.run_of(detector, loss, self.tuning_seed, lr_factor=factor, is_trial=True)
            for factor in sorted(grid, key=lambda factor: abs(log(factor)))
            for detector in self.detectors
            for loss, tried in factors.items()
            if factor in tried
        ]

    def run_of(self, detector: Detector, loss: str, seed: int, **more: Any) -> Run:
        """The run of a loss with a seed; further arguments as for :class:`Run`."""
        return Run(detector, loss, seed, config=self.configs.get(loss), **more)


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


def parse_losses(texts: Sequence[str], choices: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The names of the losses without repetitions, and the configs of those that are given by ``NAME=CONFIG``.

    Raises:
        Refusal: a loss is unknown, a NAME cannot be the name of a file, or two configs have the same NAME.
    """
    configs: dict[str, str] = {}
    names = []
    for text in texts:
        name, separator, config = text.partition('=')
        names.append(name)
        if not separator:
            if name not in choices:
                raise Refusal(
                    f'--losses: invalid choice: {name!r} (choose from {", ".join(choices)}, or give NAME=CONFIG)'
                )
        elif name in choices or not re.fullmatch(r'[\w.+()-]+', name):
            raise Refusal(
                f'--losses: in NAME=CONFIG, NAME may contain letters, digits and .+()-, and must not be one of '
                f'{", ".join(choices)}; got {name!r}'
            )
        elif configs.setdefault(name, config) != config:
            raise Refusal(f'--losses: two configs have the same name, {name!r}')
    return list(dict.fromkeys(names)), configs


def parse_factors(texts: Sequence[str], losses: Sequence[str]) -> dict[str, list[float]]:
    """Factors on the learning rate of each loss, from ``0.33,1,3`` (for all losses) and ``LOSS=0.33``.

    Returns:
        Nothing if there is no text; 1 for losses that no text names.

    Raises:
        Refusal: a text has another form or names another loss, or a factor is not above 0.
    """
    factors: dict[str, list[float]] = {loss: [1.0] for loss in losses} if texts else {}
    for text, numbers, named in _by_loss('--lr-factors', texts, losses):
        try:
            values = [float(part) for part in numbers.split(',')]
        except ValueError:
            values = []
        if not named or not values or not all(0 < value < inf for value in values):
            raise Refusal(
                f'--lr-factors: expected numbers above 0 such as 0.33,1,3, or LOSS=0.33,1,3 with one of '
                f'{", ".join(losses)}, got {text!r}'
            )
        factors |= {loss: list(dict.fromkeys(values)) for loss in named}
    return factors


def _by_loss(option: str, texts: Sequence[str], losses: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """The parts of ``[LOSS=]NUMBERS``: text, numbers, and the losses that they are for; those for all come first.

    Raises:
        Refusal: two texts are for the same loss, or for all.
    """
    before: dict[str, str] = {}
    for text in sorted(texts, key=lambda text: '=' in text):
        name, separator, numbers = text.rpartition('=')
        if name in before:
            both = f'{before[name].rpartition("=")[2]},{numbers}'
            raise Refusal(
                f'{option}: {before[name]!r} and {text!r} are both for {name or "all losses"}; separate numbers by '
                f'commas: {name}{separator}{both}'
            )
        before[name] = text
        yield text, numbers, [loss for loss in losses if loss == name] if separator else list(losses)


def parse_seeds(texts: Sequence[str], losses: Sequence[str]) -> dict[str, list[int]]:
    """Seeds of each loss, from ``0,1`` (for all losses) and ``LOSS=0,1,2``.

    Raises:
        Refusal: a text has another form, or names another loss.
    """
    seeds = {loss: [0] for loss in losses}
    for text, numbers, named in _by_loss('--seeds', texts, losses):
        if not named or not re.fullmatch(r'\d+(,\d+)*', numbers):
            raise Refusal(f'--seeds: expected 0,1,2 or LOSS=0,1,2 with one of {", ".join(losses)}, got {text!r}')
        seeds |= {loss: list(dict.fromkeys(map(int, numbers.split(',')))) for loss in named}
    return seeds
