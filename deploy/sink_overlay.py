"""Overlay sink: each image as a picture with its boxes drawn in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .detections import Detections
from .frames import Record
from .sinks import unused_name, write_overlay

# Pictures with a longer side have lines and letters that fit their boxes, smaller ones those that fit the picture.
LARGE_PX = 2048
SMALLEST_PEN_PX = 640


class OverlaySink:
    """Write FOLDER/NAME.jpg for each image, FOLDER/NAME/FRAME.jpg for frames of a video; each whole or not at all.

    Images of one name from several folders are numbered in the order in which they come. The image of a large scene is
    a reduced one, its boxes are drawn at that size. skipped: records without an image, scenes that are read in part.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.path = folder
        self.skipped = 0
        self._class_names = list(class_names)
        self._taken: set[str] = set()
        self._folder_of: dict[str, str] = {}
        self._again: dict[str, Path] = {}

    def replay(self, record: Record, again: bool = False) -> None:
        """Take note of a record whose picture is there from an earlier run: names go on as if it had not ended.

        again: it comes once more, and its picture takes the place of that one.
        """
        path = self._path_of(record)
        if again:
            self._again[record.name] = path

    def drawn(self, records: Iterable[Record]) -> Iterator[Path]:
        """Yield the pictures that an earlier run drew of its records, given in order; some may not be there."""
        yield from map(self._path_of, records)

    def add(self, record: Record) -> None:
        """Draw and write one picture. Raises OSError."""
        path = self._path_of(record)
        if record.image is None:
            self.skipped += 1
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _at_size(record)
        write_overlay(path, record.image, found, self._class_names, _pen_side(record.image, found))

    def finish(self, name: str) -> None:
        """Do nothing: pictures stand alone."""

    def close(self) -> None:
        """Do nothing: every picture is written."""

    def _path_of(self, record: Record) -> Path:
        if record.frame_number is None and record.name in self._again:
            return self._again.pop(record.name)
        if record.frame_number is None:
            return self.path / unused_name(f"{Path(record.name).stem}.jpg", self._taken)
        if record.name not in self._folder_of:
            self._folder_of[record.name] = unused_name(Path(record.name).stem, self._taken)
        return self.path / self._folder_of[record.name] / f"{record.frame_number:06}.jpg"


def _at_size(record: Record) -> Detections:
    """Return a record's boxes in pixels of its image, which may be a reduced copy of what they were found in."""
    assert record.image is not None
    (h, w), (height, width) = record.image.shape[:2], record.size_hw
    found = record.detections
    if (h, w) == (height, width):
        return found
    return replace(found, xyxy=found.xyxy * np.array([w / width, h / height] * 2, np.float32))


def _pen_side(image: np.ndarray, found: Detections) -> int:
    """Return the side that lines are to fit: of a large picture with small boxes less than its own.

    A line is a 500th of that side, and must not fill the boxes that it is drawn around: at most an eighth of a box.
    """
    side = max(image.shape[:2])
    if side <= LARGE_PX or not len(found):
        return side
    longer = np.median((found.xyxy[:, 2:] - found.xyxy[:, :2]).max(axis=1))
    return min(side, max(SMALLEST_PEN_PX, int(500 * longer / 8)))
