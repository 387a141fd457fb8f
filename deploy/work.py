"""Work: what a list of sources amounts to, and the records that come out of each piece of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .detector import Detector
from .frames import Record
from .images import list_images
from .journal import Finished
from .sources import OnEvent, ReadError, Source, classify, open_source, shown

if TYPE_CHECKING:
    from .scheduler import Policy, Scheduler

# A scene of more megapixels is not kept whole for pictures of it.
DRAWN_MEGAPIXELS = 60.0


@dataclass(frozen=True)
class Unit:
    """A piece of work for one detector: images, one scene, or one video, camera or stream. what: paths or addresses."""

    kind: Literal["images", "scene", "video", "live"]
    what: tuple[str, ...]

    @property
    def name(self) -> str:
        """What to call it in messages; credentials masked."""
        return shown(self.what[0]) if len(self.what) == 1 else f"{len(self.what)} images"


@dataclass(frozen=True)
class Settings:
    """How sources are read; travels to other processes.

    scene: True cuts every image into tiles, False none, None: georeferenced and large ones. tile_px: side of a tile in
    scene pixels; None: the model's input. overlap: of neighbouring tiles, as a share of a tile. bands: of a scene,
    counted from 1. stretch: two percentiles, or None as the bundle says. frames: of a video or stream, at most.
    stall_s, tries: of live sources; no frame for so long counts as lost, and after so many tries in a row it is given
    up, None: never. pictures: keep images for sinks that draw.
    """

    scene: bool | None = None
    recursive: bool = False
    tile_px: int | None = None
    overlap: float = 0.2
    bands: tuple[int, ...] | None = None
    stretch: tuple[float, float] | None = None
    frames: int | None = None
    policy: Policy | None = None
    stall_s: float = 5.0
    tries: int | None = None
    postprocess_batch: int = 1
    pictures: bool = True


@dataclass
class Watch:
    """What a caller wants to hear while records are made.

    tile: (done, total) of the present scene. event: what happens to a stream. scheduler: each run's, as it starts.
    """

    tile: Callable[[int, int], None] = field(default=lambda done, total: None)
    event: OnEvent | None = None
    scheduler: Callable[[Scheduler], None] = field(default=lambda scheduler: None)
    empty_tiles: int = 0


def units_of(sources: Sequence[str | Path], settings: Settings, images_each: int | None = None) -> list[Unit]:
    """Return the work that sources amount to, in their order; images of a folder before its scenes, each file once.

    images_each: cut lists of images into pieces of at most so many. Raises FileNotFoundError or ValueError for a source
    that is nothing known.
    """
    units: list[Unit] = []
    seen: set[str] = set()

    def is_new(what: str | Path) -> bool:
        same = str(what) if "://" in str(what) else str(Path(what).resolve())
        known = same in seen
        seen.add(same)
        return not known

    for what in sources:
        kind = classify(what, scene=settings.scene)
        if kind in ("camera", "stream", "video", "scene"):
            if is_new(what):
                named: dict[str, Literal["live", "video", "scene"]] = {"video": "video", "scene": "scene"}
                units.append(Unit(named.get(kind, "live"), (str(what),)))
        else:
            paths = [path for path in list_images(what, recursive=settings.recursive) if is_new(path)]
            scenes = [p for p in paths if classify(p, scene=settings.scene) == "scene"]
            images = [str(p) for p in paths if p not in set(scenes)]
            size = images_each or max(1, len(images))
            units += [Unit("images", tuple(images[i : i + size])) for i in range(0, len(images), size)]
            units += [Unit("scene", (str(p),)) for p in scenes]
    return _joined(units) if images_each is None else units


def _joined(units: list[Unit]) -> list[Unit]:
    """Join neighbouring lists of images, so that no context idles between two files named one after the other."""
    joined: list[Unit] = []
    for kind, group in itertools.groupby(units, key=lambda unit: unit.kind):
        if kind == "images":
            joined.append(Unit("images", tuple(itertools.chain.from_iterable(unit.what for unit in group))))
        else:
            joined += group
    return joined


def records_of(
    detector: Detector, unit: Unit, settings: Settings, done: Finished, watch: Watch | None = None
) -> Generator[Record | ReadError, None, None]:
    """Yield the records of a unit as they are finished, or a ReadError in the place of what could not be read.

    done: what to pass over. Raises what a source or the runtime raises.
    """
    watch = watch or Watch()
    if unit.kind == "scene":
        if not done.has(unit.what[0]):
            yield from _scene_records(detector, unit.what[0], settings, watch)
        return
    source = _source_of(unit, settings, watch)
    with source:
        if unit.kind == "images":
            source.skip(names=done.names)
        elif unit.kind == "video":
            if done.has(source.name):
                return
            source.skip(numbers=range(done.last_frame.get(source.name, -1) + 1))
        moving = unit.kind != "images"
        # A stream counts from 0 each time it is opened; a run that goes on counts on.
        before = done.last_frame.get(source.name, -1) + 1 if unit.kind == "live" else 0
        frames: Iterable[Any] = source
        if settings.frames and unit.kind == "live":
            frames = itertools.islice(source, settings.frames)
        elif settings.frames and moving:
            frames = _first(source, settings.frames)
        results = detector.stream(
            _Limited(source, frames),
            policy=settings.policy,
            postprocess_batch=settings.postprocess_batch,
            on_start=watch.scheduler,
        )
        for result in results:
            frame = result.frame
            if result.error is not None:
                yield ReadError(frame.number, frame.name, result.error)
                continue
            height, width = frame.image.shape[:2]
            yield Record(
                frame.name,
                (height, width),
                result.detections,
                frame_number=before + frame.number if moving else None,
                timestamp_s=frame.timestamp_s,
                image=frame.image if settings.pictures else None,
            )


def _first(source: Source, frames: int) -> Iterator[Any]:
    """Yield what a video has before frame number `frames`, whichever of them are passed over."""
    for item in source:
        if item.number >= frames:
            return
        yield item
        if item.number == frames - 1:
            return


class _Limited:
    """A source of which only some frames are wanted."""

    def __init__(self, source: Source, frames: Any) -> None:
        self.live, self.close, self._frames = source.live, source.close, frames

    def __iter__(self) -> Iterator[Any]:
        return iter(self._frames)


def _source_of(unit: Unit, settings: Settings, watch: Watch) -> Source:
    if unit.kind == "images":
        from .sources import FolderSource

        return FolderSource(Path(unit.name), [Path(p) for p in unit.what], "folder")
    from .streams import Backoff, LiveOptions

    live = LiveOptions(backoff=Backoff(tries=settings.tries), stall_s=settings.stall_s)
    return open_source(unit.what[0], live=live, on_event=watch.event)


def _scene_records(
    detector: Detector, path: str, settings: Settings, watch: Watch
) -> Generator[Record | ReadError, None, None]:
    """Yield a ReadError for each tile of a scene that failed, then the scene's record from all others."""
    from .scenes import open_scene
    from .tiling import TileSource, merge, plan_tiles

    height, width = detector.manifest.input_hw
    tile_hw = (settings.tile_px, settings.tile_px) if settings.tile_px else (height, width)
    try:
        scene = open_scene(path, **_reading(detector, settings))
    except ValueError as error:
        yield ReadError(0, path, error)
        return
    with scene:
        source = TileSource(scene, plan_tiles(scene.size_hw, tile_hw, settings.overlap))
        found, tiles, failed = [], [], 0
        results = detector.stream(
            source, postprocess_batch=settings.postprocess_batch, on_start=watch.scheduler, policy="block"
        )
        for result in results:
            watch.tile(result.frame.number + 1, len(source.tiles))
            if result.error is not None:
                failed += 1
                yield ReadError(result.frame.number, path, result.error)
                continue
            found.append(result.detections)
            tiles.append(source.tiles[result.frame.number])
        if failed and not found:
            return
        watch.empty_tiles += source.empty
        image: np.ndarray | None = None
        if settings.pictures and not failed and scene.size_hw[0] * scene.size_hw[1] <= DRAWN_MEGAPIXELS * 1e6:
            image = scene.read(0, 0, scene.size_hw[1], scene.size_hw[0])
        merged = merge(found, tiles, scene.size_hw)
        yield Record(path, scene.size_hw, merged, scene.georeference, image=image, complete=not failed)


def _reading(detector: Detector, settings: Settings) -> dict[str, Any]:
    """Return how a scene's bands are read: as the settings say, else as the bundle's manifest does."""
    given = detector.manifest.bands
    bands = settings.bands if settings.bands is not None or given is None else given.indexes
    if settings.stretch is not None or given is None:
        return {"bands": bands, "percentiles": settings.stretch}
    return {"bands": bands, "percentiles": given.percentiles, "low_high": given.low_high}
