"""Paired bootstrap over images and seeds: is one detector better than another on the same pictures, or lucky?

Mean average precision is no mean over images, so its spread cannot be read off per-image figures. Instead the images
are drawn again and again with replacement and the whole figure is computed for each draw (Efron and Tibshirani, "An
Introduction to the Bootstrap", 1993, chapters 6, 8 and 13). What makes that affordable: which detection matches which
true box does not depend on the draw. `match_images` matches once; a draw is then a weight per image, and
`average_precision` turns many rows of weights into many figures with a few cumulative sums.

Two detectors are compared on the same draws (`draw_images` once for all of them), so what makes an image hard for both
cancels. Training seeds are drawn as well, in pairs, so that the interval says what images and seeds do together.

k-fold: concatenate the folds' images and detections in the same order; each image was then found by the model that had
not seen it, and nothing here needs to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.annotations import AnnotatedImage
from deploy.detections import Detections
from deploy.metrics import MAX_DETECTIONS

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0, 1, 101)
# COCO's area ranges in square pixels, both ends inside, by the name that Accuracy gives them.
SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
_CHUNK_VALUES = 4_000_000  # of one float64 array at a time: 32 MB


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """What became of the n detections of one class, best score first, images in order where scores are equal.

    score: (n,) float32. image: (n,) int, which image each is from.
    tp: (4, 10, n) bool, found a counted true box; by size (in the order of SIZES) and IoU threshold.
    ignored: (4, 10, n) bool, neither right nor wrong: on a difficult box or on one of another size, or of another size
    itself without any.
    boxes: (4, images) int, counted true boxes of each image by size.
    """

    score: np.ndarray
    image: np.ndarray
    tp: np.ndarray
    ignored: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True, eq=False)
class ImageMatches:
    """The matches of each class, and over how many images."""

    classes: tuple[ClassMatches, ...]
    images: int


@dataclass(frozen=True)
class Difference:
    """How much better the first of two detectors is than the second, as measured and over the resamples.

    value: the measured difference. low, high: percentile interval. p: two-sided, never 0.
    covers: "images and seeds", or "images" where there is one seed only and nothing says how far seeds differ.
    """

    value: float
    low: float
    high: float
    p: float
    covers: str


def match_images(
    truth: Sequence[AnnotatedImage],
    detections: Sequence[Detections],
    class_count: int,
    max_detections: int = MAX_DETECTIONS,
) -> ImageMatches:
    """Match detections to true boxes as COCO does (Lin et al., 2014), once per image and class.

    truth, detections: one per image in the same order, boxes in image pixels; difficult boxes are crowd regions, as
    in deploy.metrics. max_detections: per image and class, best first.
    Raises ValueError where lengths or class ids do not fit.
    """
    if len(truth) != len(detections):
        raise ValueError(f"detections must be one per annotated image, got {len(detections)} for {len(truth)} images")
    parts: list[list[tuple[np.ndarray, ...]]] = [[] for _ in range(class_count)]
    boxes = np.zeros((class_count, len(SIZES), len(truth)), int)
    for i, (image, found) in enumerate(zip(truth, detections, strict=True)):
        present = np.union1d(image.class_id, found.class_id)
        if len(present) and not 0 <= present[0] <= present[-1] < class_count:
            raise ValueError(
                f"{image.path}: class_id must be 0 to {class_count - 1}, got {present[0]} to {present[-1]}; do the "
                f"class names fit the model and the data?"
            )
        for k in present:
            inside = image.class_id == k
            rows = np.flatnonzero(found.class_id == k)
            rows = rows[np.argsort(-found.score[rows], kind="stable")][:max_detections]
            tp, ignored, boxes[k, :, i] = _match(found.xyxy[rows], image.xyxy[inside], image.difficult[inside])
            parts[k].append((found.score[rows], np.full(len(rows), i), tp, ignored))
    return ImageMatches(tuple(_join(p, b) for p, b in zip(parts, boxes, strict=True)), len(truth))


def _join(parts: list[tuple[np.ndarray, ...]], boxes: np.ndarray) -> ClassMatches:
    if not parts:
        nothing = np.zeros((len(SIZES), len(IOU_THRESHOLDS), 0), bool)
        return ClassMatches(np.zeros(0, np.float32), np.zeros(0, int), nothing, nothing, boxes)
    score, image, tp, ignored = (np.concatenate(column, axis=-1) for column in zip(*parts, strict=True))
    order = np.argsort(-score, kind="stable")
    return ClassMatches(score[order], image[order], tp[..., order], ignored[..., order], boxes)


def _match(found: np.ndarray, true: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match (d, 4) detections, best first, to (g, 4) true boxes; returns tp, ignored (4, 10, d) and boxes (4,)."""
    overlap, found_area, true_area = _overlap(found.astype(float), true.astype(float), crowd)
    low, high = (np.array(list(SIZES.values()))[:, i, None] for i in (0, 1))
    left_out = crowd | (true_area < low) | (true_area > high)  # (4, g)
    other_size = (found_area < low) | (found_area > high)  # (4, d)
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    shape = (len(SIZES), len(thresholds), len(found))
    tp, on_left_out = np.zeros(shape, bool), np.zeros(shape, bool)
    free = np.ones((*shape[:2], len(true)), bool)
    counted = ~left_out[:, None]
    size, threshold = np.ogrid[: shape[0], : shape[1]]
    # A detection that overlaps nothing by the lowest threshold is unmatched everywhere: most of them are.
    for d in np.flatnonzero((overlap >= thresholds[0]).any(axis=1)):
        near = free & (overlap[d] >= thresholds[:, None])
        # Counted boxes first; among equal overlaps COCO takes the last box, hence the reversed search.
        wanted = near & counted
        wanted = np.where(wanted.any(axis=2, keepdims=True), wanted, near)
        matched = wanted.any(axis=2)
        choice = len(true) - 1 - np.where(wanted, overlap[d], -1.0)[..., ::-1].argmax(axis=2)
        right = counted[size, 0, choice] & matched
        tp[..., d], on_left_out[..., d] = right, matched & ~right
        free[size, threshold, choice] &= ~matched | crowd[choice]
    return tp, on_left_out | (~tp & ~on_left_out & other_size[:, None]), (~left_out).sum(axis=1)


def _overlap(found: np.ndarray, true: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return IoU (d, g), with a crowd the share of the detection, and both areas; the operations in COCO's order."""
    size_d, size_g = found[:, 2:] - found[:, :2], true[:, 2:] - true[:, :2]
    end = np.minimum((found[:, :2] + size_d)[:, None], true[:, :2] + size_g)
    shared = np.clip(end - np.maximum(found[:, None, :2], true[:, :2]), 0, None).prod(axis=2)
    area_d, area_g = size_d.prod(axis=1), size_g.prod(axis=1)
    union = np.where(crowd, area_d[:, None], area_d[:, None] + area_g - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), area_d, area_g


def draw_images(images: int, resamples: int, seed: int = 0) -> np.ndarray:
    """Draw `resamples` data sets of `images` images with replacement: how often each image is in, (resamples, images).

    Use the same draws for everything that is compared.
    """
    if images < 1 or resamples < 1:
        raise ValueError(f"a bootstrap needs images and resamples, got {images} images and {resamples} resamples")
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), resamples)


def average_precision(matches: ImageMatches, weights: np.ndarray, size: str = "all") -> np.ndarray:
    """Return mAP50 and mAP50-95, (r, 2) float64, of r data sets in which image i is contained weights[r, i] times.

    weights: (r, images), integers or floats from 0. Ones give what deploy.metrics.score_detections gives, and whole
    numbers what it gives for a list that repeats images. size: one of SIZES; true boxes of that size only.
    Classes without true boxes in a data set are left out of its mean; 0 where that leaves none.
    Raises ValueError for weights of another shape, or negative.
    """
    each = class_precision(matches, weights, size)
    known = ~np.isnan(each)
    total, count = np.where(known, each, 0).sum(axis=2), known.sum(axis=2)
    by_threshold = total / np.maximum(count, 1)
    return np.stack([by_threshold[:, 0], by_threshold.mean(axis=1)], axis=1)


def class_precision(matches: ImageMatches, weights: np.ndarray, size: str = "all") -> np.ndarray:
    """Return the average precision of each data set, IoU threshold and class: (r, 10, classes), NaN without truth.

    Arguments and errors as in `average_precision`.
    """
    weights = np.asarray(weights, float)
    if weights.ndim != 2 or weights.shape[1] != matches.images:
        raise ValueError(f"weights must have shape (resamples, {matches.images}), got {weights.shape}")
    if not (weights >= 0).all():  # also NaN
        raise ValueError(f"weights must be 0 or more, got {weights.min()}")
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    row = list(SIZES).index(size)
    result = np.empty((len(weights), len(IOU_THRESHOLDS), len(matches.classes)))
    for k, found in enumerate(matches.classes):
        step = max(1, _CHUNK_VALUES // max(1, len(found.image)))
        for start in range(0, len(weights), step):
            chunk = weights[start : start + step]
            result[start : start + step, :, k] = _one_class(found, row, chunk)
    return result


def _one_class(found: ClassMatches, row: int, weights: np.ndarray) -> np.ndarray:
    """Return the average precision (r, 10) of one class and size.

    Precision is only ever read at right detections. COCO's curve takes at recall point q the highest precision from the
    first detection on that reaches q; recall grows, and precision does not fall, at right detections only, so both
    that first detection and the highest precision are found there. Hence whatever comes after the last right one
    changes nothing, and 101 look-ups become a count of the recall points that each right detection is first to reach.

    A weight w stands for w copies, one after the other. Within the copies of a right detection precision does not fall,
    so the last copy, which is what the sums below hold, stands for all. A right detection of weight 0 reaches no new
    recall point, and its precision is at most that of the last one in before it: it does not lift the curve either.
    """
    truth = weights @ found.boxes[row]
    result = np.zeros((len(weights), len(IOU_THRESHOLDS)))
    tp, ignored = found.tp[row], found.ignored[row]
    right = np.flatnonzero(tp.any(axis=0))
    last = right[-1] + 1 if len(right) else 0
    weight = np.ascontiguousarray(weights.T)[found.image[:last]]  # (n, r): sums run over long contiguous rows
    any_ignored = ignored[:, :last].any()
    counted = np.cumsum(weight, axis=0)
    for t in range(len(IOU_THRESHOLDS)):
        at = np.flatnonzero(tp[t, :last])
        if not len(at):
            continue
        if any_ignored:
            counted = np.cumsum(weight * ~ignored[t, :last, None], axis=0)
        hits, tried = np.cumsum(weight[at], axis=0), counted[at]
        precision = np.divide(hits, tried, out=np.zeros_like(hits), where=tried > 0)
        precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        recall = np.divide(hits, truth, out=np.zeros_like(hits), where=truth > 0)
        reached = np.searchsorted(RECALL_POINTS, recall, side="right")
        # Recall point 0 is reached by the first detection of weight above 0, not by those of weight 0 before it.
        reached[hits == 0] = 0
        result[:, t] = (precision * np.diff(reached, axis=0, prepend=0)).sum(axis=0) / len(RECALL_POINTS)
    result[truth == 0] = np.nan
    return result


def paired_bootstrap(
    resampled_a: np.ndarray,
    resampled_b: np.ndarray,
    observed_a: np.ndarray,
    observed_b: np.ndarray,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> list[Difference]:
    """Compare two detectors, figure by figure (m of them: mAP50 and mAP50-95).

    resampled_a, resampled_b: (seeds, r, m), of the same draws of images and the same seeds in the same order.
    observed_a, observed_b: (seeds, m), on the images as they are.

    Each resample also draws seeds with replacement, the same ones on both sides, and takes their mean. With few
    seeds that understates the seeds' share of the variance, by (seeds - 1) / seeds. The interval holds the
    middle `level` of the resampled differences (Efron and Tibshirani, 1993, section 13.3); p is twice the smaller
    share of them at or beyond 0, with 1 added to both counts because what was measured is one of the possible results
    (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 4.2), and at most 1.
    Raises ValueError where shapes do not fit.
    """
    a, b = np.asarray(resampled_a, float), np.asarray(resampled_b, float)
    if a.shape != b.shape or a.ndim != 3 or 0 in a.shape:
        raise ValueError(f"both sides must have the same shape (seeds, resamples, figures), got {a.shape}, {b.shape}")
    measured = np.asarray(observed_a, float) - np.asarray(observed_b, float)
    seeds, resamples, figures = a.shape
    if measured.shape != (seeds, figures):
        raise ValueError(f"observed figures must have shape ({seeds}, {figures}), got {measured.shape}")
    share = np.random.default_rng(seed).multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
    drawn = np.einsum("srm,rs->rm", a - b, share)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    beyond = np.minimum((drawn <= 0).sum(axis=0), (drawn >= 0).sum(axis=0))
    p = np.minimum(1, 2 * (beyond + 1) / (resamples + 1))
    covers = "images and seeds" if seeds > 1 else "images"
    columns = zip(measured.mean(axis=0), low, high, p, strict=True)
    return [Difference(float(v), float(lo), float(hi), float(each), covers) for v, lo, hi, each in columns]
