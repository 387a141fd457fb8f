"""Detect objects in images, folders, scenes, video and live streams, and write what was found in several formats."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from .backends.availability import explain_backends
from .detector import TIMEOUT_S, Workers, open_detector
from .idle_options import check_options
from .manifest import Manifest, load_manifest
from .quiet_libraries import quiet_libraries
from .run_told import Output, Told
from .scene_parts import SceneBegun, TileFound
from .sinks import SinkSet, open_sinks
from .sources import ReadError
from .work import Made, Settings, Unit, pieces_of, units_of

Engine = Literal["local", "ray"]


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
    overwrite: bool = False,
    fps: float | None = None,
    engine: Engine = "local",
) -> list[Path]:
    """Detect in every source and return the files and folders written below `out`.

    An image that cannot be read is told and passed over; the command then fails at its end, with all others written.
    resume: pass over what an earlier run with the same settings has finished. overwrite: replace an earlier run, which
    is refused otherwise. engine: "ray" spreads images, scenes and
    videos over a Ray cluster. Raises ValueError, FileNotFoundError or OSError; ValueError also for an option that would
    change nothing for these sources, before anything is read.
    """
    for name, value in (("--score", score), ("--iou", iou)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file, a folder is needed; choose another")
    if engine == "ray" and (contexts_per_core, workers, timeout_s) != (2, "threads", TIMEOUT_S):
        raise ValueError("--contexts, --workers and --timeout belong to one machine; leave them away with --engine ray")
    settings = replace(settings or Settings(), pictures=bool({"overlay", "video"} & set(formats)))
    units = units_of(sources, settings, images_each=32 if engine == "ray" else None)
    _check_streams(units, len(units), engine)
    notes = check_options(units, sources, settings, formats, fps=fps, workers=workers)
    if backend == "onnx":
        _check_timeout(timeout_s, None, backend)
    manifest = load_manifest(bundle)
    info = {"bundle": manifest.name, "model": _digest(manifest.files), "score": score, "iou": iou, **_tiling(settings)}
    options: dict[str, Any] = {"score_threshold": score, "iou_threshold": iou}
    console = Output()
    names = [what for unit in units for what in unit.what]
    sinks = open_sinks(
        out, formats, manifest.class_names, info=info, resume=resume, overwrite=overwrite, names=names, fps=fps
    )
    local = engine == "local"
    told = Told(console, manifest.class_names, manifest.input_hw, units, sinks.done, settings.frames, in_turn=local)
    try:
        with sinks, told.progress:
            if sinks.resumed:
                console.print(f"{sinks.resumed} finished before are kept", highlight=False)
            for name in sinks.changed:
                told.warn(f"{name}: has changed since it was done, it is done again")
            for note in notes:
                told.warn(note)
            if engine == "ray":
                from .ray_engine import records_by_ray

                made = records_by_ray(
                    bundle,
                    units,
                    settings,
                    sinks.done,
                    backend=backend,
                    options=options,
                    begun=told.begin,
                    ended=lambda unit, last: _note_end(unit, last, settings, sinks),
                    event=told.watch.event,
                )
                _write(made, sinks, told)
            else:
                options |= {"contexts_per_core": contexts_per_core, "workers": workers, "timeout_s": timeout_s}
                with open_detector(bundle, backend, **options) as detector:
                    _check_timeout(timeout_s, detector.timeout_s, detector.backend.name)
                    _tell_backend(console, bundle, manifest, detector.backend.name, backend)
                    told.start()
                    _write(_local(detector, units, settings, sinks, told), sinks, told)
    except (KeyboardInterrupt, SystemExit):  # the way to end a stream; what came until then is whole by now
        if told.tally.records or sinks.unfinished:
            told.summary(sinks)
        raise
    told.end(sinks)
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
    with quiet_libraries():
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
    detector: Any, units: Sequence[Unit], settings: Settings, sinks: SinkSet, told: Told
) -> Generator[Made, None, None]:
    for unit in units:
        told.begin(unit)
        record: Made | None = None
        with closing(pieces_of(detector, unit, settings, sinks.done, told.watch)) as records:
            for record in records:
                yield record
        _note_end(unit, record, settings, sinks)


def _note_end(unit: Unit, last: Made | None, settings: Settings, sinks: SinkSet) -> None:
    """Have a video that was seen to its end count as finished; a part of one, or one that broke off, is not."""
    if unit.kind != "video" or settings.frames is not None or isinstance(last, ReadError):
        return
    if unit.what[0] not in sinks.done.names:
        sinks.source_finished(unit.what[0])


def _write(records: Generator[Made, None, None], sinks: SinkSet, told: Told) -> None:
    """Write what comes; however that ends, on a full disk too, the contexts stop before their detector closes."""
    with closing(records):
        for record in records:
            if isinstance(record, ReadError):
                told.failed(record)
            elif isinstance(record, SceneBegun):
                sinks.begin_scene(record)
            elif isinstance(record, TileFound):
                sinks.add_tile(record)
            else:
                sinks.add(record)
                told.found(record)


def _check_timeout(asked: float | None, used: float | None, backend: str) -> None:
    """Refuse a timeout that nothing looks at: it replaces contexts of an NPU."""
    if used is None and asked not in (None, TIMEOUT_S):
        raise ValueError(
            f"--timeout: replaces a context of the NPU that hangs, the backend {backend} has none; leave it away"
        )


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
