"""Mean average precision (a kept library behind one function), and plain counts of hits and misses.

`score_detections` follows the COCO protocol (Lin et al., 2014): average precision over 101 recall points, averaged over
classes that have true boxes; IoU 0.50 or the mean over 0.50, 0.55 ... 0.95; at most 100 detections per image and class.
Sizes are of the true box in image pixels: small below 32 x 32, large from 96 x 96.

Difficult boxes are COCO's crowd regions: not finding one costs nothing, and detections on one are left out of the
count instead of being right or wrong. A detection is on a crowd region where the overlap makes up the IoU threshold's
share of the *detection's* area, and several may be on the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .annotations import AnnotatedImage
from .detections import Detections

MAX_DETECTIONS = 100


@dataclass(frozen=True)
class Accuracy:
    """Report how well detections fit the truth. All fractions are 0 to 1.

    map50, map50_95: mean average precision; 0.0 where there is no true box at all (`boxes` is 0).
    per_class: by name, {"map50", "map50_95", "boxes"}; the first two None for a class without true boxes.
    small, medium, large: map50_95 of true boxes of that size, None where there are none.
    recall: share of true boxes found at IoU 0.50, whatever the score, mean over classes.
    images, boxes: how many were scored, difficult boxes not counted.
    """

    map50: float
    map50_95: float
    per_class: dict[str, dict[str, float | int | None]]
    small: float | None
    medium: float | None
    large: float | None
    recall: float
    images: int
    boxes: int

    def to_json(self) -> dict[str, Any]:
        """Return a dict that json.dump takes; the keys are the field names."""
        return asdict(self)


@dataclass(frozen=True)
class MatchCounts:
    """Count detections that are right (tp) or wrong (fp) and true boxes that were missed (fn).

    per_image: (tp, fp, fn) of each image, in order.
    """

    per_image: tuple[tuple[int, int, int], ...]

    @property
    def tp(self) -> int:
        """True positives over all images."""
        return sum(counts[0] for counts in self.per_image)

    @property
    def fp(self) -> int:
        """False positives over all images."""
        return sum(counts[1] for counts in self.per_image)

    @property
    def fn(self) -> int:
        """False negatives over all images."""
        return sum(counts[2] for counts in self.per_image)

    @property
    def precision(self) -> float | None:
        """Share of counted detections that are right, None without any."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else None

    @property
    def recall(self) -> float | None:
        """Share of true boxes that were found, None without any."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else None


def score_detections(
    truth: Sequence[AnnotatedImage],
    detections: Sequence[Detections],
    class_names: Sequence[str],
    *,
    max_detections: int = MAX_DETECTIONS,
) -> Accuracy:
    """Score detections against the truth, image by image in the same order, both in image pixels.

    For a meaningful result, detections need a low score threshold (0.001) and `multi_label` post-processing.
    max_detections: per image and class, best first.
    Raises ValueError where lengths or class ids do not fit, or where the host extra is not installed.
    """
    _check(truth, detections, len(class_names))
    boxes_per_class = np.zeros(len(class_names), int)
    for image in truth:
        boxes_per_class += np.bincount(image.class_id[~image.difficult], minlength=len(class_names))
    precision, recall = _evaluate(truth, detections, class_names, max_detections)
    return Accuracy(
        map50=_mean(precision[0, :, :, 0]) or 0.0,
        map50_95=_mean(precision[:, :, :, 0]) or 0.0,
        per_class={
            name: {
                "map50": _mean(precision[0, :, k, 0]),
                "map50_95": _mean(precision[:, :, k, 0]),
                "boxes": int(boxes_per_class[k]),
            }
            for k, name in enumerate(class_names)
        },
        small=_mean(precision[:, :, :, 1]),
        medium=_mean(precision[:, :, :, 2]),
        large=_mean(precision[:, :, :, 3]),
        recall=_mean(recall[0, :, 0]) or 0.0,
        images=len(truth),
        boxes=int(boxes_per_class.sum()),
    )


def match_counts(
    truth: Sequence[AnnotatedImage], detections: Sequence[Detections], score_threshold: float, iou: float = 0.5
) -> MatchCounts:
    """Count right, wrong and missed boxes per image at one score threshold.

    Best score first, a detection takes the free true box of its class that it overlaps most, from `iou` up. One that
    finds none, but overlaps a difficult box of its class by `iou`, is not counted.
    """
    _check(truth, detections, None)
    per_image = []
    for image, found in zip(truth, detections, strict=True):
        rows = np.flatnonzero(found.score >= score_threshold)
        rows = rows[np.argsort(-found.score[rows], kind="stable")]
        overlap = _iou(found.xyxy[rows], image.xyxy)
        overlap[found.class_id[rows][:, None] != image.class_id] = -1
        plain, hard = overlap[:, ~image.difficult], overlap[:, image.difficult]
        tp = fp = 0
        for i in range(len(rows)):
            best = int(plain[i].argmax()) if plain.shape[1] else -1
            if best >= 0 and plain[i, best] >= iou:
                tp += 1
                plain[:, best] = -1
            elif not (hard[i] >= iou).any():
                fp += 1
        per_image.append((tp, fp, plain.shape[1] - tp))
    return MatchCounts(tuple(per_image))


def _check(truth: Sequence[AnnotatedImage], detections: Sequence[Detections], class_count: int | None) -> None:
    if len(truth) != len(detections):
        raise ValueError(f"detections must be one per annotated image, got {len(detections)} for {len(truth)} images")
    if class_count is None:
        return
    for image, found in zip(truth, detections, strict=True):
        for what, ids in (("annotation", image.class_id), ("detection", found.class_id)):
            if len(ids) and not 0 <= ids.min() <= ids.max() < class_count:
                raise ValueError(
                    f"{image.path}: class_id of every {what} must be 0 to {class_count - 1}, got {ids.min()} to "
                    f"{ids.max()}; do the class names fit the model and the data?"
                )


def _evaluate(
    truth: Sequence[AnnotatedImage], detections: Sequence[Detections], class_names: Sequence[str], max_detections: int
) -> tuple[np.ndarray, np.ndarray]:
    """Run the library; return precision (iou, recall point, class, size) and recall (iou, class, size), -1: no truth.

    Sizes are all, small, medium, large.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ValueError(
            f"scoring needs faster-coco-eval, which cannot be imported ({error}); pip install 'rsedge[host]'"
        ) from error
    shape = (10, 101, len(class_names), 4)
    if not truth:
        return np.full(shape, -1.0), np.full(shape[:1] + shape[2:], -1.0)
    quiet: dict[str, Any] = {"print_function": _say_nothing}
    expected = COCO(coco_truth(truth, class_names), **quiet)
    run = COCOeval_faster(expected, expected.loadRes(coco_detections(detections)), iouType="bbox", **quiet)
    run.params.maxDets = [max_detections]
    run.evaluate()
    run.accumulate()
    return np.asarray(run.eval["precision"])[..., -1], np.asarray(run.eval["recall"])[..., -1]


def coco_truth(truth: Sequence[AnnotatedImage], class_names: Sequence[str]) -> dict[str, Any]:
    """Return the truth as a COCO dataset: image ids from 1 in order, category ids from 1."""
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(truth, 1):
        x1, y1, x2, y2 = image.xyxy.astype(float).reshape(-1, 4).T
        rows = np.stack([x1, y1, x2 - x1, y2 - y1], axis=1).tolist()
        for bbox, class_id, difficult in zip(rows, image.class_id.tolist(), image.difficult.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": class_id + 1,
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": int(difficult),
                }
            )
    return {
        "info": {},
        "images": [
            {"id": i, "file_name": t.path.name, "height": t.size_hw[0], "width": t.size_hw[1]}
            for i, t in enumerate(truth, 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(class_names, 1)],
        "annotations": annotations,
    }


def coco_detections(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """Return detections as COCO results: image ids from 1 in order, category ids from 1, boxes x, y, width, height."""
    results: list[dict[str, Any]] = []
    for image_id, found in enumerate(detections, 1):
        x1, y1, x2, y2 = found.xyxy.astype(float).T
        rows = np.stack([x1, y1, x2 - x1, y2 - y1], axis=1).tolist()
        for bbox, score, class_id in zip(rows, found.score.tolist(), found.class_id.tolist(), strict=True):
            results.append({"image_id": image_id, "category_id": class_id + 1, "bbox": bbox, "score": score})
    return results


def _say_nothing(*_: object) -> None:
    """Take the place of the library's print function."""


def _mean(values: np.ndarray) -> float | None:
    """Return the mean of what COCO could measure (-1 marks the rest), None where that is nothing."""
    measured = values[values > -1]
    return float(measured.mean()) if len(measured) else None


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the overlaps (len(a), len(b)) float64 of boxes (n, 4)."""
    a, b = a.astype(float).reshape(-1, 1, 4), b.astype(float).reshape(1, -1, 4)
    size = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    shared = size[..., 0] * size[..., 1]
    area_a, area_b = ((x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b))
    union = area_a + area_b - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
