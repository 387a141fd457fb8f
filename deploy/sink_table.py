"""CSV sink: a line per box (RFC 4180), in the file as soon as its image is finished."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .footprints import DECIMALS
from .frames import Record
from .growing_file import append_whole, cannot_write

COLUMNS = ("source", "frame", "timestamp", "class", "score", "x1", "y1", "x2", "y2", "lon", "lat")


class TableSink:
    """Append the boxes of each record in one write; lines end in CR LF, the last one too.

    frame, timestamp: of a video, timestamp in seconds. x1 to y2: pixels of the image or scene. lon, lat: of the box's
    centre in degrees (WGS 84), empty where the image is not georeferenced. The file gets its name with the first
    `publish`, so that an earlier one is not touched before.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self.path = path
        self._class_names = list(class_names)
        self._scratch = path.with_name(path.name + ".part")
        self._fd = -1
        self._size = 0

    def add(self, record: Record) -> None:
        """Take the detections of one image. Raises OSError; the file is then as it was before."""
        self._open()
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
        self._append(
            [
                (record.name, frame, time, self._class_names[class_id], sure, *box, *place)
                for box, sure, class_id, place in rows
            ]
        )

    def spill(self) -> None:
        """Do nothing: no record waits in memory."""

    def publish(self) -> None:
        """Give the file its name, with the first call. Raises OSError."""
        self._open()
        if self._scratch.name == self.path.name:
            return
        try:
            os.replace(self._scratch, self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._scratch = self.path

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            if self._scratch != self.path:
                self._scratch.unlink(missing_ok=True)

    def _open(self) -> None:
        if self._fd < 0:
            try:
                self._fd = os.open(self._scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            except OSError as error:
                raise cannot_write(self.path, error) from error
            self._append([COLUMNS])

    def _append(self, rows: Sequence[Sequence[object]]) -> None:
        text = io.StringIO()
        csv.writer(text).writerows(rows)  # its default dialect is RFC 4180's
        data = text.getvalue().encode("utf-8", "surrogateescape")
        append_whole(self._fd, self.path, data, self._size)
        self._size += len(data)
