"""GeoPackage sink: boxes of georeferenced scenes as a layer that GIS programs open, through pyogrio."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from .footprints import Footprints, footprints
from .frames import Record
from .growing_file import cannot_write
from .sink_geojson import readable

LAYER = "detections"
# Well-known binary (OGC 06-103r4, 8.2.8) of a MultiPolygon with one Polygon of one ring of five points.
_ONE_RING = np.dtype(
    [
        ("order", "u1"),
        ("type", "<u4"),
        ("polygons", "<u4"),
        ("polygon_order", "u1"),
        ("polygon_type", "<u4"),
        ("rings", "<u4"),
        ("points", "<u4"),
        ("xy", "<f8", (5, 2)),
    ]
)


class GeoPackageSink:
    """Write a layer `detections` of MultiPolygons in EPSG:4326 with the fields class, score, source, frame, timestamp.

    The same geometries as in the GeoJSON file; all are MultiPolygons, as a layer has one type and a box over the
    antimeridian needs that one. New rows go into a copy of the file that is renamed over it: a killed run never leaves
    a database that has to be rolled back first, which a program that only reads cannot do. Rows of scenes that are
    done in part stand behind all others in a further copy, and the layer's description names these scenes.
    without: records that had no georeference. Raises ModuleNotFoundError where pyogrio is not installed.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        import pyogrio  # noqa: F401  # before hours of work, not after them

        self.path = path
        self.without = 0
        self._names = np.array(class_names, object)
        self._scratch = path.with_name(f"{path.stem}.part{path.suffix}")  # GDAL knows the format by the ending
        self._pending: list[tuple[Record, Footprints]] = []
        self._shown: list[tuple[Record, Footprints]] = []
        self._is_shown: list[tuple[Record, Footprints]] = []
        self._rows = 0
        self._fd = -1  # the file without what is shown; it need not have a name
        self._lock = threading.Lock()

    def add(self, record: Record) -> None:
        """Take the detections of one scene, if it is known where it lies."""
        if record.georeference is None:
            self.without += 1
        placed = _placed(record)
        with self._lock:
            self._pending += placed
            if self._shown:
                self._shown = []

    def show(self, records: Sequence[Record]) -> None:
        """Show scenes that are done in part behind all others, until the next ones are shown or a record comes."""
        placed = [one for record in records for one in _placed(record)]
        with self._lock:
            self._shown = placed

    def spill(self) -> None:
        """Do nothing: what waits are a few arrays for each scene."""

    def publish(self) -> None:
        """Bring the file up to date, whole or not at all. Raises OSError."""
        with self._lock:
            taken, shown = self._pending[:], self._shown
        if self._fd >= 0 and not taken and (shown is self._is_shown or not (shown or self._is_shown)):
            return
        fd, rows = self._fd, self._rows
        try:
            self._forget_scratch()
            if taken or self._fd < 0:
                rows = self._append(taken, self._fd, self._rows)
                fd = os.open(self._scratch, os.O_RDONLY)
            if shown or fd == self._fd:
                self._forget_scratch()
                self._append(shown, fd, rows)
            with open(self._scratch, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(self._scratch, self.path)
        except OSError as error:
            if fd != self._fd:
                os.close(fd)
            self._forget_scratch()
            raise cannot_write(self.path, error) from error
        if fd != self._fd:
            self.close()
        self._fd, self._rows, self._is_shown = fd, rows, shown
        with self._lock:
            del self._pending[: len(taken)]

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _forget_scratch(self) -> None:
        """Delete what a killed run may have left; SQLite would roll the new file back by the old one's journal."""
        for ending in ("", "-journal", "-wal", "-shm"):
            self._scratch.with_name(self._scratch.name + ending).unlink(missing_ok=True)

    def _append(self, taken: Sequence[tuple[Record, Footprints]], base: int, rows: int) -> int:
        """Write the scratch file: an open file of so many rows, or none (-1), and more of them; return how many it has.

        Raises OSError.
        """
        if base >= 0:
            with open(base, "rb", closefd=False) as whole, open(self._scratch, "wb") as copy:
                whole.seek(0)
                shutil.copyfileobj(whole, copy)
            if not taken:
                return rows
        from pyogrio import raw
        from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError

        counts = [len(record.detections) for record, _ in taken]
        total = sum(counts)
        geometry = np.empty(total, object)
        geometry[:] = [shape for _, where in taken for shape in _shapes(where)]
        records = [record for record, _ in taken]

        def joined(parts: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
            return np.concatenate([np.empty(0), *parts]).astype(dtype)

        def repeated(values: list, dtype: np.dtype) -> np.ndarray:
            return np.repeat(np.array(values, dtype), counts)

        class_id = joined([r.detections.class_id for r in records], np.dtype(np.intp))
        score = joined([r.detections.score for r in records], np.dtype(np.float64)).round(5)
        frame = repeated([-1 if r.frame_number is None else r.frame_number for r in records], np.dtype(np.int64))
        time = repeated([np.nan if r.timestamp_s is None else r.timestamp_s for r in records], np.dtype(np.float64))
        source = repeated([readable(r.name) for r in records], np.dtype(object))
        try:
            raw.write(
                str(self._scratch),
                geometry=geometry,
                field_data=[self._names[class_id], score, source, frame, time],
                fields=["class", "score", "source", "frame", "timestamp"],
                field_mask=[None, None, None, frame < 0, np.isnan(time)],
                layer=LAYER,
                driver="GPKG",
                geometry_type="MultiPolygon",
                crs="EPSG:4326",
                append=base >= 0,
            )
            # GDAL closes the file itself and keeps quiet if that failed.
            torn = dict.fromkeys(readable(r.name) for r in records if not r.complete)
            address = f"{self._scratch.absolute().as_uri()}?mode={'rw' if torn else 'ro'}"
            with closing(sqlite3.connect(address, uri=True)) as database:
                written = database.execute(f"SELECT count(*) FROM {LAYER}").fetchone()[0]
                if torn:
                    told = (f"not complete: {', '.join(torn)}", LAYER)
                    database.execute("UPDATE gpkg_contents SET description = ? WHERE table_name = ?", told)
                    database.commit()
        except (
            DataLayerError,
            DataSourceError,
            FeatureError,
            FieldError,
            GeometryError,
            sqlite3.Error,
        ) as error:
            # SQLite tells what it misses, not why: "no such table" is what a full disk leaves.
            why = " ".join(str(error).split())
            raise OSError(None, f"{why}; if the disk is full, free some space and run again") from error
        if written != rows + total:
            raise OSError(None, f"{written} of {rows + total} rows reached the file")
        return rows + total


def _placed(record: Record) -> list[tuple[Record, Footprints]]:
    """Return a record with the places of its boxes; nothing where it is not known where it lies."""
    if record.georeference is None:
        return []
    where = footprints(record.detections, record.georeference)
    # Only what the table needs: an image must not wait here.
    return [(replace(record, georeference=None, image=None), where)]


def _shapes(where: Footprints) -> list[bytes]:
    """Return the well-known binary of each box, in order."""
    block = np.zeros(len(where.rings), _ONE_RING)
    block["order"] = block["polygon_order"] = block["polygons"] = block["rings"] = 1
    block["type"], block["polygon_type"], block["points"] = 6, 3, 5
    block["xy"] = where.rings
    data, size = block.tobytes(), _ONE_RING.itemsize
    return [_multi(where.parts[i]) if i in where.parts else data[i * size : (i + 1) * size] for i in range(len(block))]


def _multi(rings: Sequence[np.ndarray]) -> bytes:
    """Return the well-known binary of a MultiPolygon with a Polygon for each ring (m, 2)."""
    parts = [np.array([1], "u1").tobytes() + np.array([6, len(rings)], "<u4").tobytes()]
    for ring in rings:
        parts.append(np.array([1], "u1").tobytes() + np.array([3, 1, len(ring)], "<u4").tobytes())
        parts.append(np.ascontiguousarray(ring, "<f8").tobytes())
    return b"".join(parts)
