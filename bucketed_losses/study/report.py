"""What a study of tools/compare_losses.py leaves behind: its files, its tables, its figures."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import matplotlib
from _logs import read_scalars

matplotlib.use('Agg')
import matplotlib.pyplot as plt

STOCK, EQUAL_TIME = 'stock', 'brs in equal time'
FINISHED, DIVERGED, FAILED = 'finished', 'diverged', 'failed'
NAMES = {
    'ap': 'AP',
    'bap': 'BAP',
    'rs': 'RS',
    'brs': 'BRS',
    'alrp': 'aLRP',
    'dr': 'DR',
    EQUAL_TIME: 'BRS, time of RS by loop',
}
ORDER = [STOCK, 'ap', 'dr', 'alrp', 'bap', 'rs', 'brs', EQUAL_TIME]
AP_COLUMNS = ['AP', 'AP50', 'AP75', 'APs', 'APm', 'APl']
# The paper's Tables 7 and 8; BAP has those of AP. It counts no other detector's own losses.
OF_ONE_STAGE = {'ap': 5, 'bap': 5, 'dr': 5, 'alrp': 1, 'rs': 1, 'brs': 1}
OF_TWO_STAGES = {'alrp': 3, 'rs': 3, 'brs': 3}
OF_STOCK = {'ATSS': 5, 'FasterRCNN': 9}
MOMENTS = ('early', 'middle', 'late')


class Study:
    """The folder of a study.

    ``study.json`` lists what it holds, ``configs/DETECTOR/LOSS_SEED.py`` are the runs' configs,
    ``runs/DETECTOR/LOSS_SEED`` their work directories, with a ``result.json`` once they are done, and
    ``times/DETECTOR.json``, ``gradients/DETECTOR_LOSS.json`` what was measured.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries: dict[str, dict[str, Any]] = _read(root / 'study.json') or {}

    def folder(self, detector: str, label: str, seed: int) -> Path:
        return self.root / 'runs' / detector / f'{label}_{seed}'.replace(' ', '-')

    def config(self, detector: str, label: str, seed: int) -> Path:
        """Not in the work directory: MMEngine writes what it made of a config there."""
        return self.root / 'configs' / detector / f'{self.folder(detector, label, seed).name}.py'

    def remember(self, detector: str, label: str, cls: str, box: str, model: str, budget: tuple[bool, int]) -> None:
        entry = self.entries.setdefault(detector, {'model': model, 'losses': {}})
        by_epoch, number = budget
        entry['losses'][label] = dict(cls=cls, box=box, budget=f'{number} {"epochs" if by_epoch else "iterations"}')
        _write(self.root / 'study.json', self.entries)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """At once, and only of what has ended: a killed run has none."""
        _write(self.folder(result['detector'], result['loss'], result['seed']) / 'result.json', result)

    def result(self, detector: str, label: str, seed: int) -> dict[str, Any] | None:
        return _read(self.folder(detector, label, seed) / 'result.json')

    def is_done(self, detector: str, label: str, seed: int) -> bool:
        result = self.result(detector, label, seed)
        return result is not None and result['outcome'] in (FINISHED, DIVERGED)

    def results(self) -> list[dict[str, Any]]:
        """Of all runs that have ended, in the order of tables."""
        found = []
        for detector, entry in self.entries.items():
            for label in sorted(entry['losses'], key=ORDER.index):
                files = self.folder(detector, label, 0).parent.glob(f'{self.folder(detector, label, 0).name[:-1]}*')
                read = [_read(folder / 'result.json') for folder in files]
                found += sorted((r for r in read if r and r['loss'] == label), key=lambda r: r['seed'])
        return found

    def name_of(self, detector: str, label: str) -> str:
        """As in the paper's column of losses."""
        if label in NAMES:
            return NAMES[label]
        parts = self.entries[detector]['losses'][label]
        return '+'.join(filter(None, (parts['cls'], parts['box'])))

    def hyper_parameters(self, detector: str, label: str) -> int | None:
        """As the paper counts them."""
        model = self.entries[detector]['model']
        if label == STOCK:
            return OF_STOCK.get(model)
        known = {'ATSS': OF_ONE_STAGE, 'RetinaNet': OF_ONE_STAGE, 'PAA': OF_ONE_STAGE, 'FasterRCNN': OF_TWO_STAGES}
        return known.get(model, {}).get(label.split()[0])

    def times(self, detector: str) -> dict[str, dict[str, Any]]:
        return _read(self.root / 'times' / f'{detector}.json') or {}

    def write_times(self, detector: str, times: Mapping[str, Any]) -> None:
        _write(self.root / 'times' / f'{detector}.json', times)

    def equal_time(self, detector: str) -> tuple[float, float] | None:
        """Seconds per iteration of RS Loss by the published loop and of BRS Loss; None if they were not measured.

        Outside of the losses both do the same, so the mean of both is taken there.
        """
        times = self.times(detector)
        rs, brs = times.get('rs, loops timed'), times.get('brs, loops timed')
        if not rs or not brs:
            return None
        elsewhere = mean(t['seconds_per_iteration'] - t['seconds_in_losses'] for t in (rs, brs))
        return elsewhere + rs['seconds_by_loops'], elsewhere + brs['seconds_in_losses']

    def budget(self, detector: str, label: str) -> int:
        """Epochs or iterations of a run."""
        return int(self.entries[detector]['losses'][label]['budget'].split()[0])

    def counts_epochs(self, detector: str, label: str) -> bool:
        return self.entries[detector]['losses'][label]['budget'].endswith('epochs')

    def pace(self, detector: str) -> float | None:
        """Median seconds that a detector's finished runs took for one epoch, or iteration, of their budget."""
        seconds = [
            r['seconds_since_start'] / self.budget(detector, r['loss'])
            for r in self.results()
            if r['detector'] == detector and r['outcome'] == FINISHED
        ]
        return median(seconds) if seconds else None


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def _write(path: Path, content: Any) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f'.{path.name}.{os.getpid()}')
    aside.write_text(json.dumps(content, indent=1))
    aside.replace(path)


def describe_losses(model: Mapping[str, Any]) -> tuple[str, str]:
    """Short names of the classification and the box loss of a detector's last head."""
    head = model.get('bbox_head') or model.get('query_head') or (model.get('roi_head') or {}).get('bbox_head') or {}
    if isinstance(head, (list, tuple)):
        head = head[-1]
    short = {'CrossEntropyLoss': 'CE', 'FocalLoss': 'Focal', 'QualityFocalLoss': 'QFL', 'SmoothL1Loss': 'SmoothL1'}
    names = []
    for key in ('loss_cls', 'loss_bbox'):
        name = str((head.get(key) or {}).get('type', ''))
        names.append(short.get(name, name.removesuffix('Loss')))
    return names[0], names[1]


def read_metrics(work_dir: Path) -> list[tuple[int, dict[str, float]]]:
    """Step and metrics of every validation, under the names of the paper's tables, for COCO's, LVIS's and VOC's."""
    found = []
    for record in read_scalars(work_dir)[1]:
        metrics = {}
        for key, value in record.items():
            name = key.rpartition('/')[2]
            if name.endswith('_precision'):
                metrics[name.removesuffix('_precision')] = value
            elif match := re.fullmatch(r'(?:(bbox|segm)_)?m?AP_?(50|75|s|m|l|r|c|f)?', name):
                kind, which = match.groups()
                metrics[('mask ' if kind == 'segm' else '') + 'AP' + (which or '')] = value
        found.append((record['step'], metrics))
    return found


def write_report(study: Study) -> None:
    """``study.csv``, ``study.md`` and the figures."""
    rows = report_rows(study)
    if not rows:
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    aside = study.root / '.study.csv'
    with aside.open('w', newline='') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    aside.replace(study.root / 'study.csv')
    gradients = gradient_records(study)
    draw_ap_over_epochs(study, study.root / 'ap_over_epochs.png')
    draw_ap_against_time(study, rows, study.root / 'ap_against_time.png')
    draw_gradients(study, gradients, study.root / 'gradients.png')
    aside = study.root / '.study.md'
    aside.write_text(page(study, rows, gradients))
    aside.replace(study.root / 'study.md')


def report_rows(study: Study) -> list[dict[str, Any]]:
    """A row for each run that has ended."""
    rows = []
    for result in study.results():
        detector, label = result['detector'], result['loss']
        times = study.times(detector).get(label.split()[0], {})
        metrics: dict[str, float] = {}
        memory = result['peak_rss_mb']
        where = 'CPU, the process'
        work_dir = study.folder(detector, label, result['seed'])
        if result['outcome'] == FINISHED:
            # MMDetection logs no AP where nothing at all was detected.
            metrics = {'AP': 0.0, **read_metrics(work_dir)[-1][1]}
            used = [record['memory'] for record in read_scalars(work_dir)[0] if record.get('memory')]
            if used:
                memory, where = max(used), 'GPU'
        per_class = {key: value for key, value in metrics.items() if key not in AP_COLUMNS}
        rows.append(
            {
                'detector': detector,
                'loss': study.name_of(detector, label),
                'label': label,
                'seed': result['seed'],
                'outcome': result['outcome'],
                'budget': study.entries[detector]['losses'][label]['budget'],
                **{column: metrics.get(column, '') for column in AP_COLUMNS},
                'seconds per iteration': _digits(times.get('seconds_per_iteration')),
                'seconds in the losses': _digits(times.get('seconds_in_losses')),
                'peak memory (MB)': round(memory),
                'memory of': where,
                'hyper-parameters': _or_empty(study.hyper_parameters(detector, label)),
                'detail': result['detail'],
                **per_class,
            }
        )
    return rows


def _or_empty(value: Any) -> Any:
    return '' if value is None else value


def _digits(value: float | None) -> Any:
    return '' if value is None else float(f'{value:.4g}')


# The page


def page(study: Study, rows: Sequence[Mapping[str, Any]], gradients: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, in the layout of the paper's Tables 4, 5, 7 and 8."""
    groups = _groups(rows)
    budgets = sorted({f'{row["detector"]}: {row["budget"]}' for row in rows if row['label'] != EQUAL_TIME})
    parts = [
        '# Comparison of losses',
        f'The same data, schedule and seeds for every loss of a detector; budget: {"; ".join(budgets)}. AP of the last '
        'validation; over several seeds the mean ± the sample standard deviation.',
        '## Accuracy, time and hyper-parameters',
        'Seconds of one iteration and in its classification losses (forward and backward): medians, the losses of a '
        'detector taking turns. #H: hyper-parameters as the paper counts them, where it does. Memory: the most that a '
        'training held.',
        _table(
            ['Detector', 'Loss', 'T_iter (s) ↓', 'in the losses (s)', 'AP ↑', '#H', 'memory (MB)', 'seeds'],
            (
                [
                    first['detector'],
                    first['loss'],
                    _number(first['seconds per iteration'], '.2f'),
                    _number(first['seconds in the losses'], '.4f'),
                    spread(group, 'AP'),
                    first['hyper-parameters'],
                    max(row['peak memory (MB)'] for row in group),
                    ', '.join(str(row['seed']) for row in group),
                ]
                for first, group in groups
            ),
            merge=True,
        ),
        '![AP against time per iteration](ap_against_time.png)',
        '## Accuracy in full',
        _table(
            ['Detector', 'Loss', *AP_COLUMNS],
            ([f['detector'], f['loss'], *(spread(group, column) for column in AP_COLUMNS)] for f, group in groups),
            merge=True,
        ),
        '![AP over epochs](ap_over_epochs.png)',
    ]
    known = ['detector', 'loss', 'label', 'seed', 'outcome', 'budget', *AP_COLUMNS, 'seconds per iteration']
    known += ['seconds in the losses', 'peak memory (MB)', 'memory of', 'hyper-parameters', 'detail']
    classes = list(dict.fromkeys(key for row in rows for key in row if key not in known))
    if classes:
        parts += [
            '## AP per class',
            _table(
                ['Detector', 'Loss', *classes],
                ([f['detector'], f['loss'], *(spread(group, name) for name in classes)] for f, group in groups),
                merge=True,
            ),
        ]
    equal = [first['detector'] for first, _ in groups if first['label'] == EQUAL_TIME]
    if equal:
        parts += ['## Equal time', *_equal_time(study, groups, equal)]
    if gradients:
        parts += ['## Gradients on positives and on negatives', *_gradients(study, gradients)]
    lost = [row for row in rows if row['outcome'] != FINISHED]
    if lost:
        lines = [
            f'- {row["detector"]}, {row["loss"]}, seed {row["seed"]}: {row["outcome"]}. {row["detail"]}' for row in lost
        ]
        parts += ['## Runs without a result', '\n'.join(lines)]
    return '\n\n'.join(parts) + '\n'


def _groups(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], list[Mapping[str, Any]]]]:
    """The seeds of a loss together."""
    groups: dict[tuple, list] = {}
    for row in rows:
        groups.setdefault((row['detector'], row['label']), []).append(row)
    return [(group[0], group) for group in groups.values()]


def spread(group: Iterable[Mapping[str, Any]], column: str, digits: str = '.3f') -> str:
    """Mean ± sample standard deviation; what did not finish is said."""
    group = list(group)
    values = [float(row[column]) for row in group if row.get(column) not in ('', None)]
    lost = [row['outcome'] for row in group if row['outcome'] != FINISHED]
    cells = []
    if values:
        cells.append(f'{mean(values):{digits}}' + (f' ± {stdev(values):{digits}}' if len(values) > 1 else ''))
    if lost and column == 'AP':
        cells.append(f'{len(lost)} {lost[0]}' if values else lost[0])
    return ', '.join(cells)


def _number(value: Any, digits: str) -> str:
    return '' if value in ('', None) else f'{value:{digits}}'


def _table(head: Sequence[str], lines: Iterable[Sequence[Any]], merge: bool = False) -> str:
    """Markdown; ``merge``: what the line before begins with is not repeated."""
    text = ['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|']
    before = None
    for line in lines:
        cells = [str(cell) for cell in line]
        if merge and cells[0] == before:
            cells[0] = ''
        else:
            before = cells[0]
        text.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(text)


def _equal_time(study: Study, groups: Sequence[tuple], detectors: Sequence[str]) -> list[str]:
    lines = []
    for detector in detectors:
        by_loop, fast = study.equal_time(detector) or (float('nan'),) * 2
        own = {'rs': by_loop, 'brs': fast, EQUAL_TIME: fast}
        for label, name in (('rs', 'RS'), ('brs', 'BRS'), (EQUAL_TIME, 'BRS')):
            group = next(
                (group for first, group in groups if (first['detector'], first['label']) == (detector, label)), None
            )
            if group:
                budget = study.entries[detector]['losses'][label]['budget']
                seconds = f'{own[label]:.2f}{" (by loop)" if label == "rs" else ""}'
                lines.append([detector, name, budget, seconds, *(spread(group, c) for c in ('AP', 'AP50', 'AP75'))])
    return [
        'RS Loss would take this long per iteration with the published loop over positives, timed on the same inputs; '
        'BRS Loss is trained for as many epochs as fit into the time of RS.',
        _table(['Detector', 'Loss', 'budget', 'T_iter (s)', 'AP', 'AP50', 'AP75'], lines, merge=True),
    ]


# Gradients


def gradient_records(study: Study) -> list[dict[str, Any]]:
    """What tools/gradient_shares.py found: detector, source of the logits, place of the loss, moment, share by loss."""
    records = []
    for detector in study.entries:
        for source in ORDER:
            measured = _read(study.root / 'gradients' / f'{detector}_{source}.json')
            for moment, checkpoint in zip(MOMENTS, measured or [], strict=False):
                for place, found in checkpoint['losses'].items():
                    records.append(dict(detector=detector, source=source, place=place, moment=moment, **found))
    return records


def _gradients(study: Study, records: Sequence[Mapping[str, Any]]) -> list[str]:
    losses = list(records[0]['shares'])
    lines = [
        [
            f'{r["detector"]}, {r["place"]}',
            study.name_of(r['detector'], r['source']),
            r['moment'],
            f'1 : {r["negatives"] / max(r["positives"], 1):.0f}',
            *(f'{r["shares"][loss]:.2f}' for loss in losses),
        ]
        for r in records
    ]
    return [
        'Every loss on the same logits: those that trainings had after their first, middle and last epoch, on training '
        'images. The share of the gradient (sum of absolute values over logits) that falls on positives; at 0.5 they '
        'weigh as much as the negatives, however many those are.',
        _table(['Head', 'logits of', 'moment', 'positives : negatives', *losses], lines, merge=True),
        '![Share of the gradient on positives](gradients.png)',
    ]


# Figures

COLORS = dict(zip(ORDER, plt.get_cmap('tab10').colors, strict=False))


def _grid(number: int, size: tuple[float, float], columns: int = 3) -> tuple[Any, list[Any]]:
    columns = min(number, columns)
    lines = -(-number // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(size[0] * columns, size[1] * lines), squeeze=False, layout='constrained'
    )
    flat = list(axes.flat)
    for axis in flat[number:]:
        axis.set_visible(False)
    for axis in flat[:number]:
        axis.grid(alpha=0.25)
        axis.spines[['top', 'right']].set_visible(False)
    return figure, flat[:number]


def _save(figure: Any, out: Path) -> None:
    figure.savefig(out, dpi=120)
    plt.close(figure)


def _finished(study: Study, wanted: Callable[[dict], bool] = bool) -> dict[str, dict[str, list[dict]]]:
    """Finished runs by detector and loss."""
    found: dict[str, dict[str, list[dict]]] = {}
    for result in study.results():
        if result['outcome'] == FINISHED and wanted(result):
            found.setdefault(result['detector'], {}).setdefault(result['loss'], []).append(result)
    return found


def draw_ap_over_epochs(study: Study, out: Path) -> None:
    """A panel per detector; lines are means over seeds, shades their range."""
    found = _finished(study)
    if not found:
        return
    figure, axes = _grid(len(found), (4.8, 3.6))
    for (detector, losses), axis in zip(found.items(), axes, strict=True):
        for label, results in losses.items():
            by_step: dict[int, list[float]] = {}
            for result in results:
                for step, metrics in read_metrics(study.folder(detector, label, result['seed'])):
                    by_step.setdefault(step, []).append(metrics.get('AP', 0.0))
            steps = sorted(by_step)
            axis.plot(
                steps, [mean(by_step[s]) for s in steps], label=study.name_of(detector, label), color=COLORS[label],
                marker='o', markersize=3.5, linewidth=1.7,
            )  # fmt: skip
            lowest, highest = ([pick(by_step[s]) for s in steps] for pick in (min, max))
            axis.fill_between(steps, lowest, highest, color=COLORS[label], alpha=0.15, linewidth=0)
        unit = study.entries[detector]['losses'][next(iter(losses))]['budget'].split()[1].removesuffix('s')
        axis.set(title=detector, xlabel=unit, ylabel='AP')
        axis.legend(frameon=False, fontsize=8)
    _save(figure, out)


def draw_ap_against_time(study: Study, rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """A point per loss, a panel per detector; bars are the range of the seeds."""
    groups = [
        (first, [row for row in group if row['AP'] != ''])
        for first, group in _groups(rows)
        if first['label'] != EQUAL_TIME and first['seconds per iteration'] != ''
    ]
    groups = [(first, group) for first, group in groups if group]
    detectors = list(dict.fromkeys(first['detector'] for first, _ in groups))
    if not detectors:
        return
    figure, axes = _grid(len(detectors), (4.8, 3.6))
    for detector, axis in zip(detectors, axes, strict=True):
        for first, group in groups:
            if first['detector'] == detector:
                values = [row['AP'] for row in group]
                middle = mean(values)
                axis.errorbar(
                    first['seconds per iteration'], middle, [[middle - min(values)], [max(values) - middle]],
                    color=COLORS[first['label']], label=first['loss'], marker='o', capsize=3, linestyle='none',
                )  # fmt: skip
        axis.margins(x=0.15, y=0.15)
        axis.set(title=detector, xlabel='seconds per iteration', ylabel='AP')
        axis.legend(frameon=False, fontsize=8)
    _save(figure, out)


def draw_gradients(study: Study, records: Sequence[Mapping[str, Any]], out: Path) -> None:
    """A panel per head and source of logits, a line per loss over early, middle and late."""
    panels: dict[tuple, list] = {}
    for record in records:
        panels.setdefault((record['detector'], record['place'], record['source']), []).append(record)
    if not panels:
        return
    figure, axes = _grid(len(panels), (4.6, 3.4))
    for ((detector, place, source), group), axis in zip(panels.items(), axes, strict=True):
        for index, loss in enumerate(group[0]['shares']):
            shares = [record['shares'][loss] for record in group]
            axis.plot(range(len(shares)), shares, marker='o', markersize=3.5, label=loss, color=f'C{index}')
        axis.axhline(0.5, color='gray', linewidth=0.8, linestyle=':')
        axis.set(title=f'{detector}, {place}\nlogits of {study.name_of(detector, source)}', ylim=(-0.03, 1.03))
        axis.set(ylabel='share of the gradient on positives')
        axis.title.set_fontsize(9)
        axis.set_xticks(range(len(group)), [record['moment'] for record in group])
    axes[0].legend(frameon=False, fontsize=8, ncol=2)
    _save(figure, out)
