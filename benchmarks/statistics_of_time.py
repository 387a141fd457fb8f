"""Quantiles of times with intervals that assume no distribution, outliers, drift, and what differs beyond noise.

The interval of a quantile is a pair of order statistics: of n independent values the number below the q-quantile is
binomial (David and Nagaraja, "Order Statistics", 3rd ed., section 7.1). Times of one run are not independent: a busy
second slows all that falls into it. So n is first reduced to an effective count by the integrated autocorrelation of
"below the quantile or not" (Geyer, "Practical Markov chain Monte Carlo", 1992: sums of neighbouring pairs as long as
they are positive).

Two intervals, one for each question. The confidence interval holds the true quantile. Where a second run's estimate
lies is another question: it has an error of its own, so the difference of two has twice the variance of one, and the
interval is sqrt(2) times as wide (`Quantile.repeat`; Hahn and Meeker, "Statistical Intervals", chapter 4, the mean of a
future sample of the same size). Two measured runs are compared with the interval of each (`noise_of`).

Why 99 %: a comparison of two reports judges some forty quantities; with 95 % two of them would differ by chance alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

CONFIDENCE = 0.99
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
# Points of the curve that plots and later comparisons are drawn from.
CURVE = np.linspace(0, 1, 101)
# Tukey's outer fence ("Exploratory Data Analysis", 1977): so many interquartile ranges above the upper quartile.
FENCE = 3.0
# Half of the relative widths below is what a median has to move by before a trend is worth a word.
DRIFT = 0.02

Verdict = Literal["same", "higher", "lower", "unknown"]


@dataclass(frozen=True)
class Quantile:
    """A quantile and its interval, which holds the true one with `CONFIDENCE`.

    low, high: None where too few values lie on that side of it to say.
    """

    value: float
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float:
        """Half of the interval as a share of the value; infinite where a side is open."""
        if self.low is None or self.high is None or not self.value:
            return math.inf
        return (self.high - self.low) / 2 / abs(self.value)

    def repeat(self) -> Quantile:
        """Return the interval that holds, with `CONFIDENCE`, what a second run of the same length will find.

        Exact where the interval is Student's; an approximation where it comes from order statistics.
        """
        low, high = (
            None if end is None else self.value + math.sqrt(2) * (end - self.value) for end in (self.low, self.high)
        )
        return Quantile(self.value, low, high)

    def to_json(self) -> dict[str, float | None]:
        """Return value, low and high."""
        return {"value": self.value, "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Quantile:
        """Read back what `to_json` returned. Raises KeyError or TypeError for something else."""
        low, high = (None if raw[name] is None else float(raw[name]) for name in ("low", "high"))
        return cls(float(raw["value"]), low, high)


@dataclass(frozen=True)
class Spread:
    """How one stage's times are spread, in the unit of its values.

    effective_count: independent values that carry as much about the median. outliers: above Tukey's outer fence.
    drift: the median of the last third over that of the first, less 1; None unless it is beyond both intervals and
    `DRIFT`. curve: quantiles at `CURVE`.
    """

    count: int
    effective_count: float
    mean: float
    p50: Quantile
    p90: Quantile
    p99: Quantile
    worst: float
    outliers: int
    drift: float | None
    curve: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what a report holds."""
        return {
            "count": self.count,
            "effective_count": self.effective_count,
            "mean": self.mean,
            **{name: getattr(self, name).to_json() for name in QUANTILES},
            "worst": self.worst,
            "outliers": self.outliers,
            "drift": self.drift,
            "curve": list(self.curve),
        }


def spread_of(values: Sequence[float] | np.ndarray) -> Spread:
    """Return how values (n,), in the order in which they were measured, are spread. Raises ValueError for none."""
    times = _checked(values)
    ordered = np.sort(times)
    found = {name: quantile_of(times, q) for name, q in QUANTILES.items()}
    return Spread(
        len(times),
        effective_count(times, 0.5),
        float(times.mean()),
        found["p50"],
        found["p90"],
        found["p99"],
        float(ordered[-1]),
        count_outliers(times),
        drift_of(times),
        tuple(float(v) for v in np.quantile(ordered, CURVE)),
    )


def quantile_of(
    values: Sequence[float] | np.ndarray, q: float, confidence: float = CONFIDENCE, *, independent: bool = False
) -> Quantile:
    """Return a quantile of values (n,) in measured order, with its interval.

    independent: take every value for what it is; else n is reduced by their autocorrelation.
    """
    times = _checked(values)
    if not 0 < q < 1 or not 0 < confidence < 1:
        raise ValueError(f"q and confidence must lie between 0 and 1, got {q} and {confidence}")
    return interval_of_ranks(times, q, confidence, len(times) if independent else effective_count(times, q))


def interval_of_ranks(times: np.ndarray, q: float, confidence: float, independent: float) -> Quantile:
    """Return a quantile of times (n,) whose interval knows no more than `independent` of them would."""
    ordered = np.sort(times)
    n = len(times)
    m = min(n, max(1, math.floor(independent)))
    first, last = _ranks(m, q, (1 - confidence) / 2)
    # Ranks among m values become places among n, each rounded outwards.
    low = None if first == 0 else float(ordered[math.floor((first - 1) * n / m)])
    high = None if last > m else float(ordered[min(n, math.ceil(last * n / m)) - 1])
    return Quantile(float(np.quantile(ordered, q)), low, high)


def effective_count(values: Sequence[float] | np.ndarray, q: float) -> float:
    """Return how many independent values tell as much about the q-quantile as these (n,) do, 1 to n."""
    times = _checked(values)
    n = len(times)
    below = (times <= np.quantile(times, q)).astype(np.float64)
    below -= below.mean()
    return float(n) if n < 8 else n / correlated_length(below)


def correlated_length(deviations: np.ndarray) -> float:
    """Return how many neighbours of a series (n,) of deviations from its mean tell as much as one independent value.

    The integrated autocorrelation, 1 to n; see the module's text.
    """
    n = len(deviations)
    if not deviations.any():
        return 1.0
    size = 1 << (2 * n - 1).bit_length()
    power = np.abs(np.fft.rfft(deviations, size)) ** 2
    covariance = np.fft.irfft(power, size)[: n // 2]
    correlation = covariance / covariance[0]
    pairs = correlation[: len(correlation) // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs <= 0)
    # Geyer's monotone sequence: a pair counts for no more than the one before it.
    kept = np.minimum.accumulate(pairs[: negative[0] if len(negative) else len(pairs)])
    length = 2 * float(kept.sum()) - 1
    return min(max(1.0, length), float(n))


def count_outliers(times: np.ndarray) -> int:
    """Return how many of times (n,) lie above Tukey's outer fence."""
    lower, upper = np.quantile(times, (0.25, 0.75))
    return int((times > upper + FENCE * (upper - lower)).sum())


def drift_of(values: Sequence[float] | np.ndarray) -> float | None:
    """Return by what share the median of the last third lies off that of the first; None where that may be chance."""
    times = _checked(values)
    third = len(times) // 3
    if third < 8:
        return None
    first, last = quantile_of(times[:third], 0.5), quantile_of(times[-third:], 0.5)
    if verdict_of(first, last) in ("same", "unknown") or not first.value:
        return None
    change = last.value / first.value - 1
    return change if abs(change) >= DRIFT else None


def noise_of(old: Quantile, new: Quantile) -> float | None:
    """Return how far `new` may lie off `old` by chance, in their unit: the halves that face each other, as deviations.

    None where one of them is not known.
    """
    up = new.value >= old.value
    ends = (old.high, new.low) if up else (old.low, new.high)
    if ends[0] is None or ends[1] is None:
        return None
    return math.hypot(ends[0] - old.value, ends[1] - new.value)


def verdict_of(old: Quantile, new: Quantile) -> Verdict:
    """Say whether `new` lies above or below `old` by more than chance explains."""
    noise = noise_of(old, new)
    if noise is None:
        return "unknown"
    change = new.value - old.value
    if abs(change) <= noise:
        return "same"
    return "higher" if change > 0 else "lower"


def _checked(values: Sequence[float] | np.ndarray) -> np.ndarray:
    times = np.asarray(values, np.float64)
    if times.ndim != 1 or not len(times) or not np.isfinite(times).all():
        raise ValueError(f"values must be a row of finite numbers, at least one; got {times.shape}")
    return times


def _ranks(n: int, q: float, tail: float) -> tuple[int, int]:
    """Return the ranks (from 1) of the interval's ends: 0 and n + 1 where there is no such order statistic.

    The lower one is the largest l with P(B < l) <= tail, the upper one the smallest u with P(B >= u) <= tail, where B,
    the number of values below the quantile, is binomial (n, q).
    """
    counts = np.arange(n + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    chance = factorials[n] - factorials - factorials[::-1] + counts * math.log(q) + (n - counts) * math.log1p(-q)
    at_most = np.cumsum(np.exp(chance))
    lower = int((at_most <= tail).sum())
    upper = int((at_most < 1 - tail).sum()) + 1
    return lower, upper
