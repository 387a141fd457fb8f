"""Detect objects in images, folders, scenes, video and live streams, and write what was found in several formats."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .backends.availability import explain_backends
from .detector import TIMEOUT_S, Workers, open_detector
from .frames import Record
from .manifest import Manifest, load_manifest
from .sinks import SinkSet, open_sinks
from .sources import ReadError, SourceEvent
from .work import Settings, Unit, Watch, records_of, units_of

Engine = Literal["local", "ray"]
SHOWN_FAILURES = 5
# An image that is so many times larger than the model's input is worth a word.
SHRUNK = 3.0


def run(
    bundle: Path,
    sources: Sequence[str],
    out: Path,
    formats: Sequence[str] = ("coco", "overlay"),
    backend: str = "auto",
    score: float = 0.25,
    iou: float = 0.7,
    *,
    settings: Settings | None = None,
    contexts_per_core: int = 2,
    workers: Workers = "threads",
    timeout_s: float | None = TIMEOUT_S,
    resume: bool = False,
    fps: float | None = None,
    engine: Engine = "local",
) -> list[Path]:
    """Detect in every source and return the files and folders written below `out`.

    An image that cannot be read is told and passed over; the command then fails at its end, with all others written.
    resume: pass over what an earlier run with the same settings has finished. engine: "ray" spreads images, scenes and
    videos over a Ray cluster. Raises ValueError, FileNotFoundError or OSError.
    """
    for name, value in (("--score", score), ("--iou", iou)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value}")
    if engine == "ray" and (contexts_per_core, workers, timeout_s) != (2, "threads", TIMEOUT_S):
        raise ValueError("--contexts, --workers and --timeout belong to one machine; leave them away with --engine ray")
    settings = replace(settings or Settings(), pictures=bool({"overlay", "video"} & set(formats)))
    units = units_of(sources, settings, images_each=32 if engine == "ray" else None)
    _check_streams(units, len(units), engine)
    manifest = load_manifest(bundle)
    info = {"bundle": manifest.name, "model": _digest(manifest.files), "score": score, "iou": iou, **_tiling(settings)}
    options = {"score_threshold": score, "iou_threshold": iou}
    console = Console()
    with open_sinks(out, formats, manifest.class_names, info=info, resume=resume, fps=fps) as sinks:
        if sinks.resumed:
            console.print(f"{sinks.resumed} finished before are kept", highlight=False)
        told = _Told(console, manifest.class_names, units)
        scenes = {unit.what[0] for unit in units if unit.kind == "scene"}
        begin = time.perf_counter()
        with told.progress:
            if engine == "ray":
                from .ray_engine import records_by_ray

                made = records_by_ray(bundle, units, settings, sinks.done, backend=backend, options=options)
                _write(made, sinks, told, manifest, scenes)
            else:
                with open_detector(
                    bundle,
                    backend,
                    contexts_per_core=contexts_per_core,
                    workers=workers,
                    timeout_s=timeout_s,
                    **options,
                ) as detector:
                    _tell_backend(console, bundle, manifest, detector.backend.name, backend)
                    _write(_local(detector, units, settings, sinks, told), sinks, told, manifest, scenes)
    told.summary(time.perf_counter() - begin, sinks)
    if told.failures:
        first = "; ".join(str(f.error) for f in told.failures[:SHOWN_FAILURES])
        more = f" (and {len(told.failures) - SHOWN_FAILURES} more)" if len(told.failures) > SHOWN_FAILURES else ""
        raise ValueError(f"{len(told.failures)} could not be read, all others are written: {first}{more}")
    return sinks.paths


def command(
    bundle: Path,
    sources: Sequence[str],
    out: Path,
    formats: str,
    backend: str,
    score: float,
    iou: float,
    typed: dict[str, Any],
    running: dict[str, Any],
) -> None:
    """Run `rsedge detect` as typed. formats: with commas. typed: options of `settings_from`; running: of `run`."""
    names = [name.strip() for name in formats.split(",") if name.strip()]
    run(bundle, sources, out, names, backend, score, iou, settings=settings_from(**typed), **running)


def settings_from(*, bands: str | None, stretch: str | None, **others: Any) -> Settings:
    """Return settings from options as they are typed: bands "4,3,2", stretch "2,98". Raises ValueError."""
    chosen: tuple[int, ...] | None = None
    if bands is not None:
        parts = [part.strip() for part in bands.split(",")]
        if len(parts) not in (1, 3) or not all(part.isdecimal() and int(part) for part in parts):
            raise ValueError(f"--bands must be three numbers from 1, such as 4,3,2, or one for grey; got {bands!r}")
        chosen = tuple(int(part) for part in parts)
    limits: tuple[float, float] | None = None
    if stretch is not None:
        try:
            low, high = (float(part) for part in stretch.split(","))
        except ValueError:
            raise ValueError(f"--stretch must be two percentiles, such as 2,98; got {stretch!r}") from None
        if not 0 <= low < high <= 100:
            raise ValueError(f"--stretch must be from 0 to 100, the lower first; got {stretch!r}")
        limits = (low, high)
    return Settings(bands=chosen, stretch=limits, **others)


def _tell_backend(console: Console, bundle: Path, manifest: Manifest, opened: str, asked: str) -> None:
    """Say what runs the model, and why it is nothing better."""
    console.print(f"{manifest.name} on {opened}", highlight=False)
    if asked != "auto":
        return
    better = itertools.takewhile(lambda report: report.kind != opened, explain_backends(bundle, manifest))
    for reason in dict.fromkeys(report.reason for report in better):
        console.print(reason, style="dim", highlight=False, markup=False, soft_wrap=True)


def _local(
    detector: Any, units: Sequence[Unit], settings: Settings, sinks: SinkSet, told: _Told
) -> Generator[Record | ReadError, None, None]:
    for unit in units:
        told.begin(unit)
        with closing(records_of(detector, unit, settings, sinks.done, told.watch)) as records:
            yield from records
        if unit.kind == "video" and settings.frames is None:  # a stream has no end, a part of a video is not it
            sinks.source_finished(unit.what[0])


def _write(
    records: Iterable[Record | ReadError], sinks: SinkSet, told: _Told, manifest: Manifest, scenes: set[str]
) -> None:
    for record in records:
        if isinstance(record, ReadError):
            told.failed(record)
        else:
            sinks.add(record)
            told.found(record, manifest.input_hw, tiled=record.name in scenes)


class _Told:
    """What the user sees while it runs, and at the end."""

    def __init__(self, console: Console, class_names: Sequence[str], units: Sequence[Unit]) -> None:
        self.console, self.class_names = console, class_names
        self.counts = [0] * len(class_names)
        self.records = 0
        self.failures: list[ReadError] = []
        self.dropped: list[Any] = []
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        images = sum(len(unit.what) if unit.kind == "images" else 1 for unit in units)
        self.task = self.progress.add_task("detecting", total=images)
        self.tiles = self.progress.add_task("tiles", total=None, visible=False)
        self.moving, self.shrunk = False, 0
        self.watch = Watch(tile=self._tile, event=self._event, scheduler=self.dropped.append)

    def begin(self, unit: Unit) -> None:
        self.moving = unit.kind in ("video", "live")
        self.progress.update(self.tiles, visible=unit.kind == "scene", completed=0)
        if self.moving:
            self.progress.update(self.task, total=None)

    def found(self, record: Record, input_hw: tuple[int, int], *, tiled: bool) -> None:
        self.records += 1
        self.shrunk += not tiled and max(s / m for s, m in zip(record.size_hw, input_hw, strict=True)) > SHRUNK
        for class_id in record.detections.class_id.tolist():
            self.counts[class_id] += 1
        self.progress.advance(self.task)

    def failed(self, failure: ReadError) -> None:
        self.failures.append(failure)
        self.progress.advance(self.task)
        told = f"passed over: {failure.error}"
        self.console.print(told, style="yellow", highlight=False, markup=False, soft_wrap=True)

    def summary(self, seconds: float, sinks: SinkSet) -> None:
        seen = ", ".join(f"{n} {name}" for name, n in zip(self.class_names, self.counts, strict=True) if n) or "nothing"
        dropped = sum(scheduler.dropped for scheduler in self.dropped)
        late = f", {dropped} frames dropped for newer ones" if dropped else ""
        what = "frames" if self.moving else "images"
        told = f"{self.records} {what} in {seconds:.1f} s{late}; {sum(self.counts)} boxes: {seen}"
        if not self.records and sinks.resumed:
            told = f"nothing left to do, {sinks.resumed} {what} were finished before"
        self.console.print(told, highlight=False, soft_wrap=True)
        if self.shrunk:
            self.console.print(
                f"{self.shrunk} images were shrunk more than {SHRUNK:g} times, small objects vanish so; "
                "--scene cuts them into tiles",
                style="yellow",
                highlight=False,
                soft_wrap=True,
            )
        written = [str(path) for path in sinks.paths if path.exists()]
        for line in (*sinks.notes(), f"wrote {', '.join(written)}" if written else "nothing was written"):
            self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _tile(self, done: int, total: int) -> None:
        self.progress.update(self.tiles, completed=done, total=total)

    def _event(self, event: SourceEvent) -> None:
        self.console.print(event.text, style="dim", highlight=False, markup=False)


def _check_streams(units: Sequence[Unit], count: int, engine: Engine) -> None:
    live = [unit for unit in units if unit.kind == "live"]
    if live and count > 1:
        raise ValueError(f"{live[0].name} has no end: name a camera or stream alone, or run one command for each")
    if live and engine == "ray":
        raise ValueError(f"{live[0].name} is live: --engine ray takes images, scenes and videos; leave --engine away")


def _digest(files: Any) -> dict[str, str]:
    return {role: file.sha256[:12] for role, file in sorted(files.items()) if role in ("onnx", "rknn")}


def _tiling(settings: Settings) -> dict[str, Any]:
    wanted = ("scene", "tile_px", "overlap", "bands", "stretch")
    return {name: value for name, value in asdict(settings).items() if name in wanted}
