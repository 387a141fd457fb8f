"""Tally of a run: what was read, found and missed so far, how long each stage took, and all of it in words."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from .frames import STAGES, Record, Result
from .sources import ReadError

Kind = Literal["image", "frame", "scene"]
# An image that is so many times larger than the model's input is worth a word.
SHRUNK = 3.0
_KEPT = 4096


class RunningMedian:
    """Median of any number of values in bounded memory: of all of them, later of every second, fourth, ... one."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._values: list[float] = []
        self._kept, self._every, self._seen = kept, 1, 0

    def add(self, value: float) -> None:
        """Take one value."""
        if self._seen % self._every == 0:
            self._values.append(value)
            if len(self._values) >= self._kept:
                del self._values[1::2]
                self._every *= 2
        self._seen += 1

    @property
    def value(self) -> float:
        """The median; 0 where nothing came."""
        return statistics.median(self._values) if self._values else 0.0


@dataclass
class Tally:
    """Counts of one run.

    class_names: what `class_id` points into. input_hw: of the model. scenes, moving: names of the sources that are cut
    into tiles, and of those that give frames. seconds: spent on each kind of source, where sources come one by one.
    """

    class_names: Sequence[str]
    input_hw: tuple[int, int]
    scenes: frozenset[str] = frozenset()
    moving: frozenset[str] = frozenset()
    seconds: dict[Kind, float] = field(default_factory=dict)
    tiles: int = 0
    empty_tiles: int = 0
    shrunk: int = 0
    _done: dict[Kind, int] = field(default_factory=lambda: {"image": 0, "frame": 0, "scene": 0})
    _pixels: int = 0
    _boxes: list[int] = field(default_factory=list)
    _clocks: dict[str, RunningMedian] = field(default_factory=lambda: {stage: RunningMedian() for stage in STAGES[:4]})
    _clocked: int = 0
    _failed: dict[str, int] = field(default_factory=dict)
    _torn: set[str] = field(default_factory=set)
    _begun: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._boxes = [0] * len(self.class_names)

    @property
    def records(self) -> int:
        """Images, frames and scenes that were written."""
        return sum(self._done.values())

    def kind_of(self, name: str) -> Kind:
        """Return what a source of that name gives."""
        return "scene" if name in self.scenes else "frame" if name in self.moving else "image"

    def found(self, record: Record) -> None:
        """Count a record that was written."""
        kind = self.kind_of(record.name)
        self._done[kind] += 1
        if kind == "scene":
            self._pixels += record.size_hw[0] * record.size_hw[1]
            if not record.complete:
                self._torn.add(record.name)
        else:
            self.shrunk += max(s / m for s, m in zip(record.size_hw, self.input_hw, strict=True)) > SHRUNK
        if kind == "frame":
            self._begun.add(record.name)
        for class_id in record.detections.class_id.tolist():
            self._boxes[class_id] += 1

    def clocked(self, result: Result) -> None:
        """Take the stage clocks of one model input."""
        if result.error is None:
            self._clocked += 1
            for stage, clock in self._clocks.items():
                clock.add(getattr(result, stage))

    def failed(self, failure: ReadError) -> int:
        """Count a failure, and return how many its source has had."""
        self._failed[failure.name] = self.failures(failure.name) + 1
        return self._failed[failure.name]

    def failures(self, name: str) -> int:
        """Return how many failures a source has had."""
        return self._failed.get(name, 0)

    @property
    def any_failed(self) -> bool:
        """Whether anything failed."""
        return bool(self._failed)

    def summary(self, seconds: float) -> str:
        """Return one line: how much in what time, how fast, and the boxes by class. seconds: of the whole run."""
        kinds = [kind for kind, count in self._done.items() if count] or ["image"]
        apart = len(kinds) > 1 and set(kinds) <= set(self.seconds)
        parts = []
        for kind in kinds:
            spent = seconds if len(kinds) == 1 else self.seconds.get(kind, 0.0)
            parts.append(self._told(kind, spent if apart or len(kinds) == 1 else None))
        read = ", ".join(parts) if apart or len(kinds) == 1 else f"{', '.join(parts)} in {_seconds(seconds)}"
        seen = ", ".join(f"{n} {name}" for name, n in zip(self.class_names, self._boxes, strict=True) if n)
        return f"{read}; {_count(sum(self._boxes), 'box')}{f': {seen}' if seen else ''}"

    def clocks(self) -> str:
        """Return the median of each stage's milliseconds in one line; empty where no clock was read."""
        if not self._clocked:
            return ""
        kinds = {self.kind_of(name) for name in (*self.scenes, *self.moving)}
        kinds |= {"image"} if self._done["image"] else set()
        what = {"scene": "tile", "frame": "frame", "image": "image"}[kinds.pop()] if len(kinds) == 1 else "model input"
        stages = ", ".join(f"{stage.removesuffix('_ms')} {clock.value:.1f}" for stage, clock in self._clocks.items())
        return f"medians of each {what}: {stages} ms"

    def verdict(self, before: int = 0) -> str:
        """Return what failed, counted by what it is, in one line; empty where nothing did. before: records kept."""
        if not self._failed:
            return ""
        names: dict[Kind, list[str]] = {"image": [], "frame": [], "scene": []}
        for name in self._failed:
            names[self.kind_of(name)].append(name)
        images, whole = len(names["image"]), [name for name in names["scene"] if name not in self._torn]
        parts = []
        if images:
            parts.append(_share(images, self._done["image"] + images, "image", before))
        if whole:
            parts.append(_share(len(whole), self._done["scene"] + len(whole), "scene", before))
        if self._torn:
            tiles = sum(self._failed[name] for name in names["scene"] if name in self._torn)
            parts.append(f"{_count(tiles, 'tile')} of {_count(len(self._torn), 'scene')}")
        unseen = [name for name in names["frame"] if name not in self._begun]
        if unseen:
            parts.append(_count(len(unseen), "video"))
        if len(names["frame"]) > len(unseen):
            parts.append(f"a part of {_count(len(names['frame']) - len(unseen), 'video')}")
        rest = "all others are written" if self.records or before else "nothing was written"
        again = ", and --resume tries only what is missing" if images or whole or self._torn or unseen else ""
        return f"{' and '.join(parts)} could not be read, {rest}; see above{again}"

    def _told(self, kind: Kind, seconds: float | None) -> str:
        """Return how many of a kind there were, and in what time and how fast where `seconds` are given."""
        told = _count(self._done[kind], kind)
        rates: list[str] = []
        if kind == "scene" and self.tiles:
            told += f" with {_count(self.tiles, 'tile')}"
            told += f" ({self.empty_tiles} without data)" if self.empty_tiles else ""
        if seconds is None:
            return told
        if kind != "scene":
            rates.append(f"{_rate(self._done[kind] / max(seconds, 1e-9))} {kind}s/s")
        elif self._done[kind]:
            rates += [f"{_rate(self.tiles / max(seconds, 1e-9))} tiles/s"] if self.tiles else []
            rates.append(f"{_rate(self._pixels / 1e6 / max(seconds, 1e-9))} MPixel/s")
        told += f" in {_seconds(seconds)}"
        return f"{told} ({', '.join(rates)})" if self._done[kind] else told


def _count(number: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("x") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"


def _share(some: int, total: int, what: str, before: int) -> str:
    """Return "3 of 12 images", "all 12 images", or "the image"; before: records kept, so that all are not all."""
    if before and some == total > 1:
        return _count(some, what)
    if some < total:
        return f"{some} of {_count(total, what)}"
    return f"the {what}" if total == 1 else f"all {_count(total, what)}"


def _rate(value: float) -> str:
    """Return three digits: 0.034, 3.47, 34.7, 347."""
    return f"{value:.3g}" if value < 999 else f"{value:.0f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
