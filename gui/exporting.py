"""Exporting: what was found as files; what is on the screen, or a whole source run again. Knows no Qt."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deploy.frames import Record
from deploy.images import read_image
from deploy.manifest import Manifest
from deploy.sinks import SinkSet, open_sinks
from deploy.sources import ReadError

from .running import DRAWN
from .session import Picture
from .sifting import Filters, passing, settle

# What each format is called in the dialogue; `deploy.sink_formats.FORMATS` says what it writes.
NEEDS_PIXELS = {"overlay", "video"}


@dataclass(frozen=True)
class Order:
    """What is to be written. formats: of `deploy.sink_formats.FORMATS`. filters: as on the screen.

    overwrite: an earlier export in that folder goes; without it, such a folder is refused.
    """

    out: Path
    formats: tuple[str, ...]
    filters: Filters
    bundle: Path
    manifest: Manifest
    overwrite: bool = False

    def info(self) -> dict[str, Any]:
        """Return what the results depend on, as the files state it."""
        hidden = [self.manifest.class_names[i] for i in sorted(self.filters.hidden)]
        return {
            "bundle": self.manifest.name,
            "score": self.filters.score,
            "iou": self.filters.iou,
            **({"hidden_classes": hidden} if hidden else {}),
        }


@dataclass(frozen=True)
class Written:
    """How far it is. total: None while nobody knows. paths, notes: once all is written; see `SinkSet`."""

    done: int
    total: int | None
    paths: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


def free_folder(parent: Path, source: str) -> Path:
    """Propose a folder below `parent` that does not exist yet, named after the source and the time."""
    stem = Path(source.rstrip("/")).stem if source else ""
    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in stem) or "detections"
    base = parent / f"{name}_{time.strftime('%Y%m%d_%H%M%S')}"
    number, folder = 2, base
    while folder.exists():
        folder, number = base.with_name(f"{base.name}_{number}"), number + 1
    return folder


def record_of(picture: Picture, filters: Filters) -> Record:
    """Return one picture's record at the filters; a scene has no pixels there."""
    found = settle(picture.candidates, filters.iou)
    return Record(
        picture.name,
        picture.size_hw,
        found.select(passing(found, filters)),
        picture.georeference,
        picture.frame_number,
        picture.timestamp_s,
        picture.pixels,
    )


def write_records(order: Order, pictures: Sequence[Picture]) -> Generator[Written, None, None]:
    """Write what was found in pictures, as the filters show it; closing the generator stops, with whole files.

    Pixels of images that are not in memory are read for formats that draw. Raises ValueError or OSError.
    """
    with _sinks(order) as sinks:
        for done, picture in enumerate(pictures, 1):
            record = record_of(picture, order.filters)
            if record.image is None and "overlay" in order.formats:
                record = replace(record, image=_pixels(record))
            sinks.add(record)
            yield Written(done, len(pictures))
    yield Written(len(pictures), len(pictures), tuple(sinks.paths), tuple(sinks.notes()))


def write_source(order: Order, source: str, backend: str, workers: Any) -> Generator[Written, None, None]:
    """Run a whole source again at the filters and write it; closing the generator stops, with whole files.

    Raises ValueError, FileNotFoundError or OSError; also for a source without an end.
    """
    from deploy.detector import open_detector
    from deploy.work import Settings, Watch, records_of, units_of

    settings = Settings(pictures=bool(NEEDS_PIXELS & set(order.formats)))
    units = units_of([source], settings)
    if any(unit.kind == "live" for unit in units):
        raise ValueError(f"{units[0].name}: a live source has no end; export the present picture, or use rsedge detect")
    options = {"score_threshold": order.filters.score, "iou_threshold": order.filters.iou}
    tiles = [0, 0]

    def count_tile(done: int, total: int) -> None:
        tiles[:] = [done, total]

    watch = Watch(tile=count_tile)
    total = _total(units)
    done, failures = 0, []
    with open_detector(order.bundle, backend, workers=workers, **options) as detector, _sinks(order) as sinks:  # type: ignore[arg-type]
        for unit in units:
            with closing(records_of(detector, unit, settings, sinks.done, watch)) as records:
                for record in records:
                    if isinstance(record, ReadError):
                        failures.append(str(record.error))
                        continue
                    sinks.add(_sifted(record, order.filters))
                    done += 1
                    yield Written(done, total)
            if unit.kind == "video":
                sinks.source_finished(unit.what[0])
    yield Written(done, total, tuple(sinks.paths), tuple(sinks.notes()), tuple(failures))


def _total(units: Sequence[Any]) -> int | None:
    """Return how many records there will be, None for videos that do not say."""
    total = 0
    for unit in units:
        if unit.kind == "video":
            from deploy.sources import open_source

            with open_source(unit.what[0]) as source:
                if source.count is None:
                    return None
                total += source.count
        else:
            total += len(unit.what) if unit.kind == "images" else 1
    return total


def _sinks(order: Order) -> SinkSet:
    return open_sinks(
        order.out, order.formats, order.manifest.class_names, info=order.info(), overwrite=order.overwrite
    )


def _sifted(record: Record, filters: Filters) -> Record:
    return replace(record, detections=record.detections.select(passing(record.detections, filters)))


def _pixels(record: Record) -> np.ndarray | None:
    """Read an image's pixels for drawing; None for what is no image file any more, which sinks count."""
    if record.name == DRAWN:
        return None
    h, w = record.size_hw
    if record.georeference is not None or h * w > 60e6:
        return None
    try:
        return read_image(record.name)
    except (OSError, ValueError):
        return None
