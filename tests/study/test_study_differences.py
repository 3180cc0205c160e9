"""Paired differences of a study and their intervals."""

from __future__ import annotations

import csv
import json
import statistics

import numpy as np
import pytest

pytest.importorskip('pandas')
pytest.importorskip('matplotlib')

from studies import finished, make_up

from bucketed_losses.study.differences import Difference, differences_section, differences_table, paired_difference
from bucketed_losses.study.report import write_report
from bucketed_losses.study.store import write_json

RNG = np.random.default_rng(3)
NOISE = RNG.normal(0, 0.01, 1000)  # of the images, the same for all runs of the data set


def resampled(study, name, loss, seed, ap, noise=NOISE):
    write_json(
        study.folder(name, loss, seed) / 'resampled.json', dict(images=67, AP=ap, resampled=(ap + noise).tolist())
    )


@pytest.fixture
def made_up(tmp_path):
    study = make_up(tmp_path)
    for seed, ap in enumerate((0.5, 0.52, 0.54)):
        resampled(study, 'A', 'brs', seed, ap)
    resampled(study, 'A', 'stock', 0, 0.4)
    resampled(study, 'A', 'rs', 0, 0.501, NOISE + RNG.normal(0, 0.004, 1000))
    return study


def test_the_noise_of_images_that_both_losses_share_cancels():
    apart = np.array([0.1, 0.1, 0.1])
    assert paired_difference(apart, np.repeat(apart[:, None], 500, axis=1))[:3] == pytest.approx((0.1, 0.1, 0.1))


def test_the_interval_is_that_of_a_loop_over_resamples():
    rng = np.random.default_rng(0)
    ap = rng.normal(0.02, 0.01, 5)
    images = ap[:, None] + rng.normal(0, 0.02, 4000)
    found = paired_difference(ap, images)
    means = []
    for column in range(4000):
        draw = [rng.integers(5) for _ in range(5)]
        of_images = statistics.mean(images[:, column])
        drawn = statistics.mean(images[seed, column] for seed in draw)
        # t and normal quantiles at 0.975: 2.776 and 1.960
        means.append(of_images + (5 / 4) ** 0.5 * 2.776 / 1.960 * (drawn - of_images))
    means.sort()
    assert found.mean == pytest.approx(statistics.mean(ap))
    assert found.low == pytest.approx(means[100], abs=0.002) and found.high == pytest.approx(means[3899], abs=0.002)


@pytest.mark.parametrize('seeds', [2, 3, 5])
def test_nineteen_of_twenty_intervals_contain_the_true_difference(seeds):
    rng = np.random.default_rng(seeds)
    contained = 0
    for _ in range(400):
        ap = rng.normal(0.02, 0.01, seeds)
        found = paired_difference(ap, np.repeat(ap[:, None], 1000, axis=1))
        contained += found.low <= 0.02 <= found.high
    assert contained > 0.9 * 400


def test_seeds_widen_the_interval():
    images = np.full((4, 1000), 0.1) + np.random.default_rng(0).normal(0, 0.001, 1000)
    alike = paired_difference(np.full(4, 0.1), images)
    spread = np.array([-0.05, 0.05, -0.05, 0.05])
    apart = paired_difference(0.1 + spread, images + spread[:, None])
    assert apart.mean == pytest.approx(alike.mean)
    assert apart.high - apart.low > 5 * (alike.high - alike.low)


@pytest.mark.parametrize(
    ('low', 'high', 'verdict'), [(0.01, 0.02, 'ahead'), (-0.02, -0.01, 'behind'), (-0.01, 0.01, 'tie')]
)
def test_verdicts(low, high, verdict):
    assert Difference((low + high) / 2, low, high, seeds=2).verdict == verdict
    assert Difference((low + high) / 2, low, high, seeds=1).verdict == 'one seed'


def test_pairs_have_the_same_seeds(made_up):
    table = differences_table(made_up)
    pairs = {(row['loss'], row['compared with']): row for row in table.to_dict('records')}
    assert pairs.keys() == {('BRS', 'Focal+GIoU'), ('RS', 'Focal+GIoU'), ('BRS', 'RS')}
    brs = pairs['BRS', 'Focal+GIoU']
    assert (brs['seeds'], brs['images'], brs['verdict']) == ('0', 67, 'one seed')
    assert [brs[key] for key in ('difference of AP', 'low', 'high')] == pytest.approx([0.1] * 3)
    tie = pairs['BRS', 'RS']
    assert tie['low'] < -0.001 < tie['high']
    finished(made_up, 'A', 'stock', 2, [(12, 0.44)])
    resampled(made_up, 'A', 'stock', 2, 0.44)
    table = differences_table(made_up)
    (both,) = table[(table['loss'] == 'BRS') & (table['compared with'] == 'Focal+GIoU')].to_dict('records')
    assert both['seeds'] == '0 2' and both['difference of AP'] == pytest.approx(0.1)
    assert both['verdict'] == 'ahead' and both['diverged'] == ''
    made_up.write_result(
        dict(
            detector='A',
            loss='stock',
            seed=1,
            outcome='diverged',
            detail='',
            peak_rss_mb=1.0,
            seconds_since_start=1,
            jobs=1,
        )
    )
    table = differences_table(made_up)
    (both,) = table[(table['loss'] == 'BRS') & (table['compared with'] == 'Focal+GIoU')].to_dict('records')
    assert both['seeds'] == '0 2' and both['diverged'] == '1'
    assert both['verdict'] == 'not judged', 'the seed is missing because one of the two losses failed'


def test_report_has_the_differences(made_up):
    write_report(made_up)
    page = (made_up.root / 'study.md').read_text()
    assert '| A | RS against Focal+GIoU | +0.101 | [+0.09' in page and '| one seed | 0 |' in page
    assert 'the 67 validation images' in page and '](differences.png)' in page
    assert (made_up.root / 'differences.png').stat().st_size > 10_000
    with (made_up.root / 'differences.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['loss'] for row in rows] == ['RS', 'BRS', 'BRS']
    # A run that was not evaluated by CocoMetric has no detections and no row.
    (made_up.folder('A', 'stock', 0) / 'resampled.json').unlink()
    assert len(differences_table(made_up)) == 1


def test_the_page_shows_the_pairs_with_the_stock_loss_or_brs(made_up):
    assert 'differences.csv' not in '\n'.join(differences_section(differences_table(made_up)))
    made_up.remember('A', 'ap', 'AP', 'GIoU', 'ATSS', (True, 12))
    resampled(made_up, 'A', 'ap', 0, 0.45)
    finished(made_up, 'A', 'ap', 0, [(12, 0.45)])
    table = differences_table(made_up)
    page = '\n'.join(differences_section(table))
    assert len(table) == 6 and page.count('| one seed |') == 5
    assert '| RS against AP |' not in page and 'differences.csv' in page
    # Without both of them, all pairs are shown.
    others = table[~table['with stock or BRS']]
    assert '| RS against AP |' in '\n'.join(differences_section(others))


@pytest.mark.parametrize(
    ('metric', 'of_boxes'), [('bbox', True), (['bbox', 'segm'], True), ('segm', False), (['segm'], False), (None, True)]
)
def test_intervals_are_those_of_boxes(metric, of_boxes):
    """The detections of SOLO have empty boxes: their differences would be 0."""
    config = pytest.importorskip('mmengine.config').Config
    from bucketed_losses.study.detections import coco_evaluator

    coco = dict(type='CocoMetric', **({'metric': metric} if metric else {}))
    found = coco_evaluator(config(dict(val_evaluator=[dict(type='DumpDetResults'), coco])))
    assert found == (coco if of_boxes else None)


def test_equal_time_is_not_among_them(made_up):
    resampled(made_up, 'A', 'brs in equal time', 0, 0.6)
    assert len(differences_table(made_up)) == 3
    assert json.loads((made_up.folder('A', 'brs in equal time', 0) / 'resampled.json').read_text())['images'] == 67
