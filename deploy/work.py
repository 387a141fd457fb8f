"""Work: what a list of sources amounts to, and the records that come out of each piece of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .detector import Detector
from .finished import Finished
from .frames import Record, Result
from .images import list_images
from .manifest import Manifest
from .scene_parts import SceneBegun, ScenePart, TileFound, merged
from .sources import OnEvent, ReadError, Source, SourceEvent, classify, open_source, shown

if TYPE_CHECKING:
    from .scenes import Scene
    from .scheduler import Policy, Scheduler
    from .tiling import Tile

# What comes out of a unit; tiles and where they begin only for who wants to keep them.
Made = Record | ReadError | SceneBegun | TileFound
# A scene of more megapixels is not kept whole for pictures of it, but reduced to so many pixels along its longer side.
DRAWN_MEGAPIXELS = 60.0
DRAWN_SIDE_PX = 4096


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
    opened: each source, before its first frame. result: each model input's, with its stage clocks.
    """

    tile: Callable[[int, int], None] = field(default=lambda done, total: None)
    event: OnEvent | None = None
    scheduler: Callable[[Scheduler], None] = field(default=lambda scheduler: None)
    opened: Callable[[Source], None] = field(default=lambda source: None)
    result: Callable[[Result], None] = field(default=lambda result: None)
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
            # A link that leads nowhere is told in its place, like an image that is damaged.
            scenes = [p for p in paths if p.exists() and classify(p, scene=settings.scene) == "scene"]
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
    with closing(pieces_of(detector, unit, settings, done, watch)) as pieces:
        for piece in pieces:
            if isinstance(piece, Record | ReadError):
                yield piece


def pieces_of(
    detector: Detector, unit: Unit, settings: Settings, done: Finished, watch: Watch | None = None
) -> Generator[Made, None, None]:
    """Yield what `records_of` yields, and before the record of a scene a SceneBegun and a TileFound for each tile.

    Tiles in `done.parts` are passed over and merged with the others; a SceneBegun says that none of them fit.
    """
    watch = watch or Watch()
    if unit.kind == "scene":
        if not done.has(unit.what[0]):
            yield from _scene_pieces(detector, unit.what[0], settings, done.parts.get(unit.what[0]), watch)
        return
    try:
        source = _source_of(unit, settings, watch)
    except (ValueError, OSError) as error:
        if unit.kind != "video":
            raise
        yield ReadError(0, unit.name, error)
        return
    with source:
        if unit.kind == "images":
            source.skip(names=done.names)
        elif unit.kind == "video":
            if done.has(source.name):
                return
            source.skip(numbers=range(done.last_frame.get(source.name, -1) + 1))
        moving = unit.kind != "images"
        watch.opened(source)
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
            watch.result(result)
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


def _scene_pieces(
    detector: Detector, path: str, settings: Settings, part: ScenePart | None, watch: Watch
) -> Generator[Made, None, None]:
    """Yield what each tile of a scene found or that it failed, then the scene's record from all that did not.

    part: tiles that are done.
    """
    from .scenes import open_scene
    from .tiling import TileSource, plan_tiles

    height, width = detector.manifest.input_hw
    tile_hw = (settings.tile_px, settings.tile_px) if settings.tile_px else (height, width)
    try:
        scene = open_scene(path, **reading_of(detector.manifest, settings))
    except (ValueError, OSError) as error:
        yield ReadError(0, path, error)
        return
    with scene:
        source = TileSource(scene, plan_tiles(scene.size_hw, tile_hw, settings.overlap))
        plan = _plan_of(scene, source.tiles)
        if part is None or part.begun.plan != plan:
            part = ScenePart(SceneBegun(path, scene.size_hw, plan, scene.georeference))
            yield part.begun
        part = part.copy()  # who writes the tiles may note them in the one that came
        source.skip(numbers=frozenset((*part.tiles, *part.empty)))
        watch.opened(source)
        if scene.unread_samples and watch.event is not None:
            told = f"{scene.unread_samples} of the windows that its stretch is taken from cannot be read, others decide"
            watch.event(SourceEvent("skipped", f"{path}: {told}"))
        failed = empty = 0
        results = detector.stream(
            source, postprocess_batch=settings.postprocess_batch, on_start=watch.scheduler, policy="block"
        )
        for result in results:
            watch.tile(result.frame.number + 1, len(source.tiles))
            watch.result(result)
            if result.error is not None:
                failed += 1
                yield ReadError(result.frame.number, path, result.error)
                continue
            passed = source.empties[empty:]
            empty += len(passed)
            number = result.frame.number
            piece = TileFound(path, number, source.tiles[number], result.detections, tuple(passed))
            part.note(piece)
            yield piece
        if failed and not part.tiles:
            return
        watch.empty_tiles += source.empty
        image: np.ndarray | None = None
        if settings.pictures and not failed:
            image = picture_of(scene)
        found = merged(part.tiles.values(), scene.size_hw)
        yield Record(path, scene.size_hw, found, scene.georeference, image=image, complete=not failed)


def _plan_of(scene: Scene, tiles: Sequence[Tile]) -> str:
    """Return what tiles of a scene must have in common to be merged, in words."""
    height, width = scene.size_hw
    second = tiles[1] if len(tiles) > 1 else tiles[0]
    cut = f"{width}x{height} in {len(tiles)} of {tiles[0].w}x{tiles[0].h}, the second at {second.x},{second.y}"
    return f"{cut}; bands {scene.bands}, {scene.stretch or 'not stretched'}"


def picture_of(scene: Scene) -> np.ndarray:
    """Return a scene as one (h, w, 3) uint8 image to draw on, reduced where it is large."""
    h, w = scene.size_hw
    return scene.read(0, 0, w, h) if h * w <= DRAWN_MEGAPIXELS * 1e6 else scene.overview(DRAWN_SIDE_PX)


def reading_of(manifest: Manifest, settings: Settings) -> dict[str, Any]:
    """Return how a scene's bands are read: as the settings say, else as the bundle's manifest does."""
    given = manifest.bands
    bands = settings.bands if settings.bands is not None or given is None else given.indexes
    if settings.stretch is not None or given is None:
        return {"bands": bands, "percentiles": settings.stretch}
    return {"bands": bands, "percentiles": given.percentiles, "low_high": given.low_high}
