"""Time post-processing: lean NumPy on int8 and on float heads against a plain per-box loop.

    python -m benchmarks.postprocess_speed [--json FILE] [--rounds N]

Heads are drawn, not captured: a quiet background, and per object 5 to 8 neighbouring cells that fire with nearly the
same box, as trained detectors do. All contestants take turns in every round, so that a busy machine slows them alike;
reported are medians in milliseconds per image. The last line on standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deploy.head_layout import HeadLayout
from deploy.letterbox import Letterbox
from deploy.measured_on import hand_over, origin
from deploy.postprocess import PostProcessor

from .per_box_reference import per_box_detections

SEED = 20240501
BOX_SCALE, CLASS_SCALE = (0.09, -20), (0.12, 55)


def draw_heads(layout: HeadLayout, objects: int, batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Draw float32 heads in which `objects` per image fire 5 to 8 neighbouring cells each.

    Background class logits stay near -8 (scores below 0.01). Object sides are 12 to 200 model pixels, each on the
    level where its longer half is about 2 to 12 cells.
    """
    heads = []
    for h, w in layout.grids_hw:
        heads.append(rng.normal(0, 1, (batch, 4 * layout.reg_max, h, w)).astype(np.float32))
        heads.append(rng.normal(-8, 0.8, (batch, layout.class_count, h, w)).astype(np.float32))
    near = np.array([(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1), (1, -1)])
    bins = np.arange(layout.reg_max)
    for image in range(batch):
        for _ in range(objects):
            size_wh = np.exp(rng.uniform(np.log(12), np.log(200), 2)).clip(12, 200)
            centre = rng.uniform(size_wh / 2, np.array(layout.input_hw[::-1]) - size_wh / 2)
            level = int(np.clip(np.log2(size_wh.max() / 24), 0, len(layout.strides) - 1))
            stride, (h, w) = layout.strides[level], layout.grids_hw[level]
            class_id = int(rng.integers(layout.class_count))
            for i, (dy, dx) in enumerate(near[: rng.integers(5, 9)]):
                x, y = int(centre[0] / stride) + dx, int(centre[1] / stride) + dy
                if not (0 <= x < w and 0 <= y < h):
                    continue
                at = (np.array([x, y]) + 0.5) * stride
                sides = np.concatenate([at - (centre - size_wh / 2), centre + size_wh / 2 - at]) / stride
                sides = np.clip(sides + rng.normal(0, 0.1, 4), 0, layout.reg_max - 1.01)
                logits = 8 - 3 * np.abs(bins - sides[:, None]) + rng.normal(0, 0.2, (4, layout.reg_max))
                heads[2 * level][image, :, y, x] = logits.reshape(-1)
                heads[2 * level + 1][image, class_id, y, x] = rng.normal(2.5 - 0.35 * i, 0.5)
    return heads


def quantise_heads(heads: list[np.ndarray]) -> list[np.ndarray]:
    """Return float heads as int8 with BOX_SCALE and CLASS_SCALE."""
    out = []
    for i, head in enumerate(heads):
        scale, zero_point = CLASS_SCALE if i % 2 else BOX_SCALE
        out.append(np.clip(np.round(head / scale) + zero_point, -128, 127).astype(np.int8))
    return out


def medians_ms(contestants: dict[str, Callable[[], object]], rounds: int, repeats: dict[str, int]) -> dict[str, float]:
    """Run all contestants in turns; return the median milliseconds of one call of each."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        call()
    for _ in range(rounds):
        for name, call in contestants.items():
            for _ in range(repeats.get(name, 1)):
                begin = time.perf_counter()
                call()
                times[name].append((time.perf_counter() - begin) * 1e3)
    return {name: float(np.median(values)) for name, values in times.items()}


def measure(objects: int, rounds: int, batch: int = 8) -> dict[str, float | int]:
    """Time all contestants on scenes of `objects` objects: 10 classes, 512 x 512, images of 1024 x 1024."""
    layout = HeadLayout(class_count=10, box_scales=(BOX_SCALE,) * 3, class_scales=(CLASS_SCALE,) * 3)
    rng = np.random.default_rng(SEED + objects)
    float_heads = draw_heads(layout, objects, batch, rng)
    int8_heads = quantise_heads(float_heads)
    float_one = [np.ascontiguousarray(head[:1]) for head in float_heads]
    int8_one = [np.ascontiguousarray(head[:1]) for head in int8_heads]
    box = Letterbox.fit((1024, 1024), layout.input_hw)
    lean = PostProcessor(layout)
    float_layout = HeadLayout(class_count=10)
    times = medians_ms(
        {
            "lean_int8_ms": lambda: lean(int8_one, [box]),
            "lean_float_ms": lambda: lean(float_one, [box]),
            "lean_int8_batch_ms": lambda: lean(int8_heads, [box] * batch),
            "lean_float_batch_ms": lambda: lean(float_heads, [box] * batch),
            "per_box_int8_ms": lambda: per_box_detections(int8_one, layout, box),
            "per_box_float_ms": lambda: per_box_detections(float_one, float_layout, box),
        },
        rounds,
        {"lean_int8_ms": 10, "lean_float_ms": 10, "lean_int8_batch_ms": 3, "lean_float_batch_ms": 3},
    )
    found = lean(int8_one, [box])[0]
    expected = per_box_detections(int8_one, layout, box)
    if len(found) != len(expected) or not np.allclose(found.xyxy, expected.xyxy, atol=0.05):
        raise ValueError(f"contestants disagree at {objects} objects: {len(found)} boxes against {len(expected)}")
    times["lean_int8_batch_ms"] /= batch
    times["lean_float_batch_ms"] /= batch
    cells = int(sum((head.max(axis=1) >= -np.log(3)).sum() for head in float_one[1::2]))
    return {
        "objects": objects,
        "cells_above_threshold": cells,
        "boxes": len(found),
        **{name: round(value, 4) for name, value in times.items()},
        "batch": batch,
        "ratio_int8": round(times["per_box_int8_ms"] / times["lean_int8_ms"], 1),
        "ratio_float": round(times["per_box_float_ms"] / times["lean_float_ms"], 1),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure 5 and 30 objects, print a table and, last, one JSON document."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.postprocess_speed", description="Time post-processing against a per-box loop."
    )
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    parser.add_argument("--rounds", type=int, default=40, help="rounds per scene (default 40)")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    results = [measure(objects, options.rounds) for objects in (5, 30)]
    document = {
        "benchmark": "postprocess_speed",
        "classes": 10,
        "input_hw": [512, 512],
        "unit": "median ms per image",
        "results": results,
        "rounds": options.rounds,
        "seed": SEED,
        **origin(),
    }
    print(f"{'ms per image, medians':<24}" + "".join(f"{row['objects']:>4} objects" for row in results))
    for key in [key for key in results[0] if key.endswith("_ms") or key.startswith("ratio")]:
        print(f"{key:<24}" + "".join(f"{row[key]:>12.3f}" for row in results))
    return hand_over(document, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
