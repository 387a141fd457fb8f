"""Video sink: the frames of a video or stream with their boxes drawn in, as a video again.

Matroska, because the file that a killed run leaves can be played, but for its last group of pictures and 256 KiB; an
MP4 without its closing index cannot be opened at all. A video file cannot be continued, so a resumed run writes an
unfinished one from its beginning.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .frames import Record
from .growing_file import cannot_write
from .overlay import draw_boxes
from .sinks import unused_name

DEFAULT_FPS = 25.0
_FREE_BYTES = 4 << 20  # OpenCV does not tell when the disk is full; below this it is taken to be


@dataclass
class _Film:
    """One video being written. first: a drawn frame that waits until the second one tells the frame rate."""

    path: Path
    size_hw: tuple[int, int]
    first: tuple[Record, np.ndarray] | None = None
    writer: cv2.VideoWriter | None = None
    frames: int = 0


class VideoSink:
    """Write FOLDER/NAME.mkv (MPEG-4 Part 2) for each video or stream, its frames in the order in which they come.

    fps: of the files; None derives it from the numbers and timestamps of the first two frames (25 without timestamps).
    Frames that a live stream dropped are not filled in. Where a stream changes its size, another file begins.
    skipped: records that are no frame of a video, or have no image.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], fps: float | None = None) -> None:
        if fps is not None and not (np.isfinite(fps) and fps > 0):
            raise ValueError(f"fps must be above 0, got {fps}")
        self.path = folder
        self.skipped = 0
        self._class_names = list(class_names)
        self._fps = fps
        self._films: dict[str, _Film] = {}
        self._taken: set[str] = set()

    def replay(self, record: Record, again: bool = False) -> None:
        """Take note of a record of a video that an earlier run wrote to its end: its name is taken."""
        if record.frame_number is not None and record.name not in self._films:
            path = self.path / unused_name(_file_name(record.name), self._taken)
            self._films[record.name] = _Film(path, record.size_hw)

    def drawn(self, records: Iterable[Record]) -> Iterator[Path]:
        """Yield the videos that an earlier run wrote of its records, given in order; some may not be there."""
        for record in records:
            film = self._films.get(record.name)
            if record.frame_number is not None and (film is None or film.size_hw != record.size_hw):
                path = self.path / unused_name(_file_name(record.name), self._taken)
                self._films[record.name] = _Film(path, record.size_hw)
                yield path

    def add(self, record: Record) -> None:
        """Draw one frame and append it. Raises OSError."""
        if record.image is None or record.frame_number is None:
            self.skipped += 1
            return
        drawn = cv2.cvtColor(draw_boxes(record.image, record.detections, self._class_names), cv2.COLOR_RGB2BGR)
        h, w = drawn.shape[:2]
        film = self._films.get(record.name)
        if film is not None and film.size_hw != (h, w):
            self._end(film)
            film = None
        if film is None:
            path = self.path / unused_name(_file_name(record.name), self._taken)
            film = self._films[record.name] = _Film(path, (h, w))
        if film.writer is None and film.first is None and self._fps is None:
            film.first = (record, drawn)
            return
        if film.writer is None:
            self._begin(film, self._fps or _rate(film.first, record))
        self._write(film, drawn)

    def finish(self, name: str) -> None:
        """Close the file of a video that was seen to its end. Raises OSError where it was not written whole."""
        film = self._films.get(name)
        if film is not None:
            self._end(film)

    def close(self) -> None:
        """Close all files. Raises OSError where one was not written whole."""
        for film in self._films.values():
            self._end(film)

    def _begin(self, film: _Film, fps: float) -> None:
        film.path.parent.mkdir(parents=True, exist_ok=True)
        h, w = film.size_hw
        code = cv2.VideoWriter.fourcc(*"mp4v")
        film.writer = cv2.VideoWriter(str(film.path), cv2.CAP_FFMPEG, code, fps, (w, h))
        if not film.writer.isOpened():
            film.writer = None
            reason = "OpenCV cannot open it, or was built without FFmpeg"
            if not os.access(film.path.parent, os.W_OK):
                reason = os.strerror(errno.EACCES)
            raise OSError(None, f"{film.path}: cannot be written ({reason}); leave out the format video")
        if film.first is not None:
            _, drawn = film.first
            film.first = None
            self._write(film, drawn)

    def _write(self, film: _Film, drawn: np.ndarray) -> None:
        assert film.writer is not None
        disk = os.statvfs(film.path.parent)
        if disk.f_bavail * disk.f_frsize < _FREE_BYTES:
            raise cannot_write(film.path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        film.writer.write(drawn)
        film.frames += 1

    def _end(self, film: _Film) -> None:
        """Close a file and look whether all of it arrived: OpenCV reports no error of writing."""
        if film.first is not None:  # a video of one frame
            self._begin(film, DEFAULT_FPS)
        if film.writer is None:
            return
        film.writer.release()
        film.writer = None
        reader = cv2.VideoCapture(str(film.path), cv2.CAP_FFMPEG)
        count = reader.get(cv2.CAP_PROP_FRAME_COUNT) if reader.isOpened() else 0
        reader.release()
        if abs(count - film.frames) > 1:  # it is derived from the duration, in whole milliseconds
            raise OSError(
                None,
                f"{film.path}: was not written whole ({film.frames} frames); look at the disk's free space and "
                "the file size limit",
            )


def _file_name(name: str) -> str:
    """Return a file name for a video or an address, which may hold characters that no file name should."""
    stem = "".join(c if c.isalnum() or c in "._-" else "_" for c in Path(name).stem)
    return f"{stem or 'video'}.mkv"


def _rate(first: tuple[Record, np.ndarray] | None, second: Record) -> float:
    """Return the frame rate that the numbers and timestamps of two frames mean."""
    if first is None or first[0].timestamp_s is None or second.timestamp_s is None:
        return DEFAULT_FPS
    frames = (second.frame_number or 0) - (first[0].frame_number or 0)
    seconds = second.timestamp_s - first[0].timestamp_s
    return min(max(frames / seconds, 1.0), 240.0) if seconds > 0 and frames > 0 else DEFAULT_FPS
