"""Progress: how far a run is, as bars on a terminal, elsewhere as a plain line from time to time."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

# A terminal's bars are moved so often, whatever arrives: an update costs 20 us and more.
_SHOWN_S = 0.1
# A log gets its first line after so many seconds, and later ones after a twentieth of the time that has gone by.
FIRST_S = 10.0
LONGEST_S = 60.0
_SHARE = 1 / 20


class Steps:
    """Tell the progress of one run whose sources come one after the other.

    items: images, scenes and videos of the run together; None where it has no end. clock: seconds, ascending.
    """

    def __init__(self, console: Console, items: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._items, self._items_done = items, 0
        self._what, self._unit = "", ""
        self._done, self._before, self._total = 0, 0, items
        self._began = self._told_at = self._shown_at = clock()
        self._first = self._began
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._all = self._bars.add_task("detecting", total=items, visible=items is None or items > 1)
        self._present = self._bars.add_task("", total=None, visible=False)

    def begin(self, what: str, unit: str, total: int | None, done: int = 0, *, inside: bool = True) -> None:
        """Begin with a source. unit: what it gives, in the plural. total: of these, None where that is not known.

        done: of them before. inside: it is one item; False: each of its units is one.
        """
        # The rate of images says nothing about a scene, and opening a model is no part of it.
        self._bars.reset(self._all, total=self._items, completed=self._items_done)
        self._what, self._unit = what if inside else "", unit
        self._done = self._before = done
        self._total, self._began = total, self._clock()
        self._bars.remove_task(self._present)  # a total that is known cannot be taken back
        self._present = self._bars.add_task(f"  {unit}", total=total, completed=done, visible=inside)
        self._show(self._began)

    def step(self, done: int | None = None, total: int | None = None) -> None:
        """Count one more unit, or `done` of `total`."""
        self._done = self._done + 1 if done is None else done
        self._total = total if total is not None else self._total
        now = self._clock()
        if self._bars.disable:
            self._tell(now)
        elif now - self._shown_at >= _SHOWN_S or self._done == self._total:
            self._show(now)

    def item(self, count: int = 1) -> None:
        """Count items of the whole run as done; seen with the next `step` or `begin`."""
        self._items_done += count

    def __enter__(self) -> Steps:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def _show(self, now: float) -> None:
        """Move the bars."""
        self._shown_at = now
        self._bars.update(self._all, completed=self._items_done)
        self._bars.update(self._present, completed=self._done, total=self._total)

    def _tell(self, now: float) -> None:
        """Print a line where it is time for one; the end is the summary's."""
        gap = min(LONGEST_S, max(FIRST_S, (now - self._first) * _SHARE))
        if now - self._told_at < gap or self._done == self._total:
            return
        self._told_at = now
        line = progress_line(self._unit, self._done, self._total, self._done - self._before, now - self._began)
        if self._what:
            place = f"{self._items_done + 1} of {self._items}: " if self._items and self._items > 1 else ""
            line = f"{place}{self._what}: {line}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def progress_line(unit: str, done: int, total: int | None, counted: int, seconds: float) -> str:
    """Return such as "1200 of 14000 tiles (8 %), 35.2 tiles/s, 6 min left". counted: units done within `seconds`."""
    rate = counted / seconds if seconds > 0 else 0.0
    share = f" of {total} {unit} ({100 * done // total} %)" if total else f" {unit}"
    told = f"{done}{share}, {rate:.3g} {unit}/s"
    return f"{told}, {duration((total - done) / rate)} left" if total and rate else told


def duration(seconds: float) -> str:
    """Return seconds in the unit that a person would name: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _Rate(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        """Return the speed of a task."""
        return Text("" if task.speed is None else f"{task.speed:.3g}/s")
