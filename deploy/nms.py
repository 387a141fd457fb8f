"""Class-aware non-maximum suppression in NumPy: exact, and without an N x N matrix.

Greedy suppression walks the boxes from the best score down; a box survives unless one that already survived in the
same group overlaps it by more than the threshold. Two ways lead to exactly this result here:

- few overlapping candidates (the usual case): sort the boxes by group and left edge, so that the possible partners of a
  box lie in one window behind it; compare only these pairs, and settle all chains of suppression together.
- many: take the best `_BLOCK` of what is left, settle them among themselves, let those that survive suppress the rest,
  and go on with what remains, until `max_detections` are found.
"""

from __future__ import annotations

import numpy as np

_PAIR_LIMIT = 1 << 14
_BLOCK = 128
_DENSE_LIMIT = 1 << 20


def nms(
    xyxy: np.ndarray,
    score: np.ndarray,
    group: np.ndarray,
    iou_threshold: float,
    max_detections: int | None = None,
) -> np.ndarray:
    """Return the rows that greedy suppression keeps, best score first, equal scores by index.

    xyxy: (n, 4) float corners, any unit. score: (n,) float. group: (n,) integers from 0; boxes of different groups
    (classes, images) never suppress each other. iou_threshold: 0 to 1; a box goes when its overlap is *above* it.
    max_detections: keep at most so many, over all groups.
    Returns (kept,) intp. Raises ValueError for wrong shapes, values that are not finite, or a bad threshold.
    """
    xyxy, score, group = np.asarray(xyxy), np.asarray(score), np.asarray(group)
    n = len(score)
    if score.ndim != 1 or xyxy.shape != (n, 4) or group.shape != (n,):
        raise ValueError(
            f"nms needs xyxy (n, 4), score (n,) and group (n,), got {xyxy.shape}, {score.shape} and {group.shape}"
        )
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be between 0 and 1, got {iou_threshold}")
    if max_detections is not None and max_detections < 0:
        raise ValueError(f"max_detections must be 0 or more, got {max_detections}")
    if n == 0:
        return np.empty(0, np.intp)
    order = np.argsort(-score, kind="stable")
    # float64, so that overlaps of float32 boxes are decided as an exact calculation would.
    boxes = xyxy.T.astype(np.float64).take(order, axis=1)
    # Sorting puts NaN last.
    if not np.isfinite(boxes).all() or np.isnan(score[order[-1]]):
        raise ValueError("nms needs finite boxes and scores, got NaN or infinity; look at the model's outputs")
    group = group.take(order)
    area = (boxes[2] - boxes[0]) * (boxes[3] - boxes[1])
    window = _windows(boxes, group)
    if window[2] <= _PAIR_LIMIT:
        kept = _settle(n, *_overlaps(boxes, area, window, iou_threshold)).nonzero()[0]
    else:
        kept = _by_blocks(boxes, area, group, iou_threshold, n if max_detections is None else max_detections)
    return order.take(kept[:max_detections])


def _windows(boxes: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Sort boxes (4, n) by group and left edge; return that order, the partners behind each, and their total."""
    left, right = boxes[0], boxes[2]
    origin = left.min()
    # Groups lie side by side along x, further apart than any box reaches. Rounding is monotonic, and equal edges count
    # as partners, so no overlap is missed; what is too much fails the overlap test.
    shift = group * (2 * (right.max() - origin) + 1) - origin
    start = left + shift
    by_left = start.argsort()
    counts = start.take(by_left).searchsorted((right + shift).take(by_left), side="right")
    counts -= np.arange(1, len(counts) + 1)
    np.maximum(counts, 0, out=counts)
    return by_left, counts, int(counts.sum())


def _overlaps(
    boxes: np.ndarray, area: np.ndarray, window: tuple[np.ndarray, np.ndarray, int], iou_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs (better, worse) of rows of the score-sorted boxes (4, n) that overlap above the threshold."""
    by_left, counts, total = window
    first = by_left.repeat(counts)
    partner = np.arange(total)
    partner += (np.arange(1, len(counts) + 1) + counts - counts.cumsum()).repeat(counts)
    second = by_left.take(partner)
    a, b = boxes.take(first, axis=1), boxes.take(second, axis=1)
    size = np.minimum(a[2:], b[2:])
    size -= np.maximum(a[:2], b[:2])
    np.maximum(size, 0, out=size)
    shared = size[0] * size[1]
    hit = (shared > iou_threshold * (area.take(first) + area.take(second) - shared)).nonzero()[0]
    first, second = first.take(hit), second.take(hit)
    return np.minimum(first, second), np.maximum(first, second)


def _settle(n: int, better: np.ndarray, worse: np.ndarray) -> np.ndarray:
    """Return which of n score-sorted boxes survive, (n,) bool, from the pairs (better, worse) that overlap.

    Each round, a box that no undecided better box overlaps is certain to survive, and what it overlaps is certain to
    go. The best undecided box is always certain, so the rounds end; chains are short, so they are few.
    """
    alive = np.ones(n, bool)
    while len(better):
        certain = np.ones(n, bool)
        certain[worse] = False
        alive[worse[certain[better]]] = False
        undecided = alive[better] & alive[worse]
        better, worse = better[undecided], worse[undecided]
    return alive


def _by_blocks(
    boxes: np.ndarray, area: np.ndarray, group: np.ndarray, iou_threshold: float, max_detections: int
) -> np.ndarray:
    """Return the surviving rows of score-sorted boxes (4, n), in order, at least `max_detections` where there are."""
    rest = np.arange(boxes.shape[1])
    kept: list[np.ndarray] = []
    found = 0
    while len(rest) and found < max_detections:
        block, rest = rest[:_BLOCK], rest[_BLOCK:]
        inside, inside_area = boxes.take(block, axis=1), area.take(block)
        pairs = _overlaps(inside, inside_area, _windows(inside, group.take(block)), iou_threshold)
        winners = block[_settle(len(block), *pairs)]
        kept.append(winners)
        found += len(winners)
        step = max(1, _DENSE_LIMIT // max(1, len(rest)))
        for i in range(0, len(winners), step):
            rest = rest[~_suppressed(boxes, area, group, winners[i : i + step], rest, iou_threshold)]
    return np.concatenate(kept)


def _suppressed(
    boxes: np.ndarray, area: np.ndarray, group: np.ndarray, winners: np.ndarray, rest: np.ndarray, iou_threshold: float
) -> np.ndarray:
    """Return which rows of `rest` overlap a winner of their group above the threshold, (rest,) bool."""
    a, b = boxes[:, winners, None], boxes[:, None, rest]
    shared = np.minimum(a[2], b[2])
    shared -= np.maximum(a[0], b[0])
    np.maximum(shared, 0, out=shared)
    height = np.minimum(a[3], b[3])
    height -= np.maximum(a[1], b[1])
    np.maximum(height, 0, out=height)
    shared *= height
    hit = shared > iou_threshold * (area[winners, None] + area[rest] - shared)
    hit &= group[winners, None] == group[rest]
    return np.asarray(hit.any(axis=0))
