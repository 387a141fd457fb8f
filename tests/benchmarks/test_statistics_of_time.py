"""Intervals of quantiles: ranks by scipy's binomial, coverage in simulation, repeatability, drift, what is noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.statistics_of_time import (
    Quantile,
    drift_of,
    effective_count,
    noise_of,
    quantile_of,
    spread_of,
    verdict_of,
)
from deploy.backends.emulated_npu import EmulatedNpu
from tests.benchmarks.emulated import HW

DRAWN = {
    "exponential": (lambda rng, n: rng.exponential(1, n), stats.expon().ppf),
    "log-normal": (lambda rng, n: rng.lognormal(0, 1, n), stats.lognorm(1).ppf),
    # Heavy on one side, with a mean that is infinite: nothing that leans on moments survives it.
    "pareto": (lambda rng, n: 1 + rng.pareto(0.8, n), stats.pareto(0.8).ppf),
}


def correlated(rng, n, phi=0.8):
    """Return exp of an autoregressive series with the standard normal as its distribution: the true median is 1."""
    noise = rng.normal(0, math.sqrt(1 - phi**2), n)
    series = np.empty(n)
    series[0] = rng.normal()
    for i in range(1, n):
        series[i] = phi * series[i - 1] + noise[i]
    return np.exp(series)


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [1, 7, 8, 10, 50, 459, 1000])
def test_ranks_are_the_tightest_that_the_binomial_allows(n, q):
    confidence = 0.99
    found = quantile_of(np.arange(1, n + 1), q, confidence, independent=True)
    binomial, tail = stats.binom(n, q), (1 - confidence) / 2
    low = 0 if found.low is None else round(found.low)
    high = n + 1 if found.high is None else round(found.high)
    assert binomial.cdf(low - 1) <= tail < binomial.cdf(low)
    assert binomial.sf(high - 1) <= tail
    assert high == 1 or binomial.sf(high - 2) > tail


def test_the_table_that_textbooks_print():
    """David and Nagaraja: of ten values the 2nd and the 9th hold the median with 97.9 %."""
    found = quantile_of(np.arange(1, 11), 0.5, 0.95, independent=True)
    assert (found.low, found.high) == (2, 9)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(("q", "n"), [(0.5, 60), (0.9, 200), (0.99, 1500)])
def test_the_interval_holds_the_true_quantile(name, q, n):
    draw, ppf = DRAWN[name]
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(300):
        found = quantile_of(draw(rng, n), q)
        held += (found.low is None or found.low <= ppf(q)) and (found.high is None or ppf(q) <= found.high)
    assert held >= 0.97 * 300


def test_values_that_hang_together_count_less():
    """Of an AR(1) series with 0.8 the interval of independent values would be far too narrow."""
    rng = np.random.default_rng(3)
    naive = honest = 0
    for _ in range(200):
        values = correlated(rng, 500)
        for independent in (True, False):
            found = quantile_of(values, 0.5, independent=independent)
            inside = found.low <= 1 <= found.high
            naive, honest = naive + (inside and independent), honest + (inside and not independent)
    assert naive < 0.85 * 200
    assert honest >= 0.95 * 200


def test_the_effective_count_of_known_series():
    rng = np.random.default_rng(0)
    assert effective_count(rng.normal(size=4000), 0.5) > 3000
    # Blocks of ten equal values: one in ten is new.
    assert 250 < effective_count(np.repeat(rng.normal(size=400), 10), 0.5) < 550
    assert effective_count(np.ones(50), 0.5) == 50


@pytest.mark.parametrize("jitter", [0.02, 0.3])
def test_a_second_run_lies_in_the_interval_of_the_first_in_nine_of_ten(jitter):
    """Runs on the emulated NPU, whose latencies are noted instead of waited for."""
    slept: list[float] = []
    npu = EmulatedNpu(HW, lambda batch: [], jitter=jitter, wait=slept.append, seed=5)
    backend, image = npu.open(0), np.zeros((1, *HW, 3), np.uint8)

    def run():
        slept.clear()
        for _ in range(120):
            backend.infer(image)
        return quantile_of(slept, 0.5)

    agreed = 0
    for _ in range(200):
        first, second = run(), run()
        agreed += first.low <= second.value <= first.high
    assert agreed >= 0.9 * 200


def test_open_sides_are_told():
    assert quantile_of([1.0, 2, 3], 0.5).low is None
    tail = quantile_of(np.arange(100.0), 0.99)
    assert tail.high is None
    assert tail.low is not None
    assert tail.half_width == math.inf


def test_a_spread_counts_outliers_and_keeps_the_worst():
    values = [10.0 + 0.01 * (i % 7) for i in range(200)]
    values[50], values[120] = 25.0, 40.0
    found = spread_of(values)
    assert (found.outliers, found.worst, found.count) == (2, 40.0, 200)
    assert found.curve[0] == 10.0
    assert found.curve[-1] == 40.0
    assert found.drift is None


def test_drift_is_seen_and_chance_is_not():
    rng = np.random.default_rng(1)
    steady = rng.normal(10, 0.3, 300)
    slowing = steady * np.linspace(1, 1.2, 300)
    assert drift_of(steady) is None
    assert drift_of(slowing) == pytest.approx(0.13, abs=0.03)
    assert drift_of(slowing[::-1]) < 0
    assert drift_of(steady[:20]) is None


def test_verdicts_against_a_simulation():
    """Two runs of the same are seldom called different; 10 % more nearly always."""
    rng = np.random.default_rng(2)
    false = true = 0
    for _ in range(200):
        a, b, c = (quantile_of(rng.lognormal(0, 0.2, 300), 0.5) for _ in range(3))
        false += verdict_of(a, b) != "same"
        slower = Quantile(c.value * 1.1, c.low * 1.1, c.high * 1.1)
        true += verdict_of(a, slower) == "higher"
    assert false <= 0.03 * 200
    assert true >= 0.9 * 200


def test_noise_needs_both_sides():
    a, b = Quantile(10, 9, 12), Quantile(14, 13, None)
    assert noise_of(a, b) == pytest.approx(math.hypot(2, 1))
    assert noise_of(b, a) == pytest.approx(math.hypot(1, 2))
    assert verdict_of(a, b) == "higher"
    assert verdict_of(b, a) == "lower"
    assert verdict_of(a, Quantile(14, None, 15)) == "unknown"


def test_a_second_run_has_an_error_of_its_own():
    found = Quantile(10, 9, 12).repeat()
    assert (found.low, found.high) == pytest.approx((10 - math.sqrt(2), 10 + 2 * math.sqrt(2)))
    assert Quantile(10, None, 12).repeat().low is None
    # A run that turns out as wide as the first is judged alike by both.
    first = Quantile(10, 9.5, 10.5)
    assert noise_of(first, Quantile(11, 10.5, 11.5)) == pytest.approx(first.repeat().high - 10)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0]]])
def test_what_is_no_row_of_times_is_refused(values):
    with pytest.raises(ValueError, match="row of finite numbers"):
        spread_of(values)
