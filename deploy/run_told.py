"""What the person at `rsedge detect` sees: progress, what fails as it fails, and a summary at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from .finished import Finished
from .frames import Record
from .progress import Steps
from .run_tally import SHRUNK, Kind, Tally
from .sinks import SinkSet
from .sources import ReadError, Source, SourceEvent
from .told_errors import told_in_one_line
from .work import Unit, Watch

# Failures of one scene or video that are told one by one; the rest is counted.
SHOWN_FAILURES = 5


class Output(Console):
    """Standard output, whose reader may go away."""

    def on_broken_pipe(self) -> None:
        """Raise what Python raises, where rich would end the process with exit code 1."""
        raise BrokenPipeError("the reader of standard output went away")


class Told:
    """Tell one run: results on standard output, failures on standard error.

    units: the work, in its order. done: what an earlier run has finished. frames: of a video or stream, at most.
    in_turn: units are worked on one after the other, so that each kind has a time of its own. watch: what `records_of`
    is to call.
    """

    def __init__(
        self,
        console: Console,
        class_names: Sequence[str],
        input_hw: tuple[int, int],
        units: Sequence[Unit],
        done: Finished,
        frames: int | None = None,
        in_turn: bool = True,
    ) -> None:
        self.console, self.errors = console, Console(stderr=True, highlight=False)
        self.tally = Tally(
            class_names,
            input_hw,
            frozenset(unit.what[0] for unit in units if unit.kind == "scene"),
            # A stream's records bear its address with the credentials masked.
            frozenset(name for unit in units if unit.kind in ("video", "live") for name in (unit.what[0], unit.name)),
        )
        live = any(unit.kind == "live" for unit in units)
        self._units, self._frames, self._in_turn = units, frames, in_turn
        self._items = sum(len(unit.what) for unit in units)
        self.progress = Steps(console, None if live else self._items)
        self._schedulers: list[Any] = []
        self.watch = Watch(
            tile=self.progress.step,
            event=self._event,
            scheduler=self._schedulers.append,
            opened=self._opened,
            result=self.tally.clocked,
        )
        self._finished = done
        self._unit: Unit | None = None
        self._began = self._unit_began = time.perf_counter()
        self._images_done = 0
        self._held: ReadError | None = None  # the only item's first failure: may turn out to be all there is to tell

    def start(self) -> None:
        """Start the clock: the model is open, work begins."""
        self._began = self._unit_began = time.perf_counter()

    def begin(self, unit: Unit) -> None:
        """Say that work on a unit begins; the one before has ended."""
        last = self._unit
        self._end_unit()
        self._unit, self._unit_began = unit, time.perf_counter()
        if unit.kind == "images":
            before = sum(self._finished.has(name) for name in unit.what)
            self.progress.item(before)
            self._images_done += before
            if last is None or last.kind != "images":  # a cluster takes them in pieces
                total = sum(len(other.what) for other in self._units if other.kind == "images")
                self.progress.begin("images", "images", total, self._images_done, inside=False)
        elif unit.kind == "scene":
            self.progress.begin(Path(unit.name).name, "tiles", None)
        else:
            self.progress.begin(Path(unit.name).name if unit.kind == "video" else unit.name, "frames", None)

    def found(self, record: Record) -> None:
        """Count a record that was written."""
        self._tell_held()
        self.tally.found(record)
        kind = self.tally.kind_of(record.name)
        if kind == "image":
            self._images_done += 1
            self.progress.item()
        if kind != "scene":
            self.progress.step()
        elif record.image is not None and record.image.shape[:2] != record.size_hw:
            (height, width), (h, w) = record.size_hw, record.image.shape[:2]
            smaller = f"{max(height, width) / max(h, w):.3g} times smaller"
            self._say(f"{record.name}: {width}x{height} pixels, its overlay is {smaller}")

    def failed(self, failure: ReadError) -> None:
        """Tell a failure, in its place; of a scene or video the first few, the rest is counted at its end."""
        count = self.tally.failed(failure)
        kind = self.tally.kind_of(failure.name)
        if kind == "image":
            self._images_done += 1
            self.progress.item()
            self.progress.step()
        if count == 1 and self._items == 1:
            self._held = failure
            return
        self._tell_held()
        if kind == "image" or count <= SHOWN_FAILURES:
            self._tell(failure)

    def end(self, sinks: SinkSet) -> None:
        """Print the summary, and raise ValueError where something failed."""
        self._end_unit()
        if self._held is not None and not self.tally.records:
            raise ValueError(_line_of(self._held)) from self._held.error
        self.summary(sinks)
        if verdict := self.tally.verdict(sinks.resumed):
            raise ValueError(verdict)

    def summary(self, sinks: SinkSet) -> None:
        """Print what was done, how fast, and which files hold it; of a run that was stopped too."""
        self._end_unit()
        seconds = time.perf_counter() - self._began
        self._tell_held()
        self.tally.empty_tiles = self.watch.empty_tiles
        if self.tally.records:
            dropped = sum(scheduler.dropped for scheduler in self._schedulers)
            late = f"; {dropped} frames dropped for newer ones" if dropped else ""
            self._say(f"{self.tally.summary(seconds)}{late}")
            if lost := self._lost():
                self.warn(lost)
            if clocks := self.tally.clocks():
                self._say(clocks)
        elif sinks.resumed and not self.tally.any_failed and not sinks.unfinished:
            kinds = {unit.kind for unit in self._units}
            what = {"images": "image", "scene": "scene"}.get(kinds.pop(), "frame") if len(kinds) == 1 else "record"
            were = " was" if sinks.resumed == 1 else "s were"
            self._say(f"nothing left to do, {sinks.resumed} {what}{were} finished before")
        if self.tally.shrunk:
            self.warn(
                f"{self.tally.shrunk} {'image was' if self.tally.shrunk == 1 else 'images were'} shrunk more than "
                f"{SHRUNK:g} times, small objects vanish so; --scene cuts images into tiles"
            )
        written = [str(path) for path in sinks.paths if path.exists()]
        for line in (*sinks.notes(), f"wrote {', '.join(written)}" if written else "nothing was written"):
            self._say(line)

    def _lost(self) -> str:
        """Return how many contexts did not stay, in one line; empty where all did: a board that ails should be seen."""
        replaced = sum(scheduler.replaced for scheduler in self._schedulers)
        reopened = sum(scheduler.reopened for scheduler in self._schedulers)
        parts = [f"hung and replaced {_times(replaced)}"] if replaced else []
        parts += [f"lost and opened again {_times(reopened)}"] if reopened else []
        return f"contexts of the runtime: {', '.join(parts)}; rsedge doctor looks for the cause" if parts else ""

    def warn(self, text: str) -> None:
        """Print a line that deserves a look."""
        self.console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)

    def _opened(self, source: Source) -> None:
        """Take note of how much a scene, video or stream holds."""
        if source.kind == "scene":
            part = self._finished.parts.get(source.name)
            before = len(part) if part is not None else 0
            self.tally.tiles += (source.count or 0) - before
            self.progress.begin(Path(source.name).name, "tiles", source.count, before)
        elif source.kind in ("video", "camera", "stream"):
            total = min((n for n in (source.count, self._frames) if n), default=None)
            before = self._finished.last_frame.get(source.name, -1) + 1
            self.progress.begin(Path(source.name).name, "frames", total, before if source.kind == "video" else 0)

    def _end_unit(self) -> None:
        """Close the books of the unit that was worked on."""
        unit, self._unit = self._unit, None
        if unit is None:
            return
        kinds: dict[str, Kind] = {"images": "image", "scene": "scene"}
        kind = kinds.get(unit.kind, "frame")
        spent = time.perf_counter() - self._unit_began
        if self._in_turn:
            self.tally.seconds[kind] = self.tally.seconds.get(kind, 0.0) + spent
        if unit.kind == "images":
            return
        self.progress.item()
        more = self.tally.failures(unit.name) - SHOWN_FAILURES
        if more > 0:
            what = f"{'tile' if kind == 'scene' else 'frame'}{'s' if more > 1 else ''}"
            self.errors.print(f"{unit.name}: {more} more {what} could not be read", style="yellow", markup=False)

    def _tell_held(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._tell(held)

    def _tell(self, failure: ReadError) -> None:
        passed = "" if self.tally.kind_of(failure.name) == "frame" else "passed over: "
        self.errors.print(f"{passed}{_line_of(failure)}", style="yellow", markup=False, soft_wrap=True)

    def _event(self, event: SourceEvent) -> None:
        self._say(event.text, style="dim")

    def _say(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _line_of(failure: ReadError) -> str:
    """Return what a failure says, with the name of its source."""
    error = failure.error
    # The system's own errors are told without their number.
    text = told_in_one_line(error) if isinstance(error, OSError) and error.strerror else None
    told = text or " ".join(str(error).split()) or type(error).__name__
    return told if failure.name in told else f"{failure.name}: {told}"
