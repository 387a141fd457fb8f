"""Idle options: what was asked for, but would change nothing for these sources, is refused before the work begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .work import Settings, Unit

# Option -> the field of `Settings` that it sets, by what it is for.
_OF_SCENES = {"--bands": "bands", "--stretch": "stretch", "--tile": "tile_px", "--overlap": "overlap"}
_OF_VIDEO = {"--frames": "frames"}
_OF_LIVE = {"--every-frame": "policy", "--stall": "stall_s", "--reconnect": "tries"}


def check_options(
    units: Sequence[Unit],
    sources: Iterable[str | Path],
    settings: Settings,
    formats: Sequence[str],
    *,
    fps: float | None = None,
    workers: str = "threads",
) -> list[str]:
    """Raise ValueError for an option that changes nothing for any source; return a line for each that holds for some.

    units: what `sources` amount to. An option counts as given where its value is not the default one.
    """
    kinds = {unit.kind for unit in units}
    images = sum(len(unit.what) for unit in units if unit.kind == "images")
    scenes = sum(unit.kind == "scene" for unit in units)
    tiling = _given(_OF_SCENES, settings)
    if tiling and not scenes:
        if not images:
            cure = f"leave {_them(tiling)} away"
        elif settings.scene is False:
            cure = f"leave --no-scene away, or {_joined(tiling)}"
        else:
            cure = f"add --scene to cut images into tiles, or leave {_them(tiling)} away"
        raise ValueError(f"{_joined(tiling)}: for scenes that are cut into tiles, and no source is one; {cure}")
    if settings.scene is not None and not kinds & {"images", "scene"}:
        option = "--scene" if settings.scene else "--no-scene"
        raise ValueError(f"{option}: says how images are read, and no source is an image; leave it away")
    if settings.recursive and not any(Path(source).is_dir() for source in sources if "://" not in str(source)):
        raise ValueError("--recursive: for folders, and no source is one; leave it away")
    for options, wanted, what in (
        (_OF_VIDEO, {"video", "live"}, "a video, camera or stream"),
        (_OF_LIVE, {"live"}, "a camera or stream"),
    ):
        given = _given(options, settings)
        if given and not kinds & wanted:
            raise ValueError(f"{_joined(given)}: for {what}, and no source is one; leave {_them(given)} away")
    if fps is not None and "video" not in formats:
        raise ValueError("--fps: for annotated videos, and none is to be written; add --format video, or leave it away")
    if "video" in formats and not kinds & {"video", "live"}:
        raise ValueError(
            "--format video: draws into a video, camera or stream, and no source is one; overlay draws images"
        )
    if settings.postprocess_batch > 1 and workers == "processes":
        raise ValueError(
            "--postprocess-batch: a process decodes what it inferred itself; leave it away, or --workers processes"
        )
    if tiling and images:
        which, them = ("1 image is", "it") if images == 1 else (f"{images} images are", "them")
        return [f"{_joined(tiling)}: for the {_count(scenes, 'scene')} only; {which} not cut, --scene cuts {them} too"]
    return []


def _given(options: dict[str, str], settings: Settings) -> list[str]:
    plain = Settings()
    return [option for option, field in options.items() if getattr(settings, field) != getattr(plain, field)]


def _joined(options: Sequence[str]) -> str:
    return " and ".join(options) if len(options) < 3 else f"{', '.join(options[:-1])} and {options[-1]}"


def _them(options: Sequence[str]) -> str:
    return "it" if len(options) == 1 else "them"


def _count(number: int, what: str) -> str:
    return what if number == 1 else f"{number} {what}s"
