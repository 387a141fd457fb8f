"""Drawn scenes: exact boxes against the pixels themselves, repeatability, placement rules, and the data set on disk."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from deploy.procedural import _plan_scene, contact_sheet, draw_scene, main, write_dataset
from deploy.procedural_objects import CLASS_NAMES, COURT, SHIP
from deploy.procedural_render import render
from deploy.procedural_shapes import clip_polygon, fill, polygon_area

SIZE = (256, 320)
SEEDS = range(40, 64)


def silhouette(polygons: list[np.ndarray], size_hw: tuple[int, int], border: int = 0) -> np.ndarray:
    """Paint an object's polygons white on black, by another way than the library: no supersampling, own canvas."""
    mask = np.zeros((size_hw[0] + 2 * border, size_hw[1] + 2 * border), np.uint8)
    for points in polygons:
        cv2.fillPoly(mask, [np.rint(points + border - 0.5).astype(np.int32)], 255)
    return mask > 0


@pytest.mark.parametrize("seed", [41, 44, 46, 50, 53])
def test_box_is_where_the_pixels_change_when_the_object_is_left_out(seed: int) -> None:
    plan = _plan_scene(seed, SIZE, 14)
    assert plan.items
    full = render(plan, seed, shadows=False, sensor=False).astype(int)
    for k, item in enumerate(plan.items):
        less = render(plan, seed, without=frozenset([k]), shadows=False, sensor=False).astype(int)
        ys, xs = np.nonzero(np.abs(full - less).max(-1))
        found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        # A pixel that is only touched changes too, so the found box may be up to one pixel larger; thin tips fade.
        assert np.abs(found - np.array(item.xyxy)).max() <= 1.5, (CLASS_NAMES[item.class_id], found, item.xyxy)


def test_same_seed_same_pixels_other_seed_other_picture() -> None:
    first, again, other = draw_scene(5, SIZE), draw_scene(5, SIZE), draw_scene(6, SIZE)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.xyxy, again.xyxy)
    assert np.abs(first.image.astype(int) - other.image).mean() > 10


@pytest.mark.parametrize("size_hw", [(64, 64), (64, 300), (333, 97), (700, 1100)])
def test_any_size_has_boxes_inside_the_image(size_hw: tuple[int, int]) -> None:
    for seed in range(4):
        scene = draw_scene(seed, size_hw)
        assert scene.image.shape == (*size_hw, 3)
        assert scene.image.dtype == np.uint8
        assert scene.xyxy.dtype == np.float32
        assert scene.class_id.dtype == np.int32
        assert len(scene.xyxy) == len(scene.class_id)
        assert (scene.xyxy >= 0).all()
        assert (scene.xyxy[:, 2:] <= size_hw[::-1]).all()
        assert (scene.xyxy[:, 2:] - scene.xyxy[:, :2] >= 2).all()


def test_objects_limits_the_labels_and_large_scenes_hold_more() -> None:
    for seed in range(6):
        assert len(draw_scene(seed, SIZE, objects=0).xyxy) == 0
        assert len(draw_scene(seed, SIZE, objects=3).xyxy) <= 3
    small = sum(len(_plan_scene(seed, (256, 256), None).items) for seed in range(6))
    large = sum(len(_plan_scene(seed, (768, 768), None).items) for seed in range(6))
    assert large > 3 * small


@pytest.mark.parametrize(("size_hw", "objects", "field"), [((63, 64), None, "size_hw"), ((64, 64), -1, "objects")])
def test_bad_arguments_name_the_field(size_hw: tuple[int, int], objects: int | None, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        draw_scene(0, size_hw, objects=objects)


def test_georeference_has_the_ground_sample_distance_and_changes_no_pixel() -> None:
    plain, placed = draw_scene(9, SIZE), draw_scene(9, SIZE, georeference=True)
    assert plain.geotransform is None
    assert plain.crs is None
    assert placed.crs == "EPSG:32631"
    assert placed.geotransform is not None
    east, dx, rx, north, ry, dy = placed.geotransform
    assert (dx, rx, ry, dy) == (placed.gsd_m, 0, 0, -placed.gsd_m)
    assert 166_000 < east < 834_000
    assert 0 < north < 9_330_000
    np.testing.assert_array_equal(plain.image, placed.image)


def test_objects_do_not_hide_each_other_and_show_enough_of_themselves() -> None:
    for seed in SEEDS:
        plan = _plan_scene(seed, SIZE, None)
        count = np.zeros(SIZE, int)
        total = 0
        for item in plan.items:
            border = 400
            whole = silhouette(item.polygons, SIZE, border)
            inside = whole[border:-border, border:-border]
            assert inside.sum() >= 0.3 * whole.sum()
            count += inside
            total += int(inside.sum())
        assert (count > 1).sum() <= 0.01 * total + 3


def test_ships_float_and_the_others_stand_on_land() -> None:
    seen = 0
    for seed in range(60):
        plan = _plan_scene(seed, SIZE, None)
        water = plan.ground.water
        for item in plan.items:
            middle = np.concatenate(item.polygons).mean(0)
            afloat = water is not None and float(water.distance_m(middle)) > 0
            assert afloat == (item.class_id == SHIP)
            seen += afloat
    assert seen > 50


def test_every_class_appears_and_few_scenes_are_empty() -> None:
    counts = np.zeros(len(CLASS_NAMES), int)
    empty = 0
    for seed in range(80):
        items = _plan_scene(seed, (384, 384), None).items
        empty += not items
        counts += np.bincount([item.class_id for item in items], minlength=len(CLASS_NAMES))
    assert counts.min() >= 20
    assert empty <= 8


def test_court_keeps_its_true_measures() -> None:
    """A court's longer side is between the bare playing field and the field with generous run-off, in metres."""
    for seed in range(80):
        plan = _plan_scene(seed, SIZE, None)
        for item in plan.items:
            if item.class_id == COURT:
                pad = item.polygons[0]
                sides = np.sort(np.hypot(*(pad - np.roll(pad, 1, 0)).T)) / plan.px_per_m
                assert 15 < sides[0] < 20
                assert 28 < sides[-1] < 37
                return
    pytest.fail("no court in 80 scenes")


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 9), st.floats(-30, 90), st.floats(-30, 90), st.floats(2, 60), st.floats(0, 6.28))
def test_clip_polygon_agrees_with_summing_scan_lines(
    corners: int, x: float, y: float, radius: float, turn: float
) -> None:
    angle = turn + np.arange(corners) * 2 * np.pi / corners
    points = np.stack([x + radius * np.cos(angle), y + 0.6 * radius * np.sin(angle)], 1)
    # Each line y cuts a convex polygon in one interval, which the half-planes of its edges bound exactly.
    low, high = max(0.0, points[:, 1].min()), min(48.0, points[:, 1].max())
    lines = low + (np.arange(20_000) + 0.5) * (high - low) / 20_000
    left, right = np.zeros(len(lines)), np.full(len(lines), 64.0)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, 0), strict=True):
        if abs(by - ay) < 1e-12:
            continue  # a level edge bounds y only, and the range of lines ends there anyway
        crossing = ax + (bx - ax) * (lines - ay) / (by - ay)
        if by > ay:
            right = np.minimum(right, crossing)
        else:
            left = np.maximum(left, crossing)
    area = np.maximum(right - left, 0).sum() * max(high - low, 0) / len(lines)
    mine = clip_polygon(points, (48, 64))
    assert polygon_area(mine) == pytest.approx(area, rel=1e-3, abs=1e-3)
    if len(mine):
        assert (mine.min(0) >= -1e-9).all()
        assert (mine.max(0) <= (64 + 1e-9, 48 + 1e-9)).all()


def test_fill_covers_exactly_the_pixels_between_its_edges() -> None:
    image = np.zeros((10, 10), np.uint8)
    fill(image, np.array([[2.0, 3.0], [6.0, 3.0], [6.0, 8.0], [2.0, 8.0]]), 255, smooth=False)
    inner = image[4:7, 3:5]
    assert (inner == 255).all()
    assert image[:2].sum() == image[:, :1].sum() == image[:, 7:].sum() == 0


def test_data_set_reads_back_with_pycocotools_and_is_not_drawn_twice(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    target = write_dataset(tmp_path, 3, seed=4, size_hw=(96, 128), split="val", progress=lambda *s: steps.append(s))
    assert target == tmp_path / "annotations" / "val.json"
    assert steps == [(1, 3), (2, 3), (3, 3)]
    coco = COCO(str(target))
    assert [coco.cats[k + 1]["name"] for k in range(len(CLASS_NAMES))] == CLASS_NAMES
    for k in range(3):
        record = coco.imgs[k + 1]
        image = cv2.imread(str(tmp_path / "images" / record["file_name"]))
        assert record["file_name"] == f"val_{k + 1:05d}.jpg"
        assert image.shape == (record["height"], record["width"], 3) == (96, 128, 3)
        scene = draw_scene(4 * 1_000_003 + k, (96, 128))
        # JPEG loses little: a swapped channel order or another scene would be far off.
        assert np.abs(image[..., ::-1].astype(int) - scene.image).mean() < 8
        rows = coco.loadAnns(coco.getAnnIds(imgIds=[k + 1]))
        boxes = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
        np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:], scene.xyxy[:, 2:], atol=0.02)
        assert [row["category_id"] - 1 for row in rows] == scene.class_id.tolist()
    write_dataset(tmp_path, 3, seed=4, size_hw=(96, 128), split="val", progress=lambda *s: steps.append(s))
    assert len(steps) == 3
    (tmp_path / "images" / "val_00002.jpg").unlink()  # as after a kill
    write_dataset(tmp_path, 3, seed=4, size_hw=(96, 128), split="val", progress=lambda *s: steps.append(s))
    assert len(steps) == 6
    write_dataset(tmp_path, 2, seed=4, size_hw=(96, 128), split="val")
    assert len(json.loads(target.read_text())["images"]) == 2
    assert not list(tmp_path.rglob("*.part"))


def test_data_set_refuses_an_empty_count(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="count"):
        write_dataset(tmp_path, 0, seed=0)


def test_command_line_draws_and_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", str(tmp_path / "set"), "--count", "1"]) == 0
    assert (tmp_path / "set" / "annotations" / "train.json").is_file()
    for wrong in ([], ["--dataset", str(tmp_path / "set"), "--count", "0"]):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2
    assert "count must be 1 or more, got 0" in capsys.readouterr().err


def test_contact_sheet_has_rows_and_columns() -> None:
    assert contact_sheet([1, 2, 3], columns=2, cell_px=64, boxes=True).shape == (128, 128, 3)
