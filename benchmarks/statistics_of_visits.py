"""Quantiles of times that were measured in several visits, with intervals that know how visits differ.

Times of one visit share what the machine was like in that moment: clock, caches, neighbours. An interval made from one
visit says how well that moment is known, not where the next run will lie. So visits are spread over a run, and the
visit is what is drawn at random.

p50: the mean of the visits' medians with Student's interval, visits being few (replications in Law and Kelton,
"Simulation Modeling and Analysis", chapter 9; for benchmarks Georges, Buytaert and Eeckhout, "Statistically rigorous
Java performance evaluation", OOPSLA 2007, and Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM
2013). The spread of medians holds both what differs within a visit and what differs between visits. Neighbouring visits
may hang together, as a machine warms up: their number is reduced by their autocorrelation before it counts.

p90, p99: a single visit is too short for its own. The quantile of all times is taken with its order statistics; their
number is reduced to what it would be without clusters (Korn and Graubard, "Confidence intervals for proportions with
small expected number of positive counts estimated from survey data", Survey Methodology 24, 1998).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .statistics_of_time import (
    CONFIDENCE,
    CURVE,
    DRIFT,
    QUANTILES,
    Quantile,
    Spread,
    correlated_length,
    count_outliers,
    effective_count,
    interval_of_ranks,
)

# Below so many visits neither their autocorrelation nor a trend can be told from chance.
LEAST_TO_CORRELATE = 6
# Nodes of the quadrature and halvings of the search: more digits than a double has of either.
NODES, HALVINGS = np.polynomial.legendre.leggauss(96), 60


def spread_of_visits(visits: Sequence[np.ndarray]) -> Spread:
    """Return how the times of visits, (n_j,) each in measured order, are spread. Raises ValueError for none."""
    checked = _checked(visits)
    times = np.concatenate(checked)
    ordered = np.sort(times)
    p50 = p50_of_visits(checked)
    p90, p99 = (quantile_of_visits(checked, QUANTILES[name]) for name in ("p90", "p99"))
    return Spread(
        len(times),
        _effective(checked, QUANTILES["p50"]),
        float(times.mean()),
        p50,
        p90,
        p99,
        float(ordered[-1]),
        count_outliers(times),
        drift_of_visits(checked),
        tuple(float(v) for v in np.quantile(ordered, CURVE)),
    )


def p50_of_visits(visits: Sequence[np.ndarray], confidence: float = CONFIDENCE) -> Quantile:
    """Return the mean of the visits' medians and Student's interval of it; open for a single visit.

    It holds the expected median of a visit at any moment of such a run; `Quantile.repeat` says where the p50 of a
    second run lies.
    """
    medians = np.array([np.median(times) for times in _checked(visits)])
    value, count = float(medians.mean()), len(medians)
    if count < 2:
        return Quantile(value, None, None)
    length = correlated_length(medians - medians.mean()) if count >= LEAST_TO_CORRELATE else 1.0
    independent = max(2.0, count / length)
    half = student(confidence, independent - 1) * float(medians.std(ddof=1)) / math.sqrt(independent)
    return Quantile(value, value - half, value + half)


def quantile_of_visits(visits: Sequence[np.ndarray], q: float, confidence: float = CONFIDENCE) -> Quantile:
    """Return the q-quantile of all times with an interval of order statistics; open where too few lie on a side."""
    checked = _checked(visits)
    if len(checked) < 2:
        return Quantile(float(np.quantile(checked[0], q)), None, None)
    count = sum(len(times) for times in checked)
    # Few visits know their own variance badly: Korn and Graubard's factor for the degrees of freedom.
    factor = (student(confidence, max(count - 1, 1)) / student(confidence, len(checked) - 1)) ** 2
    return interval_of_ranks(np.concatenate(checked), q, confidence, _effective(checked, q) * factor)


def drift_of_visits(visits: Sequence[np.ndarray]) -> float | None:
    """Return by what share the last third of visits lies off the first; None where that may be chance.

    What decides is the slope of a line through all of the visits' medians, against Student's t.
    """
    medians = np.array([np.median(times) for times in visits])
    count, third = len(medians), len(medians) // 3
    if count < LEAST_TO_CORRELATE:
        return None
    steps = np.arange(count) - (count - 1) / 2
    slope = float(steps @ medians / (steps @ steps))
    rest = medians - medians.mean() - slope * steps
    error = math.sqrt(float(rest @ rest) / (count - 2) / float(steps @ steps))
    first, last = float(medians[:third].mean()), float(medians[-third:].mean())
    if abs(slope) <= student(CONFIDENCE, count - 2) * error or not first:
        return None
    change = last / first - 1
    return change if abs(change) >= DRIFT else None


def student(confidence: float, freedom: float) -> float:
    """Return what Student's t stays within, either side of 0, with this probability. freedom: 1 or more, any fraction.

    With t = sqrt(freedom) tan(a) its density is cos(a)^(freedom - 1) up to a constant (Abramowitz and Stegun, 26.7.3
    and 26.7.4 in closed form), which quadrature integrates and halving inverts. Raises ValueError for other arguments.
    """
    if not 0 < confidence < 1 or not freedom >= 1:
        raise ValueError(f"confidence must lie between 0 and 1 and freedom be 1 or more, got {confidence}, {freedom}")
    scale = 2 / math.sqrt(math.pi) * math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    places, weights = NODES
    low, high = 0.0, math.pi / 2
    for _ in range(HALVINGS):
        angle = (low + high) / 2
        within = scale * angle / 2 * float(weights @ np.cos(angle / 2 * (places + 1)) ** (freedom - 1))
        low, high = (angle, high) if within < confidence else (low, angle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _effective(visits: Sequence[np.ndarray], q: float) -> float:
    """Return how many independent values tell as much about the q-quantile: q (1 - q) over the variance of the share
    below it, from clusters (a ratio's, visits being of unequal size) and from the series, whichever is fewer."""
    times = np.concatenate(visits)
    count, number = len(times), len(visits)
    in_series = effective_count(times, q)
    if number < 2:
        return in_series
    edge = np.quantile(times, q)
    below = float((times <= edge).mean())
    excess = np.array([(one <= edge).sum() - below * len(one) for one in visits])
    variance = number / (number - 1) * float((excess**2).sum()) / count**2
    in_clusters = below * (1 - below) / variance if variance > 0 else float(count)
    return max(1.0, min(in_series, in_clusters))


def _checked(visits: Sequence[np.ndarray]) -> list[np.ndarray]:
    rows = [np.asarray(times, np.float64) for times in visits]
    if not rows or any(row.ndim != 1 or not len(row) or not np.isfinite(row).all() for row in rows):
        shapes = ", ".join(str(row.shape) for row in rows) or "none"
        raise ValueError(f"visits must be rows of finite numbers, at least one each; got {shapes}")
    return rows
