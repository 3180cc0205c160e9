"""Bins of equal mass, Wilson's intervals, and the diagram that is drawn of them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('mmdet')
pytest.importorskip('matplotlib')

from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from scipy.stats import binomtest

from bucketed_losses.mmdet.evaluation import ClassMatches, calibration_errors
from bucketed_losses.mmdet.evaluation.reliability_diagram import draw_reliability, equal_mass_bins, wilson_interval


@pytest.mark.parametrize(('right', 'number'), [(0, 10), (10, 10), (3, 7), (250, 1000)])
def test_wilson_interval(right, number):
    """Against scipy's."""
    low, high = wilson_interval(np.array([right / number]), np.array([number]))
    expected = binomtest(right, number).proportion_ci(method='wilson')
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert low[0] <= right / number <= high[0] and low[0] < high[0]


def test_intervals_cover_the_precision():
    """Of the bins of calibrated scores, about 95 % have the true precision in their interval."""
    rng = np.random.default_rng(0)
    scores = rng.random(200_000)
    bins = equal_mass_bins(scores, rng.random(len(scores)) < scores, num_bins=1000)
    assert 0.93 < np.mean((bins.low <= bins.score) & (bins.score <= bins.high)) < 0.97


def test_bins_have_equal_mass_and_follow_the_scores():
    rng = np.random.default_rng(0)
    scores, correct = rng.beta(0.5, 5, 1003), rng.random(1003) < 0.3
    bins = equal_mass_bins(scores, correct, num_bins=10)
    assert set(bins.number) == {100, 101} and bins.number.sum() == 1003
    assert (
        (bins.first[1:] > bins.last[:-1]).all() and (bins.first <= bins.score).all() and (bins.score <= bins.last).all()
    )
    assert np.average(bins.precision, weights=bins.number) == pytest.approx(correct.mean())
    for first, last, precision in zip(bins.first, bins.last, bins.precision, strict=True):
        assert correct[(scores >= first) & (scores <= last)].mean() == pytest.approx(precision)


def test_the_number_of_bins_follows_the_number_of_detections():
    rng = np.random.default_rng(0)
    for number, bins in ((10, 1), (250, 2), (3000, 30), (100_000, 50)):
        assert len(equal_mass_bins(rng.random(number), rng.random(number) < 0.5).number) == bins


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_equal_scores_are_in_one_bin(pairs, num_bins):
    scores, correct = np.array([score / 5 for score, _ in pairs]), np.array([right for _, right in pairs])
    bins = equal_mass_bins(scores, correct, num_bins)
    assert len(bins.number) <= num_bins and bins.number.sum() == len(pairs) and (bins.number > 0).all()
    assert (bins.first[1:] > bins.last[:-1]).all()
    shuffled = np.random.default_rng(0).permutation(len(pairs))
    for one, other in zip(bins, equal_mass_bins(scores[shuffled], correct[shuffled], num_bins), strict=True):
        assert one == pytest.approx(other)


def test_no_detections_and_wrong_arguments():
    assert all(len(column) == 0 for column in equal_mass_bins(np.zeros(0), np.zeros(0, bool)))
    with pytest.raises(ValueError, match='num_bins must be at least 1, got 0'):
        equal_mass_bins(np.ones(3), np.ones(3, bool), 0)


@pytest.mark.parametrize('number', [3000, 0])
def test_the_diagram(number, tmp_path):
    rng = np.random.default_rng(0)
    scores = rng.random(number)
    matches = [ClassMatches(scores, rng.random(number) < scores, np.full(number, 0.8), np.zeros(number, int), 9)]
    errors = calibration_errors([*matches, ClassMatches(np.ones(1), np.ones(1, bool), np.ones(1), np.zeros(1, int), 1)])
    draw_reliability({'as trained': (matches, errors), 'calibrated': (matches, errors)}, 0.5, tmp_path / 'out.png')
    image = imread(tmp_path / 'out.png')
    assert image.std() > 0.02 and image.shape[1] > image.shape[0]
