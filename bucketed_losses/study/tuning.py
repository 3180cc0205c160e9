"""Learning rates of a study: the choice from the trials, and their table."""

from __future__ import annotations

from math import log
from typing import Any

import pandas as pd

from .markdown import markdown_table
from .names import place_of
from .outcomes import FINISHED
from .plan import Detector, Plan
from .store import Study, last_metrics


def chosen_factor(study: Study, plan: Plan, detector: Detector, loss: str) -> float | None:
    """The factor on the learning rate with the highest AP among the trials of a detector and loss.

    Of equal factors, and if all trials have diverged, it is the one nearest to 1. Without trials it is the only
    factor of the loss, or 1.

    Returns:
        The factor; None if a trial has no result yet or has failed.
    """
    trials = [run for run in plan.trials() if (run.detector, run.loss) == (detector, loss)]
    if not all(study.is_done(run) for run in trials):
        return None
    aps = {run.lr_factor: _trial_ap(study, study.result(*run.key) or {}) for run in trials}
    if not aps:
        (factor,) = plan.lr_factors.get(loss, (1.0,))
        return factor
    return max(aps, key=lambda factor: (aps[factor], -abs(log(factor))))


def tuning_table(study: Study) -> pd.DataFrame:
    """A row for each trial: detector, loss, factor, learning rate, outcome, AP, and whether the factor was chosen."""
    rows: list[dict[str, Any]] = []
    for result in study.results(trials=True):
        losses = study.entries[result['detector']]['losses']
        trial = losses[result['loss']]
        final = losses.get(trial['trial_of'], {})
        rows.append(
            {
                'detector': result['detector'],
                'loss': study.name_of(result['detector'], trial['trial_of']),
                'label': trial['trial_of'],
                'seed': result['seed'],
                'budget': trial['budget'],
                'factor': trial['lr_factor'],
                'learning rate': trial['learning_rate'],
                'outcome': result['outcome'],
                'AP': _trial_ap(study, result) if result['outcome'] == FINISHED else None,
                'chosen': final.get('lr_factor') == trial['lr_factor'],
            }
        )
    detectors = list(study.entries)
    rows.sort(key=lambda row: (detectors.index(row['detector']), place_of(row['label']), row['factor']))
    return pd.DataFrame(rows)


def tuning_section(tuning: pd.DataFrame) -> list[str]:
    """The section of the page with the grid of learning rates and the choice; none if there are no trials."""
    if tuning.empty:
        return []
    factors = sorted(tuning.factor.unique())
    lines = []
    for (detector, *_), group in tuning.groupby(['detector', 'label', 'seed'], sort=False):
        by_factor = group.set_index('factor')
        chosen = by_factor[by_factor.chosen]
        cells = [_trial_cell(by_factor, factor) for factor in factors]
        choice = ''
        if len(chosen):
            edge = chosen.index[0] in (by_factor.index.min(), by_factor.index.max()) and len(by_factor) > 1
            choice = f'{chosen["learning rate"].iloc[0]:.4g}' + (' (edge of the grid)' if edge else '')
        lines.append([detector, group.loss.iloc[0], *cells, choice])
    seeds = ', '.join(map(str, sorted(tuning.seed.unique())))
    budgets = ' or '.join(tuning.budget.unique())
    return [
        '## Learning rates',
        'The learning rate of every detector and loss was chosen by AP from the same grid, multiples of the learning '
        f'rate of its config, with one training run of {budgets} each (seed {seeds}) that no other table contains. '
        'The chosen one is bold.',
        markdown_table(['Detector', 'Loss', *(f'AP at {factor:g}' for factor in factors), 'learning rate'], lines),
    ]


def _trial_cell(by_factor: pd.DataFrame, factor: float) -> str:
    if factor not in by_factor.index:
        return ''
    trial = by_factor.loc[factor]
    text = trial.outcome if pd.isna(trial.AP) else f'{trial.AP:.3f}'
    return f'**{text}**' if trial.chosen else text


def _trial_ap(study: Study, result: dict[str, Any]) -> float:
    """The AP that a factor is chosen by; a run that diverged comes last."""
    if result['outcome'] != FINISHED:
        return -1.0
    return last_metrics(study.folder(result['detector'], result['loss'], result['seed']))['AP']
