"""Mean average precision of scenes drawn with replacement, for an interval over scenes (the bootstrap).

Which detection matches which true box does not depend on the draw: `match` does that once, `average_precision` then
gives the figure of any draw (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 and 13). The
protocol is COCO's without difficult boxes and sizes; over each scene once it gives what `deploy.metrics` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.annotations import AnnotatedImage
from deploy.detections import Detections

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of the n detections of one class, best score first, scenes in order where scores are equal.

    scene: (n,) which scene each is from. right: (10, n) bool, by IoU threshold. boxes: (scenes,) true boxes.
    """

    scene: np.ndarray
    right: np.ndarray
    boxes: np.ndarray


def match(
    truth: Sequence[AnnotatedImage], found: Sequence[Detections], class_count: int, max_detections: int
) -> list[Matches]:
    """Match each class's detections to true boxes, scene by scene; see `Matches`.

    max_detections: per scene and class, best first. Raises ValueError where the lists differ in length, and for
    difficult boxes, which this does not know.
    """
    if len(truth) != len(found):
        raise ValueError(f"found must be one per scene, got {len(found)} for {len(truth)} scenes")
    if any(one.difficult.any() for one in truth):
        raise ValueError("difficult boxes are not known here; score with deploy.metrics")
    classes = []
    for k in range(class_count):
        score, scene, right = [np.empty(0)], [np.empty(0, int)], [np.empty((len(THRESHOLDS), 0), bool)]
        boxes = np.array([int((one.class_id == k).sum()) for one in truth])
        for number, (one, detections) in enumerate(zip(truth, found, strict=True)):
            rows = np.flatnonzero(detections.class_id == k)
            rows = rows[np.argsort(-detections.score[rows], kind="stable")][:max_detections]
            score.append(detections.score[rows])
            scene.append(np.full(len(rows), number))
            right.append(_right(detections.xyxy[rows].astype(float), one.xyxy[one.class_id == k].astype(float)))
        order = np.argsort(-np.concatenate(score), kind="stable")
        classes.append(Matches(np.concatenate(scene)[order], np.concatenate(right, axis=1)[:, order], boxes))
    return classes


def average_precision(matches: Sequence[Matches], draw: np.ndarray) -> tuple[float, float]:
    """Return mAP50 and mAP50-95, 0 to 1, of scenes that are contained draw[i] times each: (scenes,) whole numbers.

    Classes without a true box in the draw are left out of the mean.
    """
    each = []
    for one in matches:
        positive = int(draw @ one.boxes)
        if not positive:
            continue
        times = np.repeat(np.arange(len(one.scene)), draw[one.scene])
        hits = np.cumsum(one.right[:, times], axis=1)
        precision = hits / np.arange(1, len(times) + 1)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        row = np.zeros(len(THRESHOLDS))
        for t in range(len(THRESHOLDS)):
            at = np.searchsorted(hits[t] / positive, RECALL_POINTS, side="left")
            reached = at < len(times)
            row[t] = precision[t, at[reached]].sum() / len(RECALL_POINTS)
        each.append(row)
    if not each:
        return 0.0, 0.0
    mean = np.mean(each, axis=0)
    return float(mean[0]), float(mean.mean())


def _right(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return which of (n, 4) detections, best first, take a true box of (g, 4), by threshold: (10, n) bool."""
    result = np.zeros((len(THRESHOLDS), len(found)), bool)
    if not len(found) or not len(true):
        return result
    size = np.minimum(found[:, None, 2:], true[:, 2:]) - np.maximum(found[:, None, :2], true[:, :2])
    shared = np.clip(size, 0, None).prod(axis=2)
    areas = [(box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (found, true)]
    overlap = shared / np.maximum(areas[0][:, None] + areas[1] - shared, 1e-12)
    for t, threshold in enumerate(THRESHOLDS):
        free = np.ones(len(true), bool)
        for row in np.flatnonzero((overlap >= threshold).any(axis=1)):
            near = np.where(free, overlap[row], -1.0)
            # Among equal overlaps COCO takes the last box.
            best = len(near) - 1 - int(near[::-1].argmax())
            if near[best] >= threshold:
                result[t, row], free[best] = True, False
    return result
