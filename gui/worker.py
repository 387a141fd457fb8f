"""Worker: one run of a bundle over a source in a thread of its own; only signals cross into the window.

What happens is put into a mailbox, and one signal says that there is something in it; the window takes all of it at
once. So however fast results come, there is never more than one signal waiting, and of moving pictures only the newest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PyQt5.QtCore import QThread, pyqtSignal

from deploy.sources import SourceEvent
from deploy.told_errors import told_in_one_line

from .running import Event, Failed, Opened, Options, Progress, Seen, Watch, open_on, run

if TYPE_CHECKING:
    from deploy.detector import Detector

# Still images of more pixels get reduced copies, so that a screen never has to shrink them far.
_MIP_PX = 2 << 20


@dataclass(eq=False)
class Screenful:
    """A picture for the screen. levels: (h, w, 4) uint8, blue first, each half of the one before; None: not made."""

    seen: Seen
    levels: list[np.ndarray] | None

    def made(self) -> list[np.ndarray]:
        """Return the levels."""
        return screen_levels(self.seen.picture.pixels, still=False) if self.levels is None else self.levels


@dataclass(eq=False)
class Delivery:
    """What happened since the window looked last. screen: the newest picture; album: all images of a folder."""

    opened: list[Opened] = field(default_factory=list)
    screen: Screenful | None = None
    album: list[Seen] = field(default_factory=list)
    failures: list[Failed] = field(default_factory=list)
    progress: Progress | None = None
    told: list[SourceEvent] = field(default_factory=list)


def screen_levels(pixels: np.ndarray | None, *, still: bool = True) -> list[np.ndarray]:
    """Return pixels (h, w, 3) uint8 RGB as the screen wants them, and reduced copies of large still images."""
    if pixels is None:
        return []
    levels = [cv2.cvtColor(pixels, cv2.COLOR_RGB2BGRA)]
    while still and levels[-1].shape[0] * levels[-1].shape[1] > _MIP_PX:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (max(1, w // 2), max(1, h // 2)), interpolation=cv2.INTER_AREA))
    return levels


class DetectorShelf:
    """Keeps the detectors that were opened, so that the next source begins at once. Usable from any thread."""

    def __init__(self, open_detector: Callable[[Path, str, str], Detector] = open_on) -> None:
        self._open = open_detector
        self._lock = threading.Lock()
        self._kept: dict[tuple[Path, str, str], Detector] = {}

    def take(self, bundle: Path, backend: str, workers: str) -> Detector:
        """Return the detector of a bundle, opened where it is not yet. Raises as `open_detector`."""
        key = (bundle, backend, workers)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._open(bundle, backend, workers)
                while len(self._kept) > 2:  # two for comparing; an older one may still be in use and is left to Python
                    self._kept.pop(next(iter(self._kept)))
            return self._kept[key]

    def clear(self) -> None:
        """Close all; nobody may use them any more."""
        with self._lock:
            for detector in self._kept.values():
                detector.close()
            self._kept.clear()


class Worker(QThread):
    """Runs one bundle over one source. Signals: `arrived` (look into the mailbox), `broken` (one line).

    QThread's own `finished` comes at the very end, whatever happened.
    """

    arrived = pyqtSignal()
    broken = pyqtSignal(str)

    def __init__(
        self,
        shelf: DetectorShelf,
        bundle: Path,
        what: str,
        options: Options | None = None,
        backend: str = "auto",
        workers: str = "threads",
        parent: Any = None,
    ) -> None:
        super().__init__(parent)
        self.bundle, self.what, self.options = bundle, what, options or Options()
        self.watch = Watch(on_event=self._told)
        self._shelf, self._backend, self._workers = shelf, backend, workers
        self._lock = threading.Lock()
        self._box = Delivery()
        self._empty = True

    def cancel(self) -> None:
        """End it, without waiting; nothing more arrives."""
        self.watch.cancel()

    def take(self) -> Delivery:
        """Return what happened since the last call."""
        with self._lock:
            box, self._box, self._empty = self._box, Delivery(), True
            return box

    def run(self) -> None:
        """Follow the run's events; called by Qt in the new thread."""
        try:
            if self.watch.cancelled:
                return
            detector = self._shelf.take(self.bundle, self._backend, self._workers)
            events = run(detector, self.what, self.options, self.watch)
            try:
                for event in events:
                    if self.watch.cancelled:
                        break
                    if not self.watch.backend:  # a detector whose contexts are elsewhere knows once one is open
                        self.watch.backend = detector.backend.name
                    self._post(event)
            finally:
                events.close()
        except Exception as error:  # a thread of the window must not die silently, and never take the window along
            if not self.watch.cancelled:
                self.broken.emit(told_in_one_line(error) or f"{type(error).__name__}: {error}")

    def _post(self, event: Event) -> None:
        if isinstance(event, Seen):
            picture = event.picture
            if picture.frame_number is None and picture.pixels is not None:
                with self._lock:
                    self._box.album.append(replace(event, picture=replace(picture, pixels=None)))
            # Of moving pictures most are replaced before the window looks; it converts those that it shows.
            levels = None if picture.frame_number is not None else screen_levels(picture.pixels)
            with self._lock:
                self._box.screen = Screenful(event, levels)
            self._wake()
            return
        with self._lock:
            if isinstance(event, Opened):
                self._box.opened.append(event)
            elif isinstance(event, Progress):
                self._box.progress = event
            else:
                self._box.failures.append(event)
        self._wake()

    def _told(self, event: SourceEvent) -> None:
        with self._lock:
            self._box.told.append(event)
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            first, self._empty = self._empty, False
        if first and not self.watch.cancelled:
            self.arrived.emit()
