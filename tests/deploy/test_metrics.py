"""Metrics against pycocotools, and against cases worked out by hand."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from deploy.annotations import AnnotatedImage
from deploy.detections import Detections
from deploy.metrics import match_counts, score_detections

NAMES = ["plane", "ship", "tank"]


def annotated(boxes=(), classes=(), difficult=None) -> AnnotatedImage:
    n = len(classes)
    return AnnotatedImage(
        path=Path("image.jpg"),
        size_hw=(400, 600),
        xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        class_id=np.array(classes, np.int32),
        difficult=np.zeros(n, bool) if difficult is None else np.array(difficult, bool),
    )


def detected(boxes=(), classes=(), scores=()) -> Detections:
    return Detections(np.array(boxes).reshape(-1, 4), np.array(scores), np.array(classes))


def draw(seed, images=8, difficult=0.0, per_image=12):
    """Draw truth of all sizes and detections that follow it loosely; some images without the one or the other."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for i in range(images):
        n = 0 if i % 4 == 1 else int(rng.integers(1, per_image))
        corner, size = rng.uniform(0, 300, (n, 2)), np.exp(rng.uniform(2, 5, (n, 2)))
        boxes = np.concatenate([corner, corner + size], axis=1)
        classes = rng.integers(0, 3, n)
        truth.append(annotated(boxes, classes, rng.random(n) < difficult))
        near = np.repeat(boxes + rng.normal(0, 0.06, boxes.shape) * np.tile(size, 2), 2, axis=0)
        corner = rng.uniform(0, 300, (3, 2))
        stray = np.concatenate([corner, corner + rng.uniform(8, 90, (3, 2))], axis=1)
        rows = np.concatenate([near, stray]) if i % 4 != 2 else np.empty((0, 4))
        ids = np.concatenate([np.where(rng.random(2 * n) < 0.85, classes.repeat(2), 0), rng.integers(0, 3, 3)])
        found.append(detected(rows, ids[: len(rows)], rng.uniform(0, 1, len(rows))))
    return truth, found


def pycoco(truth, found, class_count):
    """Score with pycocotools; returns its COCOeval after accumulate and summarize."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def rows(xyxy):
        return [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in xyxy.astype(float).tolist()]

    boxes = [
        {"image_id": i, "category_id": int(c), "bbox": b, "area": b[2] * b[3], "iscrowd": int(d)}
        for i, t in enumerate(truth)
        for b, c, d in zip(rows(t.xyxy), t.class_id, t.difficult, strict=True)
    ]
    results = [
        {"image_id": i, "category_id": int(c), "bbox": b, "score": float(s)}
        for i, d in enumerate(found)
        for b, c, s in zip(rows(d.xyxy), d.class_id, d.score, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        expected = COCO()
        expected.dataset = {
            "info": {},
            "images": [{"id": i, "height": 400, "width": 600} for i in range(len(truth))],
            "categories": [{"id": i, "name": str(i)} for i in range(class_count)],
            "annotations": [{"id": k + 1, **box} for k, box in enumerate(boxes)],
        }
        expected.createIndex()
        run = COCOeval(expected, expected.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


@pytest.mark.parametrize("difficult", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_matches_pycocotools(seed, difficult):
    truth, found = draw(seed, difficult=difficult)
    accuracy = score_detections(truth, found, NAMES)
    run = pycoco(truth, found, 3)
    ours = [accuracy.map50_95, accuracy.map50, accuracy.small, accuracy.medium, accuracy.large]
    # pycocotools marks what it could not measure with -1.
    np.testing.assert_allclose([-1 if v is None else v for v in ours], run.stats[[0, 1, 3, 4, 5]], atol=1e-6)
    precision, recall = run.eval["precision"], run.eval["recall"]
    for k, name in enumerate(NAMES):
        assert accuracy.per_class[name]["map50"] == pytest.approx(precision[0, :, k, 0, -1].mean(), abs=1e-6)
        assert accuracy.per_class[name]["map50_95"] == pytest.approx(precision[:, :, k, 0, -1].mean(), abs=1e-6)
        assert accuracy.per_class[name]["boxes"] == sum(int(((t.class_id == k) & ~t.difficult).sum()) for t in truth)
    assert accuracy.recall == pytest.approx(recall[0, :, 0, -1].mean(), abs=1e-6)
    assert 0.05 < accuracy.map50_95 < accuracy.map50 < 1


def test_more_detections_than_the_limit_match_pycocotools():
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, 300, (150, 2))
    boxes = np.concatenate([corner, corner + 20], axis=1)
    truth, found = [annotated(boxes, [0] * 150)], [detected(boxes, [0] * 150, rng.uniform(0, 1, 150))]
    accuracy = score_detections(truth, found, NAMES)
    assert accuracy.map50 == pytest.approx(pycoco(truth, found, 3).stats[1], abs=1e-6)
    assert accuracy.recall == pytest.approx(100 / 150)
    assert score_detections(truth, found, NAMES, max_detections=300).recall == pytest.approx(1)


def test_perfect_detections_reach_one():
    truth, _ = draw(0)
    found = [detected(t.xyxy, t.class_id, np.full(len(t.class_id), 0.9)) for t in truth]
    accuracy = score_detections(truth, found, NAMES)
    assert (accuracy.map50, accuracy.map50_95, accuracy.recall) == pytest.approx((1, 1, 1))


def test_no_detections_score_zero():
    truth, _ = draw(0)
    accuracy = score_detections(truth, [Detections.empty()] * len(truth), NAMES)
    assert (accuracy.map50, accuracy.map50_95, accuracy.recall, accuracy.images) == (0, 0, 0, 8)
    assert accuracy.boxes > 0
    assert accuracy.per_class["ship"]["map50"] == 0


def test_no_truth_has_nothing_to_measure():
    for count in (0, 2):
        found = [detected([[0, 0, 9, 9]], [1], [0.5])] * count
        accuracy = score_detections([annotated()] * count, found, NAMES)
        assert (accuracy.map50, accuracy.map50_95, accuracy.boxes, accuracy.images) == (0, 0, 0, count)
        assert accuracy.per_class["plane"] == {"map50": None, "map50_95": None, "boxes": 0}
        assert (accuracy.small, accuracy.medium, accuracy.large) == (None, None, None)


def test_classes_and_sizes_without_truth_are_none_and_leave_the_mean_alone():
    truth = [annotated([[0, 0, 20, 20]], [1])]
    found = [detected([[0, 0, 20, 20], [50, 50, 60, 60]], [1, 0], [0.9, 0.9])]
    accuracy = score_detections(truth, found, NAMES)
    assert accuracy.per_class["plane"]["map50"] is None
    assert (accuracy.map50, accuracy.small, accuracy.medium) == (pytest.approx(1), pytest.approx(1), None)


def test_difficult_boxes_neither_reward_nor_punish():
    easy, hard = [0, 0, 50, 50], [100, 100, 150, 150]
    without = score_detections([annotated([easy], [0])], [detected([easy], [0], [0.5])], NAMES)
    truth = [annotated([easy, hard], [0, 0], [False, True])]
    missed = score_detections(truth, [detected([easy], [0], [0.5])], NAMES)
    found = score_detections(truth, [detected([hard, easy], [0, 0], [0.9, 0.5])], NAMES)
    assert missed.map50_95 == found.map50_95 == without.map50_95 == pytest.approx(1)
    assert found.boxes == 1
    stray = score_detections(truth, [detected([[200, 200, 250, 250], easy], [0, 0], [0.9, 0.5])], NAMES)
    assert stray.map50 == pytest.approx(0.5)


def test_quiet_and_ready_for_json(capfd):
    truth, found = draw(1)
    accuracy = score_detections(truth, found, NAMES)
    assert capfd.readouterr() == ("", "")
    read = json.loads(json.dumps(accuracy.to_json(), allow_nan=False))
    assert read["map50"] == accuracy.map50
    assert read["per_class"]["tank"]["boxes"] == accuracy.per_class["tank"]["boxes"]


def test_what_does_not_fit_is_named():
    one = [annotated([[0, 0, 5, 5]], [3])]
    with pytest.raises(ValueError, match="one per annotated image, got 0 for 1"):
        score_detections(one, [], NAMES)
    with pytest.raises(ValueError, match="every annotation must be 0 to 2, got 3"):
        score_detections(one, [Detections.empty()], NAMES)
    with pytest.raises(ValueError, match="every detection must be 0 to 2, got 7"):
        score_detections([annotated()], [detected([[0, 0, 5, 5]], [7], [0.5])], NAMES)


def test_match_counts_by_hand():
    truth = [
        annotated([[0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 70, 70]], [0, 1, 0], [False, False, True]),
        annotated(),
    ]
    found = [
        detected(
            [[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [50, 50, 70, 70], [51, 50, 71, 70], [20, 0, 30, 10]],
            [0, 0, 0, 0, 0, 1],
            [0.9, 0.8, 0.7, 0.6, 0.5, 0.1],
        ),
        detected([[0, 0, 3, 3]], [2], [0.9]),
    ]
    counts = match_counts(truth, found, 0.25)
    # A hit; a second box on it and one of the wrong class are wrong; two on the difficult box do not count.
    assert counts.per_image == ((1, 2, 1), (0, 1, 0))
    assert (counts.tp, counts.fp, counts.fn) == (1, 3, 1)
    assert (counts.precision, counts.recall) == (0.25, 0.5)
    assert match_counts(truth, found, 0.05).tp == 2
    nothing = match_counts([annotated()], [Detections.empty()], 0.5)
    assert (nothing.precision, nothing.recall) == (None, None)


def test_match_counts_follow_pycocotools():
    truth, found = draw(3, images=12)
    counts = match_counts(truth, found, 0.4)
    run = pycoco(truth, [d.select(d.score >= 0.4) for d in found], 3)
    images = [e for e in run.evalImgs if e is not None and e["aRng"] == [0, 1e10]]
    tp = sum(int((e["dtMatches"][0] > 0).sum()) for e in images)
    assert counts.tp == tp
    assert counts.tp + counts.fp == sum(int((d.score >= 0.4).sum()) for d in found)
    assert counts.tp + counts.fn == sum(len(t.class_id) for t in truth)
