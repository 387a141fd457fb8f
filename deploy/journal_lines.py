"""Journal lines: records, scenes that are begun and their tiles as lines of JSON, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .detections import Detections
from .frames import Record
from .georeference import Georeference
from .scene_parts import SceneBegun, TileFound
from .source_identity import Identity
from .tiling import Tile

Entry = dict[str, Any]


def encode(entry: Entry) -> bytes:
    """Return an entry as its line."""
    return json.dumps(entry, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def whole_lines(handle: BinaryIO, path: Path) -> Iterator[tuple[int, Entry]]:
    """Yield (offset behind the line, entry) for each line that was written whole. Raises ValueError."""
    end = 0
    for number, line in enumerate(handle, 1):
        if not line.endswith(b"\n"):
            return
        end += len(line)
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or not entry.keys() >= ({"journal", "info"} if number == 1 else set()):
            raise ValueError(
                f"{path}: line {number} is damaged; choose another output folder, or begin anew with --overwrite"
            )
        yield end, entry


def entry_of_record(record: Record, file: Identity | None) -> Entry:
    """Return the entry of a record, without its image. file: what it was read from, None where that is known."""
    return {
        "name": record.name,
        "size_hw": [int(side) for side in record.size_hw],
        "frame": record.frame_number,
        "time": record.timestamp_s,
        **_place(record.georeference),
        **_found(record.detections),
        **({} if record.complete else {"complete": False}),
        **_file(file),
    }


def entry_of_scene(begun: SceneBegun, file: Identity | None) -> Entry:
    """Return the entry of a scene whose tiles come now."""
    return {
        "scene": begun.name,
        "size_hw": [int(side) for side in begun.size_hw],
        "plan": begun.plan,
        **_place(begun.georeference),
        **_file(file),
    }


def entry_of_tile(found: TileFound) -> Entry:
    """Return the entry of a tile."""
    tile = found.tile
    return {
        "tile": found.number,
        "of": found.name,
        "xywh": [tile.x, tile.y, tile.w, tile.h],
        "empty": list(found.empty),
        **_found(found.detections),
    }


def record_of(entry: Entry) -> Record:
    """Return the record that an entry holds."""
    h, w = entry["size_hw"]
    return Record(entry["name"], (h, w), _detections(entry), _where(entry), entry["frame"], entry["time"])


def scene_of(entry: Entry) -> SceneBegun:
    """Return the scene that an entry begins."""
    h, w = entry["size_hw"]
    return SceneBegun(entry["scene"], (h, w), entry["plan"], _where(entry))


def tile_of(entry: Entry) -> TileFound:
    """Return the tile that an entry holds."""
    return TileFound(entry["of"], entry["tile"], Tile(*entry["xywh"]), _detections(entry), tuple(entry["empty"]))


def name_of(entry: Entry) -> str:
    """Return the source that an entry is about, as it was named then."""
    return next(str(entry[key]) for key in ("name", "of", "scene", "finished") if key in entry)


def _place(where: Georeference | None) -> Entry:
    return {
        "crs": None if where is None else where.crs,
        "transform": None if where is None else [float(v) for v in where.transform],
    }


def _found(found: Detections) -> Entry:
    return {"boxes": found.xyxy.tolist(), "score": found.score.tolist(), "class_id": found.class_id.tolist()}


def _file(file: Identity | None) -> Entry:
    return {} if file is None else {"file": list(file)}


def _where(entry: Entry) -> Georeference | None:
    return None if entry["crs"] is None else Georeference(entry["crs"], tuple(entry["transform"]))


def _detections(entry: Entry) -> Detections:
    return Detections(
        np.array(entry["boxes"], np.float32).reshape(-1, 4),
        np.array(entry["score"], np.float32),
        np.array(entry["class_id"], np.int32),
    )
