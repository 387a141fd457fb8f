"""Pictures for records that come without: images, scenes and video frames are read once more where they are drawn.

So what travels between machines is boxes, and no more than one picture is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from .frames import Frame, Record
from .images import read_image
from .manifest import Manifest
from .sources import ReadError
from .work import Settings, Unit, picture_of, reading_of


class Pictures:
    """Give records the image that the detector saw. Records of a video have to come in the order of their frames."""

    def __init__(self, manifest: Manifest, settings: Settings) -> None:
        self._manifest, self._settings = manifest, settings
        self._unit: Unit | None = None
        self._frames: Iterator[Frame | ReadError] = iter(())
        self._close = _nothing

    def of(self, unit: Unit, record: Record) -> Record:
        """Return the record with its image; without one where that cannot be read any more, or parts of it failed."""
        if unit is not self._unit:
            self.close()
            self._unit = unit
        if not record.complete:
            return record
        try:
            return replace(record, image=self._read(unit, record))
        except (ValueError, OSError):
            return record

    def _read(self, unit: Unit, record: Record) -> np.ndarray | None:
        if unit.kind == "images":
            return read_image(Path(record.name))
        if unit.kind == "scene":
            from .scenes import open_scene

            with open_scene(unit.what[0], **reading_of(self._manifest, self._settings)) as scene:
                return picture_of(scene)
        return self._frame(unit, record.frame_number or 0)

    def _frame(self, unit: Unit, number: int) -> np.ndarray | None:
        """Return a frame of the video, which is read on up to there."""
        if self._close is _nothing:
            from .video import VideoSource

            source = VideoSource(unit.what[0])
            source.skip(numbers=range(number))
            self._frames, self._close = iter(source), source.close
        for frame in self._frames:
            if isinstance(frame, Frame) and frame.number >= number:
                return frame.image if frame.number == number else None
        return None

    def close(self) -> None:
        """Close the video that is open."""
        self._close()
        self._unit, self._frames, self._close = None, iter(()), _nothing


def _nothing() -> None:
    """Close what is not open."""
