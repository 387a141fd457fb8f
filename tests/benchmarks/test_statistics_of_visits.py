"""Visits: Student's t by scipy, coverage of the true quantiles and of a second run, series, drift, few values."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from benchmarks.statistics_of_time import quantile_of
from benchmarks.statistics_of_visits import (
    drift_of_visits,
    p50_of_visits,
    quantile_of_visits,
    spread_of_visits,
    student,
)


def draw(rng, visits, between, within, images=25, level=10.0):
    """Return visits whose levels and whose times within deviate by these shares of `level`, both normal."""
    return [level * (1 + between * rng.normal() + within * rng.normal(size=images)) for _ in range(visits)]


@pytest.mark.parametrize("freedom", [1, 1.3, 2, 3.7, 7, 23, 500])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99, 0.999])
def test_students_t_is_that_of_scipy(confidence, freedom):
    assert student(confidence, freedom) == pytest.approx(stats.t.ppf((1 + confidence) / 2, freedom), rel=1e-9)


def test_the_interval_of_few_visits_is_the_textbooks():
    """Five medians are too few for a correlation: scipy's interval of a mean, to the digit."""
    medians = [9.0, 11.0, 10.0, 12.0, 10.5]
    found = p50_of_visits([np.array([m - 1, m, m + 5]) for m in medians])
    low, high = stats.t.interval(0.99, 4, np.mean(medians), stats.sem(medians))
    assert (found.value, found.low, found.high) == pytest.approx((10.5, low, high))


@pytest.mark.parametrize("visits", [3, 8, 24])
@pytest.mark.parametrize(("between", "within"), [(0.03, 0.08), (0.03, 0.005), (0.0, 0.08)])
def test_the_p50_is_held_and_so_is_that_of_a_second_run(visits, between, within):
    """99 % of both, whichever deviation is the larger; 400 runs leave 1.5 % to chance (three deviations)."""
    rng = np.random.default_rng(11)
    found = [p50_of_visits(draw(rng, visits, between, within)) for _ in range(400)]
    held = sum(one.low <= 10 <= one.high for one in found)
    again = [(first.repeat(), second) for first, second in pairwise(found)]
    repeated = sum(first.low <= second.value <= first.high for first, second in again)
    assert held >= 0.975 * len(found)
    assert repeated >= 0.975 * len(again)


def test_the_confidence_interval_is_no_interval_of_a_second_run():
    """The two questions differ: fewer second runs lie in the interval of the true p50 than in their own."""
    rng = np.random.default_rng(12)
    found = [p50_of_visits(draw(rng, 5, 0.03, 0.02), 0.9) for _ in range(1000)]
    inside = sum(a.low <= b.value <= a.high for a, b in pairwise(found)) / 999
    # The difference has twice the variance: t within 2.132 / sqrt(2), by scipy.
    assert inside == pytest.approx(1 - 2 * stats.t.sf(2.132 / math.sqrt(2), 4), abs=0.04)
    repeated = sum(a.repeat().low <= b.value <= a.repeat().high for a, b in pairwise(found)) / 999
    assert repeated == pytest.approx(0.9, abs=0.04)


def test_the_interval_is_not_wider_than_it_has_to_be():
    """Against Student's own of independent visits: what looking for a correlation costs is a fifth at most."""
    rng = np.random.default_rng(13)
    ratios = []
    for _ in range(300):
        medians = rng.normal(10, 0.3, 24)
        own = p50_of_visits([np.array([m]) for m in medians])
        ratios.append((own.high - own.value) / (stats.t.ppf(0.995, 23) * stats.sem(medians)))
    assert min(ratios) == pytest.approx(1)
    assert np.mean(ratios) < 1.2


def test_visits_that_hang_together_count_less():
    """Levels that follow each other (0.6): plain Student would hold four of five, this nearly all."""
    rng = np.random.default_rng(14)
    plain = honest = 0
    for _ in range(400):
        levels = np.empty(24)
        levels[0] = rng.normal()
        for i in range(1, 24):
            levels[i] = 0.6 * levels[i - 1] + 0.8 * rng.normal()
        low, high = stats.t.interval(0.99, 23, levels.mean(), stats.sem(levels))
        found = p50_of_visits([np.array([level]) for level in levels])
        plain, honest = plain + (low <= 0 <= high), honest + (found.low <= 0 <= found.high)
    assert plain < 0.87 * 400
    assert honest >= 0.91 * 400


@pytest.mark.parametrize(("q", "images"), [(0.9, 25), (0.99, 150)])
@pytest.mark.parametrize("between", [0.0, 0.03])
def test_tails_are_held(q, images, between):
    rng = np.random.default_rng(15)
    truth = 10 * (1 + stats.norm.ppf(q) * math.hypot(between, 0.08))
    held = closed = 0
    for _ in range(150):
        found = quantile_of_visits(draw(rng, 24, between, 0.08, images), q)
        held += (found.low is None or found.low <= truth) and (found.high is None or truth <= found.high)
        closed += found.low is not None and found.high is not None
    assert held >= 0.97 * 150
    assert closed >= 0.9 * 150


def test_tails_of_visits_that_differ_are_wider_than_order_statistics():
    rng = np.random.default_rng(16)
    visits = draw(rng, 24, 0.05, 0.02, 50)
    alone = quantile_of(np.concatenate(visits), 0.75, independent=True)
    found = quantile_of_visits(visits, 0.75)
    assert found.value == alone.value
    assert found.high - found.low > 2 * (alone.high - alone.low)


def test_one_visit_does_not_know_how_visits_differ():
    found = spread_of_visits([np.linspace(9, 11, 101)])
    assert found.p50.value == pytest.approx(10)
    for quantile in (found.p50, found.p90, found.p99, found.p50.repeat()):
        assert quantile.low is None
        assert quantile.high is None
    assert found.drift is None


def test_a_spread_of_visits():
    rng = np.random.default_rng(17)
    visits = draw(rng, 10, 0.05, 0.01, 40)
    visits[3][7] = 40.0
    found = spread_of_visits(visits)
    times = np.concatenate(visits)
    assert (found.count, found.worst, found.outliers) == (400, 40.0, 1)
    assert found.mean == pytest.approx(times.mean())
    assert found.curve[50] == pytest.approx(np.median(times))
    assert found.p90.value == pytest.approx(np.quantile(times, 0.9))
    # Nearly equal within a visit: ten visits tell about as much as ten values.
    assert 3 < found.effective_count < 25
    same = spread_of_visits([np.full(9, 5.0)] * 8)
    assert (same.p50.low, same.p50.high, same.effective_count) == (5, 5, 72)


def test_drift_is_seen_and_chance_is_not():
    rng = np.random.default_rng(18)
    assert sum(drift_of_visits(draw(rng, 24, 0.05, 0.02)) is not None for _ in range(300)) <= 9
    steady = draw(rng, 24, 0.01, 0.02)
    slowing = [times * factor for times, factor in zip(steady, np.linspace(1, 1.2, 24), strict=True)]
    assert drift_of_visits(slowing) == pytest.approx(0.13, abs=0.03)
    assert drift_of_visits(slowing[::-1]) < 0
    assert drift_of_visits(slowing[:5]) is None


@pytest.mark.parametrize("visits", [[], [np.array([])], [np.ones(3), np.array([math.nan])], [np.ones((2, 2))]])
def test_what_is_no_row_of_times_is_refused(visits):
    with pytest.raises(ValueError, match="visits must be rows of finite numbers"):
        spread_of_visits(visits)


@pytest.mark.parametrize(("confidence", "freedom"), [(1.0, 3), (0.0, 3), (0.9, 0.5)])
def test_students_arguments_are_checked(confidence, freedom):
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1 and freedom be 1 or more"):
        student(confidence, freedom)
