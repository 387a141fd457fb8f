"""GeoJSON sink: boxes of georeferenced scenes as polygons in WGS 84, by RFC 7946."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .footprints import DECIMALS, footprints
from .frames import Record
from .growing_file import GrowingDocument


class GeoJsonSink:
    """Write one FeatureCollection; a box is a Polygon of its four corners, so that it follows the scene's rotation.

    Rings are closed and counter-clockwise, longitude comes first, there is no crs member; a box over the antimeridian
    is a MultiPolygon with a part on either side. properties: class, score, source, frame and timestamp of a video, and
    "complete": false of a scene that is done in part.
    without: records that had no georeference.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self.path = path
        self.without = 0
        self._names = [json.dumps(name) for name in class_names]
        self._document = GrowingDocument(path, ('{"type": "FeatureCollection", "features": [\n', "\n]}\n"))

    def add(self, record: Record) -> None:
        """Take the detections of one scene, if it is known where it lies."""
        if record.georeference is None:
            self.without += 1
        self._document.append(self._items(record))

    def show(self, records: Sequence[Record]) -> None:
        """Show scenes that are done in part behind all others, until the next ones are shown or a record comes."""
        self._document.show([item for record in records for item in self._items(record)])

    def _items(self, record: Record) -> list[str]:
        """Return the features of a record, none if it is not known where it lies."""
        if record.georeference is None:
            return []
        found = record.detections
        where = footprints(found, record.georeference)
        source = json.dumps(readable(record.name))
        if record.frame_number is not None:
            source += f', "frame": {record.frame_number}'
        if record.timestamp_s is not None:
            source += f', "timestamp": {round(record.timestamp_s, 6)}'
        if not record.complete:
            source += ', "complete": false'
        items = []
        for i, (score, class_id) in enumerate(zip(found.score.tolist(), found.class_id.tolist(), strict=True)):
            parts = where.parts.get(i)
            if parts is None:
                geometry = f'"Polygon", "coordinates": [{_ring(where.rings[i])}]'
            elif len(parts) == 1:
                geometry = f'"Polygon", "coordinates": [{_ring(parts[0])}]'
            else:
                geometry = f'"MultiPolygon", "coordinates": [{", ".join(f"[{_ring(part)}]" for part in parts)}]'
            items.append(
                f'{{"type": "Feature", "geometry": {{"type": {geometry}}}, '
                f'"properties": {{"class": {self._names[class_id]}, "score": {round(score, 5)}, '
                f'"source": {source}}}}}'
            )
        return items

    def spill(self) -> None:
        """Keep memory small while many records come at once. Raises OSError."""
        self._document.spill()

    def publish(self) -> None:
        """Bring the file up to date, whole or not at all. Raises OSError."""
        self._document.publish()

    def close(self) -> None:
        """Let go of the file."""
        self._document.close()


def readable(name: str) -> str:
    """Return a file's name for formats that take Unicode only: bytes that are none become the replacement character."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _ring(ring: np.ndarray) -> str:
    return "[" + ", ".join(f"[{lon:.{DECIMALS}f}, {lat:.{DECIMALS}f}]" for lon, lat in ring.tolist()) + "]"
