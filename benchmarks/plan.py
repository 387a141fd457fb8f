"""How much is measured: seconds and repetitions of each part, for a quick look and for figures to publish."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

MOST_CONTEXTS = 9


@dataclass(frozen=True)
class Plan:
    """What a run of the benchmark does.

    seconds: of each point of throughput, and the limit of most parts. visits: to single images, spread over the run.
    latency_s: of all visits together. precision: half of the p50's interval, as a share, that is wanted. contexts:
    numbers to try. masks: try the NPU's cores alone and in pairs too. batches: images decoded per call. shares: offered
    rates of the sweep, of the capacity. refine: further rates beside the knee. fast_rounds, slow_rounds: of comparisons
    in turns, of calls and of whole runs. rest_s: standby before, where power is measured.
    """

    quick: bool = False
    seconds: float = 4.0
    visits: int = 24
    latency_s: float = 20.0
    precision: float = 0.01
    contexts: tuple[int, ...] = tuple(range(1, MOST_CONTEXTS + 1))
    masks: bool = True
    batches: tuple[int, ...] = (1, 2, 4, 8)
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05)
    refine: int = 2
    images: int = 16
    fast_rounds: int = 60
    slow_rounds: int = 9
    rest_s: float = 10.0


FULL = Plan()
QUICK = Plan(
    quick=True,
    seconds=0.7,
    visits=8,
    latency_s=2.0,
    precision=0.02,
    contexts=(1, 3, 6),
    masks=False,
    batches=(1, 8),
    shares=(0.25, 0.5, 0.75, 0.95),
    refine=0,
    images=4,
    fast_rounds=10,
    slow_rounds=2,
    rest_s=1.0,
)


def plan_of(quick: bool, seconds: float | None, contexts: str | None) -> Plan:
    """Return the plan of the options as typed. seconds: of each point; contexts: "1-9", or numbers with commas.

    Raises ValueError for options that cannot be.
    """
    plan = QUICK if quick else FULL
    if seconds is not None:
        if not 0.1 <= seconds <= 3600:
            raise ValueError(f"--seconds must be from 0.1 to 3600, got {seconds:g}")
        plan = replace(plan, seconds=seconds, latency_s=max(5 * seconds, 1.0))
    if contexts is not None:
        plan = replace(plan, contexts=contexts_of(contexts))
    return plan


def contexts_of(text: str) -> tuple[int, ...]:
    """Return the numbers of contexts in "1-9", "1,3,6" or "2,4-6", ascending. Raises ValueError."""
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:(?:-|\.\.)\s*(\d+)?\s*)?", part)
        if match is None:
            raise ValueError(f"--contexts must be numbers and ranges, such as 1-9 or 1,3,6; got {text!r}")
        first = int(match[1])
        open_end = bool(re.search(r"(-|\.\.)\s*$", part))
        last = int(match[2]) if match[2] else MOST_CONTEXTS if open_end else first
        numbers.update(range(first, last + 1))
    if not numbers or min(numbers) < 1 or max(numbers) > MOST_CONTEXTS:
        raise ValueError(f"--contexts must lie from 1 to {MOST_CONTEXTS}, got {text!r}")
    return tuple(sorted(numbers))
