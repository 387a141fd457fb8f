"""The data report: figures against a slow count, levels against hand-worked cases, tables and the contact sheet."""

import io
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from deploy.annotations import AnnotatedImage, AnnotationSet, Problem
from deploy.letterbox import Letterbox
from train.data_report import box_levels, draw_samples, pick_samples, print_summary, summarise

NAMES = ["ship", "[plane]", "tank"]


def annotated(path, size_hw, rows):
    """rows: (x1, y1, x2, y2, class_id, difficult)."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return AnnotatedImage(path, size_hw, table[:, :4], table[:, 4].astype(np.int32), table[:, 5].astype(bool))


@pytest.mark.parametrize(
    ("side", "level"),
    [(1, 1), (100, 1), (255.9, 1), (256, 2), (511, 2), (512, 3)],
)
def test_level_of_square_boxes(side, level):
    """L = 3, input 512: floor(3 + log2(s / 512)) is 3 at 512, 2 from 256, 1 from 128, then clamped to 1."""
    assert box_levels(np.array([[side, side]]), (512, 512), 3).tolist() == [level]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0.5, 640)] * 2), max_size=8), st.integers(1, 5))
def test_levels_against_the_formula(wh, levels):
    want = [min(max(math.floor(levels + math.log2(math.sqrt(w * h / 640**2))), 1), levels) for w, h in wh]
    got = box_levels(np.array(wh).reshape(-1, 2), (640, 640), levels)
    # At an exact power of two the last bit of the logarithm decides; the two may then differ by one.
    exact = [abs(x - round(x)) < 1e-9 for w, h in wh for x in [math.log2(math.sqrt(w * h / 640**2))]]
    assert all(g == w or e for g, w, e in zip(got.tolist(), want, exact, strict=True))


def test_summary_against_a_slow_count():
    rng = np.random.default_rng(0)
    images = []
    for i in range(7):
        h, w = (int(side) for side in rng.integers(100, 900, 2))
        corners = rng.uniform(0, 1, (i, 2, 2)) * (w, h)
        low, high = corners.min(1), corners.max(1) + 0.01
        rows = np.hstack([low, high, rng.integers(0, 2, (i, 1)), rng.integers(0, 2, (i, 1))])
        images.append(annotated(Path(f"{i}.png"), (h, w), rows))
    problems = [
        Problem(Path("a.txt"), n, kind, "x", kind == "outside")
        for n, kind in enumerate(["outside", "clipped", "outside"])
    ]
    s = summarise(AnnotationSet(images, NAMES, problems), 512)

    sides, model_sides, coco, levels, classes = (
        [],
        [],
        dict.fromkeys(("small", "medium", "large"), 0),
        {8: 0, 16: 0, 32: 0},
        [0] * 3,
    )
    for image in images:
        fit = Letterbox.fit(image.size_hw, (512, 512))
        gain_x, gain_y = fit.resized_hw[1] / image.size_hw[1], fit.resized_hw[0] / image.size_hw[0]
        for (x1, y1, x2, y2), class_id in zip(image.xyxy.astype(float).tolist(), image.class_id, strict=True):
            area = (x2 - x1) * (y2 - y1)
            sides.append(math.sqrt(area))
            model_sides.append(math.sqrt(area * gain_x * gain_y))
            coco["small" if area <= 32 * 32 else "medium" if area <= 96 * 96 else "large"] += 1
            levels[8 if model_sides[-1] < 256 else 16 if model_sides[-1] < 512 else 32] += 1
            classes[class_id] += 1
    assert s.images == 7
    assert s.empty_images == 1
    assert s.boxes == len(sides) == 21
    assert s.boxes_per_class == dict(zip(NAMES, classes, strict=True))
    assert s.images_per_class == {n: sum(bool((i.class_id == c).any()) for i in images) for c, n in enumerate(NAMES)}
    assert s.difficult == sum(int(i.difficult.sum()) for i in images)
    assert s.smallest_wh == (min(i.size_hw[1] for i in images), min(i.size_hw[0] for i in images))
    assert s.largest_wh == (max(i.size_hw[1] for i in images), max(i.size_hw[0] for i in images))
    assert s.coco_sizes == coco
    assert s.boxes_per_level == levels
    assert list(s.size_image_px.values()) == pytest.approx(np.percentile(sides, list(s.size_image_px)), abs=0.01)
    assert list(s.size_model_px.values()) == pytest.approx(np.percentile(model_sides, list(s.size_model_px)), abs=0.01)
    assert (s.outside, s.clipped, s.duplicates, s.fatal_problems) == (2, 1, 0, 2)
    assert json.loads(json.dumps(s.to_json()))["boxes_per_level"] == {str(k): v for k, v in levels.items()}


def test_empty_sets_have_a_summary_too():
    for images in ([], [annotated(Path("a.png"), (5, 7), [])]):
        s = summarise(AnnotationSet(images, NAMES), 64)
        assert (s.boxes, s.size_image_px, s.boxes_per_level) == (0, {}, {8: 0, 16: 0, 32: 0})
        print_summary(s, [], Console(file=io.StringIO(), width=100))
    with pytest.raises(ValueError, match="image_size"):
        summarise(AnnotationSet([], NAMES), 0)


def test_table_fits_a_hundred_columns_and_lists_fatal_problems_first():
    found = AnnotationSet(
        [annotated(Path("a.png"), (80, 100), [(0, 0, 9, 9, 1, 0)] * 3)],
        NAMES,
        [Problem(Path("labels/[a].txt"), n, "clipped", "reaches [over] the edge") for n in range(1, 31)]
        + [Problem(Path("b.txt"), 7, "bad_class", "class 9", True)],
    )
    out = io.StringIO()
    print_summary(summarise(found, 512), found.problems, Console(file=out, width=100))
    lines = out.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 100
    text = out.getvalue()
    assert "[plane]" in text  # not taken for a colour
    listed = [line.strip() for line in lines if ".txt:" in line]
    assert listed[0] == "b.txt:7: class 9"
    assert listed[1] == "labels/[a].txt:1: reaches [over] the edge"
    assert len(listed) == 20
    assert "... and 11 more" in text
    assert "by kind: 1 bad class, 30 clipped" in text


def sample_set(folder, count=9):
    images = []
    for i in range(count):
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), np.full((60, 90, 3), 40 + 10 * i, np.uint8))
        rows = [(5, 5, 40, 40, 0, 0)] + ([(50, 20, 80, 50, 2, 0)] if i == count - 1 else [])
        images.append(annotated(path, (60, 90), rows if i else []))
    return AnnotationSet(images, NAMES)


def test_samples_are_spread_over_the_classes(tmp_path):
    found = sample_set(tmp_path)
    for seed in range(5):
        chosen = pick_samples(found, 2, seed)
        assert found.images[-1] in chosen  # the only one with class 2
        assert len({entry.path for entry in pick_samples(found, 99, seed)}) == 9
    assert [e.path for e in pick_samples(found, 4, 3)] == [e.path for e in pick_samples(found, 4, 3)]


def test_contact_sheet(tmp_path):
    draw_samples(sample_set(tmp_path), tmp_path / "sheet.jpg", count=6)
    sheet = cv2.imread(str(tmp_path / "sheet.jpg"))
    assert sheet.shape == (2 * 366 + 6, 4 * 486 + 6, 3)
    with pytest.raises(ValueError, match="no image to draw"):
        draw_samples(AnnotationSet([], NAMES), tmp_path / "none.jpg")
