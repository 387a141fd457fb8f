"""GeoPackage sink: boxes of georeferenced scenes as a layer that GIS programs open, through pyogrio."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
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
    a database that has to be rolled back first, which a program that only reads cannot do.
    without: records that had no georeference. Raises ModuleNotFoundError where pyogrio is not installed.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        import pyogrio  # noqa: F401  # before hours of work, not after them

        self.path = path
        self.without = 0
        self._names = np.array(class_names, object)
        self._scratch = path.with_name(f"{path.stem}.part{path.suffix}")  # GDAL knows the format by the ending
        self._pending: list[tuple[Record, Footprints]] = []
        self._rows = 0
        self._published = False

    def add(self, record: Record) -> None:
        """Take the detections of one scene, if it is known where it lies."""
        if record.georeference is None:
            self.without += 1
            return
        where = footprints(record.detections, record.georeference)
        # Only what the table needs: an image must not wait here.
        kept = Record(record.name, record.size_hw, record.detections, None, record.frame_number, record.timestamp_s)
        self._pending.append((kept, where))

    def spill(self) -> None:
        """Do nothing: what waits are a few arrays for each scene."""

    def publish(self) -> None:
        """Bring the file up to date, whole or not at all. Raises OSError."""
        taken = self._pending[:]
        if self._published and not taken:
            return
        try:
            self._forget_scratch()
            if self._published:
                shutil.copyfile(self.path, self._scratch)
            rows = self._rows + self._append(taken)
            with open(self._scratch, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(self._scratch, self.path)
        except OSError as error:
            self._forget_scratch()
            raise cannot_write(self.path, error) from error
        self._rows, self._published = rows, True
        del self._pending[: len(taken)]

    def close(self) -> None:
        """Do nothing: the file is open only while it is written."""

    def _forget_scratch(self) -> None:
        """Delete what a killed run may have left; SQLite would roll the new file back by the old one's journal."""
        for ending in ("", "-journal", "-wal", "-shm"):
            self._scratch.with_name(self._scratch.name + ending).unlink(missing_ok=True)

    def _append(self, taken: Sequence[tuple[Record, Footprints]]) -> int:
        """Append rows to the scratch file, which is made if need be; return how many. Raises OSError."""
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
                append=self._published,
            )
            # GDAL closes the file itself and keeps quiet if that failed.
            with closing(sqlite3.connect(f"{self._scratch.absolute().as_uri()}?mode=ro", uri=True)) as database:
                written = database.execute(f"SELECT count(*) FROM {LAYER}").fetchone()[0]
        except (
            DataLayerError,
            DataSourceError,
            FeatureError,
            FieldError,
            GeometryError,
            sqlite3.Error,
        ) as error:
            raise OSError(None, " ".join(str(error).split())) from error
        if written != self._rows + total:
            raise OSError(None, f"{written} of {self._rows + total} rows reached the file")
        return total


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
