"""Overlay sink: each image as a picture with its boxes drawn in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .frames import Record
from .sinks import unused_name, write_overlay


class OverlaySink:
    """Write FOLDER/NAME.jpg for each image, FOLDER/NAME/FRAME.jpg for frames of a video; each whole or not at all.

    Images of one name from several folders are numbered in the order in which they come. skipped: records without an
    image, which are scenes too large to keep in memory.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.path = folder
        self.skipped = 0
        self._class_names = list(class_names)
        self._taken: set[str] = set()
        self._folder_of: dict[str, str] = {}

    def replay(self, record: Record) -> None:
        """Take note of a record whose picture is there from an earlier run: names go on as if it had not ended."""
        self._path_of(record)

    def add(self, record: Record) -> None:
        """Draw and write one picture. Raises OSError."""
        path = self._path_of(record)
        if record.image is None:
            self.skipped += 1
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_overlay(path, record.image, record.detections, self._class_names)

    def finish(self, name: str) -> None:
        """Do nothing: pictures stand alone."""

    def close(self) -> None:
        """Do nothing: every picture is written."""

    def _path_of(self, record: Record) -> Path:
        if record.frame_number is None:
            return self.path / unused_name(f"{Path(record.name).stem}.jpg", self._taken)
        if record.name not in self._folder_of:
            self._folder_of[record.name] = unused_name(Path(record.name).stem, self._taken)
        return self.path / self._folder_of[record.name] / f"{record.frame_number:06}.jpg"
