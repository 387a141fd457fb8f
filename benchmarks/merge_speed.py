"""Time merging what the tiles of a large scene found, beside comparing each box with all others.

    python -m benchmarks.merge_speed [--json FILE] [--rounds N]

Objects are drawn over a scene and seen by every tile that holds a part of them, cut at its borders, with a little
noise, as a detector does. Two scenes: a wide one (20,000 x 20,000 in tiles of 512, a few objects a tile) and a crowded
one (3,000 x 3,000, hundreds of objects a tile); 14,000 tile boxes each. Beside it stands what comparing each box with
all others costs for the overlaps alone, row by row in NumPy; it is timed on some rows and told for all. Reported are
medians in milliseconds; the last line on standard output is one JSON document.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from deploy.detections import Detections
from deploy.measured_on import hand_over, origin
from deploy.tiling import Tile, merge, plan_tiles

from .postprocess_speed import medians_ms

SEED = 20240611
BOXES = 14000
CLASSES = 10
ROWS = 50
TILE, OVERLAP = 512, 0.2


def see(
    objects: np.ndarray, class_id: np.ndarray, tiles: list[Tile], rng: np.random.Generator, noise_px: float = 1.0
) -> list[Detections]:
    """Return what a detector would find of objects in each tile: their parts, cut at its borders, with noise.

    objects: (n, 4) xyxy in pixels of the scene. A part is seen where it is at least 6 pixels wide and high.
    """
    found = []
    for tile in tiles:
        origin_xy = np.array([tile.x, tile.y, tile.x, tile.y])
        limits = np.array([tile.w, tile.h, tile.w, tile.h])
        part = np.clip(objects - origin_xy, 0, limits)
        seen = ((part[:, 2:] - part[:, :2]) >= 6).all(axis=1)
        part = np.clip(part[seen] + rng.normal(0, noise_px, (int(seen.sum()), 4)), 0, limits)
        score = rng.uniform(0.3, 0.95, len(part))
        found.append(Detections(part, score, class_id[seen]))
    return found


def draw_scene(side: int, boxes: int, seed: int) -> tuple[list[Detections], list[Tile]]:
    """Draw objects of 12 to 90 pixels until their tiles hold exactly `boxes` boxes."""
    rng = np.random.default_rng(seed)
    tiles = plan_tiles((side, side), (TILE, TILE), OVERLAP)
    size_wh = np.exp(rng.uniform(np.log(12), np.log(90), (boxes, 2)))
    corner = rng.uniform(0, side - size_wh)
    found = see(np.concatenate([corner, corner + size_wh], axis=1), rng.integers(0, CLASSES, boxes), tiles, rng)
    rest, kept = boxes, []
    for i in rng.permutation(len(found)):
        kept.append((i, found[i].select(slice(0, rest))))
        rest -= len(kept[-1][1])
    return [part for _, part in sorted(kept, key=lambda item: item[0])], tiles


def measure(side: int, rounds: int) -> dict[str, float | int]:
    """Time merging one scene of `side` x `side` pixels."""
    found, tiles = draw_scene(side, BOXES, SEED + side)
    merged = merge(found, tiles, (side, side))
    joined = Detections.concat(found)

    def compare_rows() -> None:
        for row in joined.xyxy[:ROWS]:
            size = np.minimum(row[2:], joined.xyxy[:, 2:]) - np.maximum(row[:2], joined.xyxy[:, :2])
            np.maximum(size, 0).prod(axis=1)

    times = medians_ms({"merge_ms": lambda: merge(found, tiles, (side, side)), "rows_ms": compare_rows}, rounds, {})
    return {
        "scene_px": side,
        "tiles": len(tiles),
        "tile_boxes": len(joined),
        "merged_boxes": len(merged),
        "merge_ms": round(times["merge_ms"], 3),
        "row_by_row_ms": round(times["rows_ms"] / ROWS * len(joined), 1),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure both scenes, print a table and, last, one JSON document."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.merge_speed", description="Time merging the boxes of a scene's tiles."
    )
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    parser.add_argument("--rounds", type=int, default=30, help="rounds per scene (default 30)")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    results = [measure(side, options.rounds) for side in (20000, 3000)]
    document = {
        "benchmark": "merge_speed",
        "classes": CLASSES,
        "tile_px": TILE,
        "overlap": OVERLAP,
        "unit": "median ms per scene",
        "results": results,
        "rounds": options.rounds,
        "seed": SEED,
        **origin(),
    }
    for key in results[0]:
        print(f"{key:<16}" + "".join(f"{row[key]:>12}" for row in results))
    return hand_over(document, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
