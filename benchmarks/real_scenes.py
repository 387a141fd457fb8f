"""Precision and recall of a bundle on real scenes and videos whose true boxes are known.

    python -m benchmarks.real_scenes BUNDLE --scenes NAME=PATH ... [--tile 384,512,768] [--score 0.25,0.3]
        [--map car=vehicle] [--every N] [--out DIR] [--json FILE]

A picture of any size is cut into tiles as `rsedge detect` cuts scenes, with the same overlap and the same merging; tile
0 gives the whole picture to the network instead. Boxes are judged at IoU 0.5: best score first, a detection takes the
free true box of its class that it overlaps most. What is of a class that nobody annotated in a picture is counted as
"not judged" and is neither right nor wrong. Where --out names a folder, each picture and one frame of each video is
drawn there with hits, misses and false alarms in strokes of their own, at the tile and score of the best F1.

`benchmarks.real_annotations` says in which forms the true boxes may lie beside the pictures. A name without a path in
front of it is the folder's or file's own. The last line on standard output is one JSON document, without paths.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deploy.annotations import AnnotatedImage
from deploy.detections import Detections
from deploy.detector import Detector, open_detector
from deploy.frames import Frame
from deploy.manifest import load_manifest
from deploy.measured_on import hand_over, origin
from deploy.scenes import open_scene
from deploy.sources import ReadError
from deploy.tiling import Tile, TileSource, merge, plan_tiles
from deploy.video import VideoSource

from .real_annotations import Annotated, mapping_of, read_annotated
from .real_overlay import write_judged

IOU = 0.5
OVERLAP = 0.2
# Recall is told apart by the side (root of the area) of the true box in model pixels; edges of the bins.
SIDES_PX = (0, 8, 16, 32, np.inf)


@dataclass(frozen=True, eq=False)
class Judged:
    """One picture's detections beside its truth. right: (n,) bool, of the detections. found: (g,) bool, of the truth.

    not_judged: detections of classes that nobody annotated there; they are in none of the arrays.
    """

    truth: AnnotatedImage
    detections: Detections
    right: np.ndarray
    found: np.ndarray
    not_judged: int


@dataclass
class _Counts:
    hits: int = 0
    false_alarms: int = 0
    misses: int = 0

    def to_json(self) -> dict[str, Any]:
        boxes, told = self.hits + self.misses, self.hits + self.false_alarms
        return {
            "boxes": boxes,
            "hits": self.hits,
            "misses": self.misses,
            "false_alarms": self.false_alarms,
            "precision": self.hits / told if told else None,
            "recall": self.hits / boxes if boxes else None,
        }


@dataclass
class _Row:
    """What one tile size and score came to over all pictures of a set."""

    tile_px: int
    score: float
    counts: dict[int, _Counts] = field(default_factory=dict)
    not_judged: int = 0
    sides: list[list[int]] = field(default_factory=lambda: [[0, 0] for _ in SIDES_PX[1:]])

    def add(self, one: Judged, scale: float) -> None:
        truth = one.truth
        for k in np.union1d(truth.class_id, one.detections.class_id).tolist():
            own = self.counts.setdefault(int(k), _Counts())
            mine, theirs = one.detections.class_id == k, (truth.class_id == k) & ~truth.difficult
            own.hits += int(one.found[theirs].sum())
            own.misses += int((~one.found[theirs]).sum())
            own.false_alarms += int((~one.right[mine]).sum())
        self.not_judged += one.not_judged
        side = np.sqrt(np.prod(truth.xyxy[:, 2:] - truth.xyxy[:, :2], axis=1)) * scale
        for place in range(len(SIDES_PX) - 1):
            inside = (side >= SIDES_PX[place]) & (side < SIDES_PX[place + 1]) & ~truth.difficult
            self.sides[place][0] += int(one.found[inside].sum())
            self.sides[place][1] += int(inside.sum())

    @property
    def total(self) -> _Counts:
        parts = self.counts.values()
        return _Counts(sum(p.hits for p in parts), sum(p.false_alarms for p in parts), sum(p.misses for p in parts))

    @property
    def f1(self) -> float:
        total = self.total
        return 2 * total.hits / max(1, 2 * total.hits + total.false_alarms + total.misses)

    def to_json(self, class_names: Sequence[str]) -> dict[str, Any]:
        return {
            "tile_px": self.tile_px or "whole",
            "score": self.score,
            **self.total.to_json(),
            "f1": self.f1,
            "not_judged": self.not_judged,
            "classes": {class_names[k]: self.counts[k].to_json() for k in sorted(self.counts)},
            "recall_by_side_model_px": [
                {"from": low, "below": None if np.isinf(high) else high, "boxes": count,
                 "recall": hits / count if count else None}
                for low, high, (hits, count) in zip(SIDES_PX, SIDES_PX[1:], self.sides, strict=False)
            ],
        }  # fmt: skip


def judge(truth: AnnotatedImage, found: Detections, classes: frozenset[int], iou: float = IOU) -> Judged:
    """Match detections, best score first, each to the free true box of its class that it overlaps most, from `iou` up.

    classes: that were annotated. One that only overlaps a difficult box is left out, as are those of other classes.
    """
    inside = np.isin(found.class_id, sorted(classes))
    kept = found.select(np.flatnonzero(inside)[np.argsort(-found.score[inside], kind="stable")])
    a, b = kept.xyxy[:, None].astype(float), truth.xyxy[None].astype(float)
    size = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(axis=-1)
    areas = [(box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (a, b)]
    overlap = size / np.maximum(areas[0] + areas[1] - size, 1e-9)
    overlap[kept.class_id[:, None] != truth.class_id[None]] = 0.0
    free, right, counted = ~truth.difficult, np.zeros(len(kept), bool), np.ones(len(kept), bool)
    taken = np.zeros(len(truth.xyxy), bool)
    for row in range(len(kept)):
        near = np.where(free & ~taken, overlap[row], -1.0)
        best = int(near.argmax()) if len(near) else -1
        if best >= 0 and near[best] >= iou:
            right[row] = taken[best] = True
        else:
            counted[row] = not (overlap[row][truth.difficult] >= iou).any()
    return Judged(truth, kept.select(counted), right[counted], taken, int((~inside).sum()))


def tiles_of(size_hw: tuple[int, int], tile_px: int) -> list[Tile]:
    """Return the tiles of a picture; `tile_px` 0: itself as the only one."""
    return plan_tiles(size_hw, (tile_px, tile_px) if tile_px else size_hw, OVERLAP)


def found_in(
    detector: Detector, subject: Annotated, tile_px: int, every: int
) -> Iterator[tuple[int, np.ndarray | None, list[Detections], list[Tile], tuple[int, int]]]:
    """Yield (frame, image, detections of each tile, tiles, size) of a picture, or of every so manieth frame of a video.

    Raises ValueError or OSError for what cannot be read, and what the runtime raised.
    """
    if not subject.is_video:
        with open_scene(subject.path) as scene:
            source = TileSource(scene, tiles_of(scene.size_hw, tile_px))
            found, tiles = [], []
            for result in detector.stream(source, policy="block"):
                if result.error is not None:
                    raise result.error
                found.append(result.detections)
                tiles.append(source.tiles[result.frame.number])
            yield 0, scene.read(0, 0, scene.size_hw[1], scene.size_hw[0]), found, tiles, scene.size_hw
        return
    waiting: list[tuple[Frame, list[Tile]]] = []

    def cut() -> Iterator[Frame]:
        number = 0
        with VideoSource(str(subject.path)) as video:
            for frame in video:
                if isinstance(frame, ReadError):
                    raise ValueError(f"frame {frame.number} cannot be read: {frame.error}")
                if frame.number % every or frame.number >= len(subject.truth):
                    continue
                tiles = tiles_of((frame.image.shape[0], frame.image.shape[1]), tile_px)
                waiting.append((frame, tiles))
                for t in tiles:
                    part = np.ascontiguousarray(frame.image[t.y : t.y + t.h, t.x : t.x + t.w])
                    yield Frame(number, frame.name, part, corner_xy=(t.x, t.y))
                    number += 1

    parts: list[Detections] = []
    with closing(detector.stream(cut(), policy="block")) as stream:
        for result in stream:
            if result.error is not None:
                raise result.error
            parts.append(result.detections)
            frame, tiles = waiting[0]
            if len(parts) == len(tiles):
                yield frame.number, frame.image, parts, tiles, (frame.image.shape[0], frame.image.shape[1])
                waiting.pop(0)
                parts = []


def measure(
    detector: Detector,
    sets: dict[str, list[Annotated]],
    tiles_px: Sequence[int],
    scores: Sequence[float],
    *,
    every: int = 1,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """Judge every set at every tile size and score; see the module's text.

    detector: its score threshold is at most the least of `scores`. every: take every so manieth frame of a video. out:
    folder for pictures. Raises ValueError or OSError with one line.
    """
    names, documents = detector.class_names, []
    for name, subjects in sets.items():
        rows = [_Row(tile, score) for tile in tiles_px for score in scores]
        shown: dict[tuple[int, int, float], tuple[Path, np.ndarray, Judged]] = {}
        used = [0, 0]
        sides: list[np.ndarray] = []
        for tile in tiles_px:
            for place, subject in enumerate(subjects):
                middle = (len(subject.truth) - 1) // every // 2 * every
                for number, image, parts, tiles, size_hw in found_in(detector, subject, tile, every):
                    truth = subject.truth[number]
                    if tile == tiles_px[0]:
                        used[0] += 1
                        used[1] += int((~truth.difficult).sum())
                        sides.append(np.sqrt(np.prod(truth.xyxy[:, 2:] - truth.xyxy[:, :2], axis=1)))
                    scale = min(
                        h / t for h, t in zip(detector.manifest.input_hw, (tiles[0].h, tiles[0].w), strict=True)
                    )
                    for row in (row for row in rows if row.tile_px == tile):
                        # Before merging, as `rsedge detect --score` has it: a weak box must not unite stronger ones.
                        strong = [part.select(part.score >= row.score) for part in parts]
                        one = judge(truth, merge(strong, tiles, size_hw), subject.judged)
                        row.add(one, scale)
                        if out is not None and image is not None and number == middle:
                            shown[place, tile, row.score] = (subject.path, image, one)
        best = max(rows, key=lambda row: row.f1)
        side = np.concatenate(sides)
        documents.append(
            {
                "name": name,
                "kind": "video" if subjects[0].is_video else "pictures",
                "images": used[0],
                "boxes": used[1],
                "median_side_px": round(float(np.median(side)), 1) if len(side) else None,
                "best": {"tile_px": best.tile_px or "whole", "score": best.score},
                "rows": [row.to_json(names) for row in rows],
            }
        )
        for (place, tile, score), (_, image, one) in shown.items():
            if out is not None and (tile, score) == (best.tile_px, best.score):
                told = f"{name}{f'_{place}' if len(subjects) > 1 else ''}_tile_{tile or 'whole'}_score_{score:g}"
                write_judged(out / f"{told}.jpg", image, one.truth, one.detections, one.right, one.found)
    return documents


def numbers_of(text: str, what: str, low: float, high: float) -> list[float]:
    """Return the numbers of "0.25,0.3". Raises ValueError."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(low <= value <= high for value in found):
        raise ValueError(f"{what} must be numbers from {low:g} to {high:g} with commas between them, got {text!r}")
    return list(dict.fromkeys(found))


def sets_of(words: Sequence[str], class_names: Sequence[str], mapping: dict[str, str]) -> dict[str, list[Annotated]]:
    """Return the annotated pictures by name of options `NAME=PATH` or `PATH`; one name may come several times."""
    sets: dict[str, list[Annotated]] = {}
    for word in words:
        named = re.fullmatch(r"([\w-]+)=(.+)", word)
        path = Path(named[2] if named else word)
        found = read_annotated(path, class_names, mapping)
        sets.setdefault(named[1] if named else path.stem, []).extend(found)
    return sets


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, measure, print a table and, last, one JSON document."""
    text = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_scenes", description=text)
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--scenes", action="extend", nargs="+", required=True, metavar="[NAME=]PATH", help="folder or file"
    )
    parser.add_argument("--tile", default="512", help="sides of tiles in pixels, 0 for the whole picture (default 512)")
    parser.add_argument("--score", default="0.25", help="score thresholds (default 0.25)")
    parser.add_argument(
        "--map", action="extend", nargs="+", default=[], metavar="FROM=TO", help="annotated class = bundle's class"
    )
    parser.add_argument("--every", type=int, default=1, help="take one frame of a video in so many (default 1: all)")
    parser.add_argument("--backend", default="onnx", help="as of rsedge detect (default onnx)")
    parser.add_argument("--out", type=Path, help="folder for pictures with hits, misses and false alarms")
    parser.add_argument("--json", type=Path, help="write the document here too")
    options = parser.parse_args(arguments)
    try:
        tiles_px = [int(value) for value in numbers_of(options.tile, "--tile", 0, 1e5)]
        if any(0 < value < 32 for value in tiles_px):
            raise ValueError(f"--tile must be 0 (the whole picture) or from 32 pixels, got {options.tile}")
        scores = numbers_of(options.score, "--score", 0.001, 0.999)
        if options.every < 1:
            raise ValueError(f"--every must be at least 1, got {options.every}")
        manifest = load_manifest(options.bundle)
        sets = sets_of(options.scenes, manifest.class_names, mapping_of(options.map))
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
        with open_detector(options.bundle, options.backend, score_threshold=min(scores)) as detector:
            found = measure(detector, sets, tiles_px, scores, every=options.every, out=options.out)
            ran = detector.backend.name
    except (ValueError, OSError) as error:
        print(f"real_scenes: {error}", file=sys.stderr)
        return 2
    for one in found:
        print(
            f"{one['name']}: {one['images']} images, {one['boxes']} boxes, median side {one['median_side_px']} pixels"
        )
        for row in one["rows"]:
            print(
                f"  tile {row['tile_px']!s:>5}  score {row['score']:.2f}  precision {_share(row['precision'])}  recall "
                f"{_share(row['recall'])}  {row['hits']} hits, {row['misses']} misses, {row['false_alarms']} false "
                f"alarms, {row['not_judged']} not judged"
            )
    document = {
        "benchmark": "real_scenes", "bundle": manifest.name, "input_hw": list(manifest.input_hw), "backend": ran,
        "iou": IOU, "overlap": OVERLAP, "every": options.every, "map": mapping_of(options.map), "sets": found,
        **origin(),
    }  # fmt: skip
    return hand_over(document, options.json)


def _share(value: float | None) -> str:
    return "   -" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
