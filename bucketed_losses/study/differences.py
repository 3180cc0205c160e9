"""Paired differences between the losses of a detector, with intervals over seeds and images."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import combinations
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from .markdown import collapsed, markdown_table
from .outcomes import DIVERGED, FINISHED
from .plan import EQUAL_TIME, STOCK
from .store import Study

LEVEL = 95
"""Per cent of the resamples that lie in an interval."""


class Difference(NamedTuple):
    """A mean difference of AP and its interval."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def verdict(self) -> str:
        """``ahead`` or ``behind`` if the interval does not contain 0, else ``tie``; ``one seed`` is not judged."""
        if self.seeds == 1:
            return 'one seed'
        return 'ahead' if self.low > 0 else 'behind' if self.high < 0 else 'tie'


def paired_difference(ap: np.ndarray, resampled: np.ndarray) -> Difference:
    """The mean of paired differences over seeds, and its percentile interval by a bootstrap over seeds and images.

    Each resample draws images, the same for both losses and all seeds, and draws the seeds with replacement. The spread
    that this gives to the mean of n seeds is too small by the factor sqrt((n - 1) / n), and few seeds need the quantile
    of a t distribution with n - 1 degrees of freedom in place of a normal one. The deviation of each resample that
    comes from its draw of seeds is therefore scaled. With one seed, the interval is that of the images alone.

    Args:
        ap: ``(seeds,)`` differences of AP between two losses.
        resampled: ``(seeds, resamples)`` the same differences on resampled images.
    """
    seeds, resamples = resampled.shape
    drawn = np.random.default_rng(1).integers(seeds, size=(seeds, resamples))
    of_images = resampled.mean(axis=0)
    means = of_images + _scale(seeds) * (np.take_along_axis(resampled, drawn, axis=0).mean(axis=0) - of_images)
    low, high = np.nanpercentile(means, [50 - LEVEL / 2, 50 + LEVEL / 2])
    return Difference(float(ap.mean()), float(low), float(high), seeds)


def _scale(seeds: int) -> float:
    if seeds == 1:
        return 1.0
    tail = 0.5 + LEVEL / 200
    return sqrt(seeds / (seeds - 1)) * float(stats.t.ppf(tail, seeds - 1) / stats.norm.ppf(tail))


def differences_table(study: Study) -> pd.DataFrame:
    """A row for each pair of losses of a detector that have finished runs with the same seeds."""
    runs: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    diverged: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for result in study.results():
        if result['outcome'] == DIVERGED:
            diverged[result['detector'], result['loss']].add(result['seed'])
        file = study.folder(result['detector'], result['loss'], result['seed']) / 'resampled.json'
        if result['outcome'] == FINISHED and result['loss'] != EQUAL_TIME and file.is_file():
            of_loss = runs.setdefault((result['detector'], result['loss']), {})
            of_loss[result['seed']] = json.loads(file.read_text())
    rows = []
    for (detector, second), (other, first) in combinations(runs, 2):
        seeds = sorted(runs[detector, second].keys() & runs[other, first].keys()) if detector == other else []
        if not seeds:
            continue
        only_one_diverged = bool(diverged[detector, first]) != bool(diverged[detector, second])
        pairs = [(runs[detector, first][seed], runs[detector, second][seed]) for seed in seeds]
        found = paired_difference(
            np.array([a['AP'] - b['AP'] for a, b in pairs]),
            np.array([np.subtract(a['resampled'], b['resampled']) for a, b in pairs]),
        )
        rows.append(
            {
                'detector': detector,
                'loss': study.name_of(detector, first),
                'compared with': study.name_of(detector, second),
                'difference of AP': found.mean,
                'low': found.low,
                'high': found.high,
                'verdict': 'not judged' if only_one_diverged else found.verdict,
                'seeds': ' '.join(map(str, seeds)),
                'diverged': ' '.join(map(str, sorted(diverged[detector, first] | diverged[detector, second]))),
                'images': pairs[0][0]['images'],
                'with stock or BRS': not {STOCK, 'brs'}.isdisjoint((first, second)),
            }
        )
    return pd.DataFrame(rows)


def main_pairs(differences: pd.DataFrame) -> pd.DataFrame:
    """The pairs with the stock loss or BRS Loss; for a detector without such pairs, all."""
    if differences.empty:
        return differences
    has_main_pairs = differences.groupby('detector')['with stock or BRS'].transform('any')
    return differences[differences['with stock or BRS'] | ~has_main_pairs]


def differences_section(differences: pd.DataFrame) -> list[str]:
    """The section of the page with the differences; none if there are no differences."""
    if differences.empty:
        return []
    shown = main_pairs(differences)
    lines = [
        [
            row.detector,
            f'{row.loss} against {row[2]}',
            f'{row.difference:+.3f}',
            f'[{row.low:+.3f}, {row.high:+.3f}]',
            row.verdict,
            row.seeds.replace(' ', ', ') + (f' ({row.diverged.replace(" ", ", ")} diverged)' if row.diverged else ''),
        ]
        for row in shown.rename(columns={'difference of AP': 'difference'}).itertuples(index=False)
    ]
    images = ' or '.join(map(str, differences.images.unique()))
    return [
        '## Differences',
        f'Mean differences of AP between runs with the same seed, and their {LEVEL} % interval by a bootstrap over the '
        f'seeds and the {images} validation images. A pair whose interval contains 0 is a tie. '
        'With one seed, the interval does not contain the spread of the seeds, so such a pair is not judged.'
        + (
            ''
            if len(shown) == len(differences)
            else ' The pairs of two other losses than stock and BRS are in differences.csv.'
        ),
        '![For each detector, the difference of AP of each pair of losses with its interval](differences.png)',
        '*A pair whose interval does not reach the dashed line at 0 differs. Made by `bucketed-losses compare`.*',
        collapsed(
            'The differences in numbers',
            markdown_table(['Detector', 'Pair', 'difference of AP', 'interval', 'the first is', 'seeds'], lines),
        ),
    ]
