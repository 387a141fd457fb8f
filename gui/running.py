"""Running: a bundle over a source as a row of events; knows no Qt, any thread may follow it."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.detections import Detections
from deploy.frames import Result
from deploy.manifest import Manifest
from deploy.sources import OnEvent, Source, classify, open_source

from .meet_gdal import meet_gdal
from .player import Player
from .session import Picture
from .sifting import DEFAULT_IOU, Candidates, suppress
from .stage_clock import StageClock

if TYPE_CHECKING:
    from deploy.detector import Detector

    from .scene_pyramid import ScenePyramid

# The drawn scene of the first start: an airport by the water.
DRAWN = "drawn scene"
DRAWN_SEED, DRAWN_HW = 88, (1024, 1024)
# A growing scene is merged again after so long, and never more than about a tenth of the time.
_MERGE_S, _MERGE_SHARE = 0.3, 8.0


@dataclass(frozen=True)
class Options:
    """How a source is run. at_pace: videos by their clock, else as fast as it goes. loop: videos begin again."""

    at_pace: bool = True
    loop: bool = False
    overlap: float = 0.2
    recursive: bool = False


@dataclass(frozen=True, eq=False)
class Opened:
    """The source is open. kind: as `deploy.sources.classify`, or "drawn". count: frames or images, None: unknown.

    picture: of a scene, before anything is found. player: of a video.
    """

    kind: str
    name: str
    count: int | None = None
    fps: float | None = None
    decoder: str = ""
    player: Player | None = None
    picture: Picture | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture with what was found. found: settled at overlap `iou`, where that was done on the way."""

    picture: Picture
    found: Detections | None = None
    iou: float | None = None


@dataclass(frozen=True)
class Progress:
    """done of total; left_s: seconds that the rest will take, None while nobody can tell."""

    done: int
    total: int
    left_s: float | None = None


@dataclass(frozen=True)
class Failed:
    """One image or frame could not be read or inferred; the run goes on. text: one line."""

    name: str
    text: str


Event = Opened | Seen | Progress | Failed


@dataclass
class Watch:
    """What is looked at from outside while a run goes on, and what is asked of it meanwhile.

    clock, dropped, backend: see there, and the name of the backend that runs. iou: the overlap at which scenes are
    settled; may be moved while they grow.
    """

    clock: StageClock = field(default_factory=StageClock)
    on_event: OnEvent | None = None
    scheduler: Any = None
    source: Any = None
    cancelled: bool = False
    backend: str = ""
    iou: float = DEFAULT_IOU

    @property
    def dropped(self) -> int:
        """Frames that made room for newer ones, in the source and before the contexts."""
        return int(getattr(self.scheduler, "dropped", 0)) + int(getattr(self.source, "dropped", 0))

    def started(self, scheduler: Any) -> None:
        """Take note of the run's scheduler."""
        self.scheduler = scheduler
        if self.cancelled:
            scheduler.cancel()

    def cancel(self) -> None:
        """End the run from any thread, without waiting for it: what is under way is thrown away."""
        self.cancelled = True
        if self.scheduler is not None:
            self.scheduler.cancel()


def run(detector: Detector, what: str, options: Options, watch: Watch) -> Generator[Event, None, None]:
    """Yield what happens while `detector` looks at a source: `Opened` first, then the rest as it comes.

    what: a path, an address, a camera's number, or `DRAWN`. Closing the generator stops everything at once.
    Raises ValueError, FileNotFoundError or OSError with one line.
    """
    if what == DRAWN:
        yield from _drawn(detector, watch)
        return
    kind = classify(what)
    if kind == "scene":
        yield from _scene(detector, what, options, watch)
        return
    with open_source(what, recursive=options.recursive, on_event=watch.on_event) as source:
        watch.source = source
        if kind in ("image", "folder"):
            yield Opened(kind, source.name, source.count, decoder=source.decoder)
            yield from _images(detector, source, watch)
        else:
            player = Player(source, at_pace=options.at_pace, loop=options.loop, hold=options.at_pace)
            count = source.count if kind == "video" else None
            yield Opened(kind, source.name, count, source.fps, source.decoder, player)
            with closing(player):
                for result in _results(detector, player, watch):
                    yield _event_of(result, moving=True)
    if kind == "folder":
        for path in getattr(source, "scenes", ()):
            if watch.cancelled:
                return
            yield from _scene(detector, str(path), options, watch)


def _results(detector: Detector, source: Any, watch: Watch, policy: Any = None) -> Iterator[Result]:
    with closing(detector.stream(source, policy=policy, on_start=watch.started)) as results:
        for result in results:
            if result.error is None:
                watch.clock.add(result)
            yield result


def _event_of(result: Result, moving: bool) -> Seen | Failed:
    frame = result.frame
    if result.error is not None:
        return Failed(frame.name, _one_line(result.error))
    height, width = frame.image.shape[:2]
    candidates = Candidates((result.detections,), (height, width))
    return Seen(
        Picture(
            frame.name,
            (height, width),
            candidates,
            frame.image,
            frame_number=frame.number if moving else None,
            timestamp_s=frame.timestamp_s,
            number=frame.number,
        )
    )


def _images(detector: Detector, source: Source, watch: Watch) -> Iterator[Event]:
    begin = time.perf_counter()
    for done, result in enumerate(_results(detector, source, watch), 1):
        yield _event_of(result, moving=False)
        if source.count is not None and source.count > 1:
            yield Progress(done, source.count, _left(begin, done, source.count))


def _drawn(detector: Detector, watch: Watch) -> Iterator[Event]:
    """Detect in the drawn scene of the first start."""
    from deploy.frames import Frame
    from deploy.procedural import draw_scene
    from deploy.tiling import plan_tiles

    image = draw_scene(DRAWN_SEED, DRAWN_HW).image
    yield Opened("drawn", DRAWN)
    tiles = plan_tiles(DRAWN_HW, detector.manifest.input_hw, 0.2)
    shown = Picture(DRAWN, DRAWN_HW, Candidates((), DRAWN_HW), image)
    yield Seen(shown)
    frames = [Frame(i, DRAWN, image[t.y : t.y + t.h, t.x : t.x + t.w]) for i, t in enumerate(tiles)]
    parts = []
    for result in _results(detector, frames, watch):
        if result.error is not None:
            yield Failed(DRAWN, _one_line(result.error))
            continue
        parts.append(result.detections)
        seen = Candidates(tuple(parts), DRAWN_HW, tuple(tiles[: len(parts)]))
        yield Seen(Picture(DRAWN, DRAWN_HW, seen, image))
        yield Progress(len(parts), len(tiles))


def open_pyramid(path: str, manifest: Manifest) -> ScenePyramid:
    """Open a scene for looking at it, with the bands and the stretch that the bundle asks for."""
    from deploy.scenes import open_scene

    from .scene_pyramid import ScenePyramid

    return ScenePyramid(open_scene(path, **_bands(manifest)))


def _bands(manifest: Manifest) -> dict[str, Any]:
    given = manifest.bands
    if given is None:
        return {}
    return {"bands": given.indexes, "percentiles": given.percentiles, "low_high": given.low_high}


def _scene(detector: Detector, path: str, options: Options, watch: Watch) -> Iterator[Event]:
    """Detect in a scene tile by tile; what was found so far is merged every now and then."""
    meet_gdal(path)
    from deploy.scenes import open_scene
    from deploy.tiling import Tile, TileSource, merge, plan_tiles

    with open_scene(path, **_bands(detector.manifest)) as scene:
        pyramid = open_pyramid(path, detector.manifest)
        size_hw = scene.size_hw
        shown = Picture(path, size_hw, Candidates((), size_hw), None, pyramid, scene.georeference)
        yield Opened("scene", path, decoder=f"software: GDAL's {scene.driver}", picture=shown)
        tiles = plan_tiles(size_hw, detector.manifest.input_hw, options.overlap)
        source = watch.source = TileSource(scene, tiles)
        parts: list[Detections] = []
        kept: list[Detections] = []
        where: list[Tile] = []
        begin = last = time.perf_counter()
        cost, iou = 0.0, watch.iou

        def seen() -> Seen:
            nonlocal iou
            if watch.iou != iou:
                iou = watch.iou
                kept[:] = [suppress(part, iou) for part in parts]
            candidates = Candidates(tuple(parts), size_hw, tuple(where))
            picture = Picture(path, size_hw, candidates, None, pyramid, scene.georeference)
            return Seen(picture, merge(kept, where, size_hw), iou)

        for result in _results(detector, source, watch, "block"):
            done = result.frame.number + 1
            if result.error is not None:
                yield Failed(path, _one_line(result.error))
                continue
            pyramid.paint(result.frame.image, *result.frame.corner_xy)
            parts.append(result.detections)
            kept.append(suppress(result.detections, iou))
            where.append(tiles[result.frame.number])
            now = time.perf_counter()
            yield Progress(done, len(tiles), _left(begin, done, len(tiles)))
            if now - last > max(_MERGE_S, cost * _MERGE_SHARE):
                yield seen()
                last = time.perf_counter()
                cost = last - now
        yield seen()
        yield Progress(len(tiles), len(tiles), 0.0)


def _left(begin: float, done: int, total: int) -> float | None:
    """Return the seconds that the rest will take at the pace so far."""
    spent = time.perf_counter() - begin
    return None if spent < 0.5 or not done else spent / done * (total - done)


def _one_line(error: Exception) -> str:
    from deploy.told_errors import told_in_one_line

    return told_in_one_line(error) or f"{type(error).__name__}: {error}"


def open_on(bundle: Path, backend: str, workers: str) -> Detector:
    """Open a bundle so that it gives every candidate, see `sifting`. Raises as `open_detector`."""
    from deploy.detector import open_detector

    from .sifting import CANDIDATES

    return open_detector(bundle, backend, workers=workers, **CANDIDATES)  # type: ignore[arg-type]
