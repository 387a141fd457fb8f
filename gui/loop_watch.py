"""Loop watch: how long the window's event loop was held up, and how much of that was its own doing."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PyQt5.QtCore import QObject, Qt, QTimer

LIMIT_MS = 16.0


@dataclass(frozen=True, eq=False)
class Turns:
    """Turns of the loop, (n,) float64 milliseconds each. wall: from one to the next. cpu: what its thread computed.

    own: wall without the time in which the thread was ready to run and another one had the core: what it computed, and
    what it waited for (files, locks, the interpreter's lock). Equal to wall where the kernel does not count that.
    """

    wall: np.ndarray
    own: np.ndarray
    cpu: np.ndarray

    def told(self) -> dict[str, float]:
        """Return the figures of a report: the worst and the slowest hundredth, and how many took above `LIMIT_MS`."""
        if not len(self.wall):
            return {}
        return {
            "turns": float(len(self.wall)),
            **{f"{name}_p99_ms": float(np.percentile(getattr(self, name), 99)) for name in ("wall", "own", "cpu")},
            **{f"{name}_worst_ms": float(getattr(self, name).max()) for name in ("wall", "own", "cpu")},
            **{f"{name}_above": float((getattr(self, name) > LIMIT_MS).sum()) for name in ("wall", "own", "cpu")},
        }


class LoopWatch(QObject):
    """Looks at the loop of the thread that makes it, every millisecond, from `start` to `stop`."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._counted = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._turns: list[tuple[float, float, float]] = []
        self._last = (0.0, 0.0, 0.0)

    def start(self) -> None:
        """Begin anew."""
        self._turns = []
        self._last = self._now()
        self._timer.start(1)

    def stop(self) -> Turns:
        """Return every turn since `start`, the present one too."""
        if self._timer.isActive():
            self._tick()
        self._timer.stop()
        wall, cpu, starved = np.array(self._turns, float).reshape(-1, 3).T * 1e3
        return Turns(wall, np.maximum(wall - starved, cpu), cpu)

    def _now(self) -> tuple[float, float, float]:
        """Return seconds: of the clock, of the thread's computing, of its waiting for a core."""
        try:
            starved = int(self._counted.read_bytes().split()[1]) * 1e-9
        except (OSError, IndexError, ValueError):  # a kernel that does not count
            starved = 0.0
        return time.perf_counter(), time.thread_time(), starved

    def _tick(self) -> None:
        now = self._now()
        self._turns.append((now[0] - self._last[0], now[1] - self._last[1], now[2] - self._last[2]))
        self._last = now
