"""Detect objects in images and folders: COCO-style JSON and an overlay picture for each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from .detector import open_detector
from .images import list_images, read_image
from .sinks import CocoSink, unused_name, write_overlay


def run(
    bundle: Path, sources: Sequence[Path], out: Path, backend: str = "auto", score: float = 0.25, iou: float = 0.7
) -> Path:
    """Detect in every image of `sources` (files or folders) and return the JSON file written.

    Writes `out/detections.json` and `out/overlays/NAME.jpg`. An image that cannot be read stops the run with its name;
    what was found before is written first. Raises ValueError, FileNotFoundError or OSError.
    """
    for name, value in (("--score", score), ("--iou", iou)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value}")
    console = Console()
    paths = [path for source in sources for path in list_images(source)]
    overlays = out / "overlays"
    overlays.mkdir(parents=True, exist_ok=True)
    detector = open_detector(bundle, backend, score_threshold=score, iou_threshold=iou)
    names = detector.manifest.class_names
    sink = CocoSink(out / "detections.json", names, {"bundle": detector.manifest.name, "score": score, "iou": iou})
    taken: set[str] = set()
    counts = [0] * len(names)
    try:
        for path in track(paths, "detecting", console=console, disable=not console.is_terminal, transient=True):
            image = read_image(path)
            found = detector.detect([image])[0]
            sink.add(str(path), image.shape[:2], found)
            write_overlay(overlays / unused_name(f"{path.stem}.jpg", taken), image, found, names)
            for class_id in found.class_id.tolist():
                counts[class_id] += 1
    finally:
        detector.close()
        if sink.count:  # a run that failed on its first image leaves the result of an earlier one alone
            sink.close()
    seen = ", ".join(f"{n} {name}" for name, n in zip(names, counts, strict=True) if n) or "nothing"
    console.print(f"{len(paths)} images, {sum(counts)} boxes: {seen}", highlight=False)
    console.print(f"wrote {sink.path} and {overlays}", highlight=False, soft_wrap=True)
    return sink.path
