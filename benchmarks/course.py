"""The course of a benchmark: what is being measured is shown, sensors are read beside it, Ctrl-C ends it in order."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.doctor_machine import Machine

from .power import PowerSensor, PowerTrace, Window, power_sensors
from .sensors import Snapshot, look

# Seconds between two looks at temperatures and clocks, and between two readings of the power.
LOOK_S, POWER_S = 1.0, 0.1


class Course:
    """Carries a run: `step` names what comes, `tick` is called between images, `stopped` ends every loop.

    The first Ctrl-C sets `stopped`, so that loops end and what was measured is reported; a second one breaks off. Only
    the main thread catches signals; elsewhere Ctrl-C stays what it is. `tick` belongs to one thread and costs
    nothing but a glance at the clock in most calls; where it reads sensors, that happens outside of any timed call.
    between: what `pause` calls, for a measurement that is spread over the others.
    """

    def __init__(self, machine: Machine | None = None, console: Console | None = None) -> None:
        self.machine = machine or Machine(Path("/"))
        self.console = console or Console(stderr=True)
        self.stopped = False
        self.looks: list[Snapshot] = [look(self.machine)]
        self.sensors: Sequence[PowerSensor] = power_sensors(self.machine)
        self._power: list[tuple[float, list[float | None]]] = []
        self._due_look = self._due_power = 0.0
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self.console, transient=True, auto_refresh=False)
        self._task = self._progress.add_task("starting", total=None)
        self._shown_at = 0.0
        self._told, self._begin, self._limit_s = "starting", time.monotonic(), 0.0
        self.between: Callable[[], None] | None = None
        self._handler: Any = None

    def __enter__(self) -> Course:
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupted)
        # Refreshed by `tick` alone: rich's own thread would wake up in the middle of what is timed.
        if self.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        print("\nstopping; what was measured is reported (Ctrl-C once more breaks off)", file=sys.stderr)

    def step(self, told: str, limit_s: float = 0.0) -> None:
        """Say what is measured next and how long at most; one line each where there is no terminal."""
        self._told, self._begin, self._limit_s = told, time.monotonic(), limit_s
        self._progress.update(self._task, description=told, total=limit_s or None, completed=0)
        if self.console.is_terminal:
            self._progress.refresh()
        else:
            self.console.print(told, highlight=False, markup=False, soft_wrap=True)
        self.looks.append(look(self.machine))

    def pause(self) -> None:
        """Let come what is spread over the run. Loops call it between two timed things, never within one."""
        if self.between is None or self.stopped:
            return
        told, begin, limit_s = self._told, self._begin, self._limit_s
        away = time.monotonic()
        self.between()
        # The step goes on where it was, less the time that was not its own.
        self._told, self._begin, self._limit_s = told, begin + time.monotonic() - away, limit_s
        completed = time.monotonic() - self._begin
        self._progress.update(self._task, description=told, total=limit_s or None, completed=completed)

    def tick(self) -> None:
        """Read what is due: power ten times a second, the other sensors once."""
        now = time.monotonic()
        if self.sensors and now >= self._due_power:
            self._due_power = now + POWER_S
            self._power.append((time.time(), [sensor.read() for sensor in self.sensors]))
        if now >= self._due_look:
            self._due_look = now + LOOK_S
            self.looks.append(look(self.machine))
            if self.console.is_terminal:
                self._progress.update(self._task, completed=now - self._begin)
                self._progress.refresh()

    def rest(self, seconds: float) -> Window:
        """Do nothing but read sensors for so long; returns when that was."""
        # A reading before the window and one after it, so that the trace covers it.
        self._due_power = 0.0
        self.tick()
        begin, until = time.time(), time.monotonic() + seconds
        while time.monotonic() < until and not self.stopped:
            time.sleep(POWER_S / 2)
            self.tick()
        end = time.time()
        self._due_power = 0.0
        self.tick()
        return Window(begin, end, 0)

    def traces(self) -> list[PowerTrace]:
        """Return what each power sensor told so far; sensors that never answered, or once only, are left out."""
        self._due_power = 0.0
        self.tick()
        found = []
        for column, sensor in enumerate(self.sensors):
            rows = [(at, watts[column]) for at, watts in self._power if watts[column] is not None]
            if len(rows) > 1:
                times, watts_ = (np.array(part, np.float64) for part in zip(*rows, strict=True))
                fresh = np.concatenate([[True], np.diff(times) > 0])
                if fresh.sum() > 1:
                    found.append(PowerTrace(sensor.name, times[fresh], watts_[fresh]))
        return found
