"""Stage clock: how fast results come and what each stage takes, over the last minute."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from deploy.frames import Result

STAGES = ("read", "preprocess", "infer", "postprocess", "total", "draw")
WINDOW_S = 60.0
# Of each stage at most so many values are kept for the percentiles: 20 s at the rate of three NPU cores.
_MOST = 8192


@dataclass(frozen=True)
class Pace:
    """What the clock says. per_s: images a second over the last two seconds. p50_ms, p99_ms: by stage, of those that
    were measured. images: since the start. history: (seconds ago, images a second), one a second, oldest first."""

    per_s: float = 0.0
    p50_ms: dict[str, float] = field(default_factory=dict)
    p99_ms: dict[str, float] = field(default_factory=dict)
    images: int = 0
    history: tuple[tuple[float, float], ...] = ()


class StageClock:
    """Counts results and their milliseconds; written and read from any thread."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        with self._lock:
            self._values: dict[str, deque[float]] = {stage: deque(maxlen=_MOST) for stage in STAGES}
            self._recent: deque[float] = deque()
            self._seconds: deque[tuple[int, int]] = deque(maxlen=int(WINDOW_S) + 1)  # (second, images)
            self._images = 0

    def add(self, result: Result) -> None:
        """Count one result."""
        now = self._now()
        with self._lock:
            for stage in STAGES[:-1]:
                self._values[stage].append(getattr(result, f"{stage}_ms"))
            self._images += 1
            self._recent.append(now)
            while self._recent and now - self._recent[0] > 2.0:
                self._recent.popleft()
            second = int(now)
            if self._seconds and self._seconds[-1][0] == second:
                self._seconds[-1] = (second, self._seconds[-1][1] + 1)
            else:
                self._seconds.append((second, 1))

    def drawn(self, ms: float) -> None:
        """Note what drawing took."""
        with self._lock:
            self._values["draw"].append(ms)

    def pace(self) -> Pace:
        """Return what is known now."""
        now = self._now()
        with self._lock:
            recent = [at for at in self._recent if now - at <= 2.0]
            values = {stage: np.array(kept) for stage, kept in self._values.items() if kept}
            seconds, images = dict(self._seconds), self._images
        # One result says nothing of a rate; the span between the first and the last does, and a stop ends it.
        span = max(now - recent[0], 0.25) if len(recent) > 1 else 0.0
        last = int(now) - 1  # the present second is not over
        first = max(last - int(WINDOW_S) + 1, min(seconds, default=last + 1))
        return Pace(
            (len(recent) - 1) / span if span else 0.0,
            {stage: float(np.percentile(kept, 50)) for stage, kept in values.items()},
            {stage: float(np.percentile(kept, 99)) for stage, kept in values.items()},
            images,
            tuple((float(last - s), float(seconds.get(s, 0))) for s in range(first, last + 1)),
        )
