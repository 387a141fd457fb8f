"""CSV sink: a line per box (RFC 4180), in the file as soon as its image is finished."""

from __future__ import annotations

import csv
import io
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .footprints import DECIMALS
from .frames import Record
from .growing_file import append_whole, cannot_write, copy_bytes, write_all

COLUMNS = ("source", "frame", "timestamp", "class", "score", "x1", "y1", "x2", "y2", "lon", "lat")


class TableSink:
    """Append the boxes of each record in one write; lines end in CR LF, the last one too.

    frame, timestamp: of a video, timestamp in seconds. x1 to y2: pixels of the image or scene. lon, lat: of the box's
    centre in degrees (WGS 84), empty where the image is not georeferenced. The file gets its name with the first
    `publish`, so that an earlier one is not touched before. Rows of scenes that are done in part cannot be taken back
    from a file that grows: they stand in a copy of it, which has the name until the next record comes.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self.path = path
        self._class_names = list(class_names)
        self._scratch = path.with_name(path.name + ".part")
        self._fd = -1
        self._size = 0
        self._shown = b""  # rows behind all others, for the time being
        self._copied = False  # whether the name is that of a copy with such rows
        self._lock = threading.Lock()

    def add(self, record: Record) -> None:
        """Take the detections of one image. Raises OSError; the file is then as it was before."""
        with self._lock:
            self._open()
            self._append(_lines(self._rows(record)))
            self._shown = b""
            if self._copied:
                self._go_on_in_copy()

    def show(self, records: Sequence[Record]) -> None:
        """Have `publish` write scenes that are done in part behind all others, until a record comes."""
        rows = _lines([row for record in records for row in self._rows(record)])
        with self._lock:
            self._shown = rows

    def _rows(self, record: Record) -> list[Sequence[object]]:
        found = record.detections
        xyxy = found.xyxy.astype(np.float64)
        lonlat = [("", "")] * len(found)
        if record.georeference is not None:
            middle = record.georeference.to_lonlat((xyxy[:, :2] + xyxy[:, 2:]) / 2)
            lonlat = [(f"{lon:.{DECIMALS}f}", f"{lat:.{DECIMALS}f}") for lon, lat in middle.tolist()]
        frame = "" if record.frame_number is None else record.frame_number
        time = "" if record.timestamp_s is None else round(record.timestamp_s, 6)
        score = found.score.astype(np.float64)
        rows = zip(xyxy.round(2).tolist(), score.round(5).tolist(), found.class_id.tolist(), lonlat, strict=True)
        return [
            (record.name, frame, time, self._class_names[class_id], sure, *box, *place)
            for box, sure, class_id, place in rows
        ]

    def spill(self) -> None:
        """Do nothing: no record waits in memory."""

    def publish(self) -> None:
        """Give the file its name, with the first call, and show what is to be shown. Raises OSError."""
        with self._lock:
            self._open()
            if self._scratch != self.path:
                try:
                    os.replace(self._scratch, self.path)
                except OSError as error:
                    raise cannot_write(self.path, error) from error
                self._scratch = self.path
            if self._shown:
                os.close(self._copy(self._shown))
                self._copied = True
            elif self._copied:
                self._go_on_in_copy()

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            if self._scratch != self.path:
                self._scratch.unlink(missing_ok=True)

    def _go_on_in_copy(self) -> None:
        """Have the name be that of the file which grows again."""
        fd = self._copy(b"")
        os.close(self._fd)
        self._fd, self._copied = fd, False

    def _copy(self, behind: bytes) -> int:
        """Give the name to a copy of the file with more bytes behind, and return it open. Raises OSError."""
        scratch = self.path.with_name(self.path.name + ".part")
        fd = -1
        try:
            fd = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
            copy_bytes(self._fd, 0, fd, self._size)
            write_all(fd, behind)
            os.replace(scratch, self.path)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
                scratch.unlink(missing_ok=True)
            raise cannot_write(self.path, error) from error
        return fd

    def _open(self) -> None:
        if self._fd < 0:
            try:
                self._fd = os.open(self._scratch, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
            except OSError as error:
                raise cannot_write(self.path, error) from error
            self._append(_lines([COLUMNS]))

    def _append(self, data: bytes) -> None:
        append_whole(self._fd, self.path, data, self._size)
        self._size += len(data)


def _lines(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)  # its default dialect is RFC 4180's
    return text.getvalue().encode("utf-8", "surrogateescape")
