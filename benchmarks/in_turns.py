"""Contestants take turns in every round, so that a busy machine slows them alike; a round's ratio is what counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .course import Course
from .statistics_of_time import Quantile, quantile_of


@dataclass(frozen=True)
class Duel:
    """One thing done in two ways. Larger `gain` is better: how many times better `ours` is than `other`.

    measure: what is varied. ours, other: what the two are. unit: of the two medians. gain: median over rounds of the
    ratio within a round; its interval is open where the rounds are too few. note: what to know about it.
    """

    measure: str
    ours: str
    other: str
    unit: str
    ours_value: Quantile
    other_value: Quantile
    gain: Quantile
    rounds: int
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what a report holds."""
        return {
            "measure": self.measure,
            "ours": self.ours,
            "other": self.other,
            "unit": self.unit,
            "ours_value": self.ours_value.to_json(),
            "other_value": self.other_value.to_json(),
            "gain": self.gain.to_json(),
            "rounds": self.rounds,
            "note": self.note,
        }


def duel(
    measure: str,
    ours: str,
    other: str,
    unit: str,
    pairs: Sequence[tuple[float, float]],
    *,
    less_is_better: bool,
    note: str = "",
) -> Duel:
    """Return the comparison of pairs (ours, other), one of each round. Raises ValueError without any."""
    if not pairs:
        raise ValueError(f"{measure}: no round was finished")
    own, their = ([pair[i] for pair in pairs] for i in (0, 1))
    gains = [b / a if less_is_better else a / b for a, b in pairs if a > 0 and b > 0]
    if not gains:
        raise ValueError(f"{measure}: every round took no time at all; nothing can be compared")
    # A busy moment slows both of a round: rounds are taken as independent, their ratios are what is judged.
    a, b, gain = (quantile_of(values, 0.5, independent=True) for values in (own, their, gains))
    return Duel(measure, ours, other, unit, a, b, gain, len(pairs), note)


def timed_in_turns(
    contestants: Mapping[str, Callable[[], object]],
    course: Course,
    *,
    rounds: int,
    seconds: float,
    pause_s: float = 0.0,
) -> dict[str, list[float]]:
    """Call every contestant once a round; returns the milliseconds of each call, round by round.

    Each is called once before, uncounted. The order turns by one place a round, so that none always follows the same
    other. Ends after `rounds`, after `seconds`, or when the course is stopped, always with whole rounds. pause_s:
    before each call, for contestants whose threads spin on for a while when they are done and would slow the next one.
    """
    names = list(contestants)
    times: dict[str, list[float]] = {name: [] for name in names}
    for call in contestants.values():
        call()
    until = time.perf_counter() + seconds
    for number in range(rounds):
        if number and (course.stopped or time.perf_counter() > until):
            break
        place = number % len(names)
        for name in names[place:] + names[:place]:
            if pause_s:
                time.sleep(pause_s)
            begin = time.perf_counter()
            contestants[name]()
            times[name].append((time.perf_counter() - begin) * 1e3)
        course.tick()
    return times
