"""What does tiling cost in accuracy? The same drawn objects at the same scale, whole and cut into tiles.

    python -m benchmarks.tiled_accuracy [BUNDLE] [--scenes N] [--json FILE]

Four drawn scenes of the model's input size are laid side by side to one large scene. "whole": each of the four alone,
exactly one model input. "tiled": the large scene through the tiler, whose borders then run through the middle of
objects, and through merging. The interval of the difference is a paired bootstrap over the large scenes: both ways are
scored on the same draws. The last line on standard output is one JSON document.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from deploy.annotations import AnnotatedImage
from deploy.detections import Detections
from deploy.detector import Detector, open_detector
from deploy.measured_on import hand_over, origin
from deploy.metrics import score_detections
from deploy.procedural import draw_scene
from deploy.tiling import Tile, merge, plan_tiles

from .resampled_scenes import average_precision, match

SEED = 52_000
OVERLAP = 0.2
SCORE = 0.01
MOST = 400
RESAMPLES, LEVEL = 1000, 0.95


def mosaic(seeds: list[int], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return four drawn scenes as one: image (2 size, 2 size, 3), boxes (n, 4), class_id (n,)."""
    image = np.empty((2 * size, 2 * size, 3), np.uint8)
    boxes, classes = [], []
    for i, seed in enumerate(seeds):
        scene = draw_scene(seed, (size, size))
        y, x = (i // 2) * size, (i % 2) * size
        image[y : y + size, x : x + size] = scene.image
        boxes.append(scene.xyxy + np.array([x, y, x, y], np.float32))
        classes.append(scene.class_id)
    return image, np.concatenate(boxes), np.concatenate(classes)


def found_in(detector: Detector, image: np.ndarray, tiles: list[Tile]) -> Detections:
    """Return what the tiles of an image hold, merged."""
    parts = [detector.detect([image[t.y : t.y + t.h, t.x : t.x + t.w]])[0] for t in tiles]
    return merge(parts, tiles, (image.shape[0], image.shape[1]))


def measure(bundle: Path, scenes: int) -> dict[str, Any]:
    """Score both ways on `scenes` large scenes; see the module's text. Mean average precision in points, 0 to 100."""
    truth, whole, tiled = [], [], []
    with open_detector(bundle, "onnx", score_threshold=SCORE, multi_label=True, max_detections=1000) as detector:
        size = detector.manifest.input_hw[0]
        quarters = [Tile(x, y, size, size) for y in (0, size) for x in (0, size)]
        tiles = plan_tiles((2 * size, 2 * size), (size, size), OVERLAP)
        for i in range(scenes):
            image, xyxy, class_id = mosaic([SEED + 4 * i + k for k in range(4)], size)
            hw = (2 * size, 2 * size)
            truth.append(AnnotatedImage(Path(f"{i}"), hw, xyxy, class_id, np.zeros(len(xyxy), bool)))
            parts = [detector.detect([image[t.y : t.y + size, t.x : t.x + size]])[0] for t in quarters]
            whole.append(Detections.concat([p.shift(t.x, t.y) for p, t in zip(parts, quarters, strict=True)]))
            tiled.append(found_in(detector, image, tiles))
        names = detector.class_names
    scores = {
        name: score_detections(truth, found, names, max_detections=MOST)
        for name, found in (("whole", whole), ("tiled", tiled))
    }
    points = {n: {"map50": 100 * s.map50, "map50_95": 100 * s.map50_95} for n, s in scores.items()}
    return {
        "bundle": bundle.name,
        "scenes": scenes,
        "boxes": sum(len(image.xyxy) for image in truth),
        "tiles_per_scene": len(tiles),
        "points": points,
        "difference": {k: points["tiled"][k] - points["whole"][k] for k in ("map50", "map50_95")},
        "difference_interval": interval(truth, whole, tiled, len(names)),
        "interval": f"{100 * LEVEL:.0f} %, paired bootstrap over scenes, {RESAMPLES} resamples",
        **origin(),
    }


def interval(
    truth: list[AnnotatedImage], whole: list[Detections], tiled: list[Detections], class_count: int
) -> dict[str, list[float]]:
    """Return the interval of the difference, in points, of mAP50 and mAP50-95."""
    both = [match(truth, found, class_count, MOST) for found in (whole, tiled)]
    draws = np.random.default_rng(SEED).multinomial(len(truth), np.full(len(truth), 1 / len(truth)), RESAMPLES)
    figures = np.array([[average_precision(one, draw) for one in both] for draw in draws])
    low, high = 100 * np.quantile(figures[:, 1] - figures[:, 0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {name: [float(low[i]), float(high[i])] for i, name in enumerate(("map50", "map50_95"))}


def main() -> int:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiled_accuracy", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?", type=Path, default=Path("deploy/zoo/procedural"))
    parser.add_argument("--scenes", type=int, default=100, help="large scenes to draw (default 100)")
    parser.add_argument("--json", type=Path, help="write the document here too")
    options = parser.parse_args()
    if options.scenes < 2:
        parser.error(f"--scenes must be at least 2, or there is nothing to draw from; got {options.scenes}")
    result = measure(options.bundle, options.scenes)
    for name, row in result["points"].items():
        print(f"{name:<6} mAP50 {row['map50']:.1f}  mAP50-95 {row['map50_95']:.1f}")
    for name, (low, high) in result["difference_interval"].items():
        print(f"difference {name} {result['difference'][name]:+.2f} [{low:+.2f}, {high:+.2f}]")
    return hand_over(result, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
