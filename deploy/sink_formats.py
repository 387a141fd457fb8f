"""Sink formats: what each is called and what it writes, and the sinks for them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .sink_protocols import FileSink, PictureSink

# Format -> what it writes in the output folder.
FORMATS = {
    "coco": "detections.json",
    "csv": "detections.csv",
    "geojson": "detections.geojson",
    "gpkg": "detections.gpkg",
    "overlay": "overlays",
    "video": "videos",
}


def check_formats(formats: Sequence[str]) -> list[str]:
    """Return formats without those that come twice. Raises ValueError for none, and for one that is not known."""
    formats = list(dict.fromkeys(formats))
    if not formats:
        raise ValueError(f"formats must name at least one of {', '.join(FORMATS)}; got none")
    for name in formats:
        if name not in FORMATS:
            near = difflib.get_close_matches(name.lower(), [*FORMATS, "geopackage", "json"], n=1, cutoff=0.5)
            meant = {"geopackage": "gpkg", "json": "coco"}.get(near[0], near[0]) if near else None
            hint = f"did you mean {meant}? Known: " if meant else "use "
            raise ValueError(f"format {name!r} is not known; {hint}{', '.join(FORMATS)}")
    return formats


def sinks_of(
    out: Path, formats: Sequence[str], class_names: Sequence[str], info: dict[str, Any], fps: float | None
) -> tuple[list[FileSink], list[PictureSink]]:
    """Return the sinks that write formats into a folder; see `deploy.sinks.open_sinks`. Nothing is touched.

    Raises ModuleNotFoundError where gpkg needs pyogrio, ValueError for an fps that is not above 0.
    """
    files: list[FileSink] = []
    pictures: list[PictureSink] = []
    for name in formats:
        path = out / FORMATS[name]
        if name == "coco":
            from .sink_coco import CocoSink

            files.append(CocoSink(path, class_names, info))
        elif name == "csv":
            from .sink_table import TableSink

            files.append(TableSink(path, class_names))
        elif name == "geojson":
            from .sink_geojson import GeoJsonSink

            files.append(GeoJsonSink(path, class_names))
        elif name == "gpkg":
            from .sink_geopackage import GeoPackageSink

            files.append(GeoPackageSink(path, class_names))
        elif name == "overlay":
            from .sink_overlay import OverlaySink

            pictures.append(OverlaySink(path, class_names))
        else:
            from .sink_video import VideoSink

            pictures.append(VideoSink(path, class_names, fps))
    return files, pictures
