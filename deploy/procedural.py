"""Drawn aerial scenes with exact boxes: for the demo, the first start, tests and benchmarks.

A seed decides a scene: sun, ground sample distance, street grid, districts and water, then haze, colour and sensor
noise. A box is the tight rectangle around the visible part of an object without its shadow or wake, computed from its
polygons.

`python -m deploy.procedural --contact-sheet PATH` shows a few, `--dataset FOLDER --count N` writes a COCO data set.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import cv2
import numpy as np

from .procedural_districts import fill_district, stragglers
from .procedural_ground import Ground, Water
from .procedural_layout import Plan
from .procedural_objects import CLASS_NAMES
from .procedural_render import render
from .procedural_ships import fleet

# Raise when the same seed starts to give other pictures, so that data sets on disk are drawn again.
DRAWING_VERSION = 1
_EMPTY_SHARE = 0.03


@dataclass(frozen=True, eq=False)
class Scene:
    """One drawn scene and its truth.

    image: (h, w, 3) uint8 RGB. xyxy: (n, 4) float32 in image pixels, inside the image. class_id: (n,) int32, index
    into CLASS_NAMES.
    gsd_m: metres of ground per pixel. geotransform: six numbers in GDAL's order, metres of `crs`, or None with it.
    """

    image: np.ndarray
    xyxy: np.ndarray
    class_id: np.ndarray
    gsd_m: float
    geotransform: tuple[float, float, float, float, float, float] | None = None
    crs: str | None = None


def draw_scene(
    seed: int, size_hw: tuple[int, int] = (512, 512), *, objects: int | None = None, georeference: bool = False
) -> Scene:
    """Draw one scene: the same seed and size give the same pixels.

    objects: keep at most so many labelled objects (0 for none); None leaves it to the scene, and about 3 % stay empty.
    georeference: add a geotransform in UTM zone 31 north with the scene's ground sample distance.
    Raises ValueError for a side below 64 px or a negative count.
    """
    plan = _plan_scene(seed, size_hw, objects)
    image = render(plan, seed)
    boxes = np.array([item.xyxy for item in plan.items], np.float32).reshape(-1, 4)
    class_id = np.array([item.class_id for item in plan.items], np.int32)
    gsd = 1.0 / plan.px_per_m
    if not georeference:
        return Scene(image, boxes, class_id, gsd)
    rnd = Random(f"{seed} place")
    east, north = rnd.randint(400_000, 600_000), rnd.randint(4_700_000, 5_900_000)
    return Scene(image, boxes, class_id, gsd, (float(east), gsd, 0.0, float(north), 0.0, -gsd), "EPSG:32631")


def _plan_scene(seed: int, size_hw: tuple[int, int], objects: int | None) -> Plan:
    h, w = int(size_hw[0]), int(size_hw[1])
    if min(h, w) < 64:
        raise ValueError(f"size_hw must be at least 64 pixels each way, got {tuple(size_hw)}")
    if objects is not None and objects < 0:
        raise ValueError(f"objects must be 0 or more, or None, got {objects}")
    rnd = Random(f"{seed} {h} {w}")
    names = ["airport", "residential", "commercial", "tank_farm", "sports", "rural", "forest", "bare"]
    weights = [0.24, 0.1, 0.12, 0.18, 0.21, 0.09, 0.01, 0.05]
    theme = rnd.choices(names, weights)[0]
    wet = rnd.random() < 0.3
    if wet:
        gsd = rnd.uniform(0.16, 0.55)
    else:
        gsd = rnd.uniform(0.26, 0.55) if theme in ("airport", "rural") else rnd.uniform(0.13, 0.45)
    theta, sun_angle = rnd.uniform(0, 2 * math.pi), rnd.uniform(0, 2 * math.pi)
    if rnd.random() < 0.3:
        theta = rnd.randint(0, 3) * math.pi / 2
    reach = 1 / math.tan(math.radians(rnd.uniform(32, 66))) / gsd
    ground = Ground((112, 122, 82), ("grain", 0.5 / gsd, 0.0, 1.0))
    sun = (reach * math.cos(sun_angle), reach * math.sin(sun_angle))
    plan = Plan((h, w), 1 / gsd, theta, sun, rnd, ground, density=rnd.uniform(0.45, 1.15))
    large = max(h, w) * gsd > 450
    if wet or (large and rnd.random() < 0.4):
        water = _make_water(plan)
        plan.flood(water)
        ground.water_colours = rnd.choice([
            ((86, 128, 118), (34, 66, 84)), ((120, 170, 160), (28, 84, 108)), ((98, 108, 86), (62, 78, 66)),
            ((74, 98, 104), (24, 44, 62)), ((104, 116, 104), (54, 74, 80)),
        ])  # fmt: skip
        fleet(plan, rnd)
        if not large and water.kind == "quay":
            names, weights = ["commercial", "tank_farm"], [0.75, 0.25]
        elif not large:
            names, weights = ["residential", "rural", "sports", "forest", "bare"], [0.4, 0.3, 0.15, 0.1, 0.05]
    elif not large:
        names, weights = [theme], [1.0]
    u0, v0, u1, v1 = plan.extent()
    grow = [rnd.uniform(0, 45) for _ in range(4)]
    if ground.water is None or ground.water.kind != "open":
        fill_district(
            plan, (u0 - grow[0], v0 - grow[1], u1 + grow[2], v1 + grow[3]), names, weights, rnd.uniform(300, 460)
        )
    if not plan.items:
        stragglers(plan, rnd.randint(1, 5))
    limit = objects if objects is not None else 0 if rnd.random() < _EMPTY_SHARE else None
    if limit is not None and len(plan.items) > limit:
        keep = sorted(rnd.sample(range(len(plan.items)), limit))
        plan.items = [plan.items[k] for k in keep]
    return plan


def _make_water(plan: Plan) -> Water:
    rnd = plan.rnd
    h, w = plan.size_hw
    s = plan.px_per_m
    kind = rnd.choices(["coast", "quay", "river", "lake", "open"], [0.24, 0.4, 0.13, 0.07, 0.16])[0]
    span = max(h, w) / s
    origin = (w * rnd.uniform(0.3, 0.7), h * rnd.uniform(0.3, 0.7))
    turn = plan.theta + rnd.randint(0, 3) * math.pi / 2 if kind == "quay" else rnd.uniform(0, 2 * math.pi)
    normal = (math.cos(turn), math.sin(turn))
    if kind == "quay":
        back = rnd.uniform(0.1, 0.3) * min(h, w)  # more water than land
        origin = (w / 2 - normal[0] * back, h / 2 - normal[1] * back)
        piers = []
        marina = rnd.random() < 0.55
        gap = rnd.uniform(34, 52) if marina else rnd.uniform(75, 130)
        for k in range(-math.ceil(span / gap), math.ceil(span / gap) + 1):
            if rnd.random() < (0.9 if marina else 0.6):
                offset = (k * gap + rnd.uniform(-2, 2)) * s
                start = (origin[0] - normal[1] * offset, origin[1] + normal[0] * offset)
                length = rnd.uniform(40, 100) if marina else rnd.uniform(80, 220)
                piers.append((start, normal, 1.3 if marina else rnd.uniform(6, 14), length))
        if not marina:  # the quay wall itself is moored at too: a pier of no width, along the wall
            piers.append(
                (
                    (origin[0] + normal[1] * span * s, origin[1] - normal[0] * span * s),
                    (-normal[1], normal[0]),
                    3.01,
                    2 * span,
                )
            )
        return Water(kind, origin, normal, s, piers=tuple(piers))
    if kind == "lake":
        size = rnd.uniform(0.22, 0.4) * span
        waves = tuple((size * rnd.uniform(0.02, 0.09), k / 100, rnd.uniform(0, 6.28)) for k in (2, 3, 5, 7))
        return Water(kind, origin, normal, s, size, waves)
    if kind == "river":
        scale = rnd.uniform(0.5, 1.0)
        waves = ((18 * scale, 0.011, rnd.uniform(0, 6.28)), (5 * scale, 0.037, rnd.uniform(0, 6.28)), (1.2, 0.13, 1.0))
        return Water(kind, origin, normal, s, rnd.uniform(14, 34), waves)
    waves = (
        (rnd.uniform(4, 16), 0.015, rnd.uniform(0, 6.28)),
        (rnd.uniform(1, 5), 0.05, rnd.uniform(0, 6.28)),
        (0.8, 0.19, 2.0),
    )
    return Water(kind, origin, normal, s, 0.0, waves)


def write_dataset(
    root: Path,
    count: int,
    *,
    seed: int,
    size_hw: tuple[int, int] = (512, 512),
    split: str = "train",
    objects: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `count` scenes as JPEG files with COCO annotations; return root/annotations/SPLIT.json.

    Images are root/images/SPLIT_00001.jpg and so on; file_name in the JSON is relative to root/images, category ids
    start at 1.
    Scene k has seed `seed * 1_000_003 + k`. A killed run is repeated from the start; a finished one with the same
    parameters is left as it is. objects: at most so many on a scene. progress: called with (done, count).
    Raises ValueError for a count below 1, OSError where a file cannot be written.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    root = Path(root)
    images, annotations = root / "images", root / "annotations"
    target, marker = annotations / f"{split}.json", root / f"{split}.procedural.json"
    parameters = {
        "version": DRAWING_VERSION,
        "count": count,
        "seed": seed,
        "size_hw": list(size_hw),
        "objects": objects,
        "classes": CLASS_NAMES,
    }
    names = [f"{split}_{k:05d}.jpg" for k in range(1, count + 1)]
    if target.is_file() and _read_marker(marker) == parameters and all((images / name).is_file() for name in names):
        return target
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    document: dict[str, list[dict[str, object]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(CLASS_NAMES)],
    }
    for k, name in enumerate(names):
        scene = draw_scene(seed * 1_000_003 + k, size_hw, objects=_limit(objects, seed, k))
        _replace(images / name, _encode_jpeg(scene.image, 92, images / name))
        h, w = scene.image.shape[:2]
        document["images"].append({"id": k + 1, "file_name": name, "width": w, "height": h})
        for (x0, y0, x1, y1), c in zip(scene.xyxy.astype(float), scene.class_id.tolist(), strict=True):
            width, height = x1 - x0, y1 - y0
            document["annotations"].append({
                "id": len(document["annotations"]) + 1, "image_id": k + 1, "category_id": c + 1, "iscrowd": 0,
                "bbox": [round(v, 2) for v in (x0, y0, width, height)], "area": round(width * height, 2),
            })  # fmt: skip
        if progress is not None:
            progress(k + 1, count)
    _replace(target, json.dumps(document).encode())
    _replace(marker, json.dumps(parameters).encode())
    return target


def _limit(objects: int | None, seed: int, k: int) -> int | None:
    """Keep a few scenes empty also where a limit is given, as `draw_scene` does by itself."""
    if objects is None:
        return None
    return 0 if np.random.default_rng((seed, k)).random() < _EMPTY_SHARE else objects


def _encode_jpeg(image: np.ndarray, quality: int, path: Path) -> bytes:
    good, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not good:
        raise OSError(f"{path}: OpenCV could not encode the image as JPEG")
    return data.tobytes()


def _read_marker(path: Path) -> object:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


def contact_sheet(seeds: Sequence[int], columns: int = 4, cell_px: int = 320, *, boxes: bool = False) -> np.ndarray:
    """Return scenes of 512 pixels, shrunk to cell_px, in rows of `columns`: (h, w, 3) uint8 RGB. boxes: draw them."""
    palette = [(255, 70, 60), (255, 210, 50), (80, 220, 110), (70, 200, 255), (240, 110, 240)]
    cells = []
    for seed in seeds:
        scene = draw_scene(seed)
        cell = cv2.resize(scene.image, (cell_px, cell_px), interpolation=cv2.INTER_AREA)
        if boxes:
            for (x0, y0, x1, y1), c in zip(scene.xyxy * (cell_px / 512), scene.class_id.tolist(), strict=True):
                cv2.rectangle(cell, (int(x0), int(y0)), (int(np.ceil(x1)), int(np.ceil(y1))), palette[c], 1)
        cells.append(cell)
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[k : k + columns], 1) for k in range(0, len(cells), columns)]
    return np.concatenate(rows, 0)


# Seeds that show every district, class and kind of water.
SHOW_SEEDS = (72, 65, 62, 20, 10, 5, 64, 77, 73, 76, 32, 79)


def main(arguments: list[str] | None = None) -> int:
    """Draw a contact sheet or a data set from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.procedural", description="Draw aerial scenes with exact boxes."
    )
    parser.add_argument("--contact-sheet", type=Path, metavar="PATH", help="write a picture with twelve scenes")
    parser.add_argument("--boxes", action="store_true", help="draw the boxes on the contact sheet")
    parser.add_argument("--dataset", type=Path, metavar="FOLDER", help="write images and COCO annotations")
    parser.add_argument("--count", type=int, default=100, help="scenes in the data set (default 100)")
    parser.add_argument("--split", default="train", help="name of the data set's part (default train)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data set (default 0)")
    options = parser.parse_args(arguments)
    if options.contact_sheet is None and options.dataset is None:
        parser.error("nothing to do: give --contact-sheet PATH or --dataset FOLDER")
    try:
        if options.contact_sheet is not None:
            sheet = contact_sheet(SHOW_SEEDS, boxes=options.boxes)
            _replace(options.contact_sheet, _encode_jpeg(sheet, 88, options.contact_sheet))
            print(options.contact_sheet)
        if options.dataset is not None:
            print(write_dataset(options.dataset, options.count, seed=options.seed, split=options.split))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
