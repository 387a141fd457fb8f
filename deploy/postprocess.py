"""Post-processing: raw heads -> Detections, whole batches at once, NumPy only.

A YOLOv8 head gives, per cell of each level, class logits and four distributions over distances to the box's sides. Of
some 5000 cells only a few hold an object, so the order of work decides the speed:

1. the best class of every cell, still as the integers or floats that came, against the threshold taken to that domain
   (no exp, no sigmoid, no dequantisation of what is thrown away);
2. for the survivors only: class, score, and the expected distance under the softmax of each distribution (Li et al.,
   "Generalized Focal Loss", 2020, eq. 5);
3. one class-aware suppression for the whole batch, then back to image pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .detections import Detections
from .head_layout import HeadLayout, Scale
from .letterbox import Letterbox
from .nms import nms

# Up to so many candidates in a batch, one suppression over all images costs less than one call for each.
_JOINT_LIMIT = 1024


class Selection:
    """Choose among candidates: the last steps of post-processing, whatever the model's outputs look like.

    score_threshold: keep scores of at least this, 0 to 1. iou_threshold, max_detections: see `nms`; the latter per
    image. max_candidates: the best so many per image enter suppression. multi_label: False keeps the best class of a
    cell, True every class above the threshold (for mean average precision at a low threshold).
    """

    def __init__(
        self,
        class_count: int,
        *,
        score_threshold: float = 0.25,
        iou_threshold: float = 0.7,
        max_detections: int = 300,
        max_candidates: int = 30000,
        multi_label: bool = False,
    ) -> None:
        for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        for name, value in (("max_detections", max_detections), ("max_candidates", max_candidates)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.class_count = class_count
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.max_detections, self.max_candidates = max_detections, max_candidates
        self.multi_label = multi_label

    def select(
        self,
        boxes: np.ndarray,
        score: np.ndarray,
        class_id: np.ndarray,
        image: np.ndarray | None,
        batch: int,
        letterboxes: Sequence[Letterbox] | None,
    ) -> list[Detections]:
        """Suppress what overlaps and go back to image pixels; returns one Detections per image of the batch.

        boxes: (4, n) float32, rows x1, y1, x2, y2 in model pixels. score, class_id: (n,). image: (n,) which image of
        the batch, None for a batch of one. letterboxes: one per image; None leaves boxes in model pixels, not clipped.
        """
        if len(score) > self.max_candidates:
            chosen = _best_per_image(score, image, batch, self.max_candidates)
            boxes, class_id, score = boxes.take(chosen, axis=1), class_id.take(chosen), score.take(chosen)
            image = image if image is None else image.take(chosen)
        results = []
        for i, rows in enumerate(self._suppress(boxes, score, class_id, image, batch)):
            xyxy = boxes.take(rows, axis=1).T
            if letterboxes is None:
                xyxy = np.ascontiguousarray(xyxy)
            else:
                xyxy = letterboxes[i].to_image(xyxy)
                seen = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
                if not seen.all():  # a box in the padding alone shows nothing of the image
                    xyxy, rows = xyxy[seen], rows[seen]
            results.append(Detections(xyxy, score.take(rows), class_id.take(rows)))
        return results

    def _suppress(
        self, boxes: np.ndarray, score: np.ndarray, class_id: np.ndarray, image: np.ndarray | None, batch: int
    ) -> list[np.ndarray]:
        """Return the kept rows of each image, best score first: boxes (4, n), score, class_id and image (n,)."""
        if image is None:
            return [nms(boxes.T, score, class_id, self.iou_threshold, self.max_detections)]
        if len(score) <= _JOINT_LIMIT:
            group = class_id + image * self.class_count
            return self._split(nms(boxes.T, score, group, self.iou_threshold), image, batch)
        # With many candidates the limit per image is what saves time, and one call over the batch could not use it.
        kept = []
        for i in range(batch):
            rows = (image == i).nonzero()[0]
            own = nms(
                boxes.take(rows, axis=1).T,
                score.take(rows),
                class_id.take(rows),
                self.iou_threshold,
                self.max_detections,
            )
            kept.append(rows.take(own))
        return kept

    def _split(self, kept: np.ndarray, image: np.ndarray, batch: int) -> list[np.ndarray]:
        """Deal the kept rows, best first, out to their images, at most `max_detections` each."""
        owner = image.take(kept)
        ends = np.bincount(owner, minlength=batch).cumsum()
        rows = kept.take(owner.argsort(kind="stable"))
        return [part[: self.max_detections] for part in np.split(rows, ends[:-1])]


class PostProcessor(Selection):
    """Turn raw heads into Detections. Holds constants only: one object may serve several threads.

    options: as of `Selection`.
    """

    def __init__(self, layout: HeadLayout, **options: Any) -> None:
        super().__init__(layout.class_count, **options)
        self.layout = layout
        score_threshold = self.score_threshold
        self._grids_hw = layout.grids_hw
        self._cells = [h * w for h, w in self._grids_hw]
        self._first_cell = [sum(self._cells[:i]) for i in range(len(self._cells))]
        self._cell_count = sum(self._cells)
        self._channels = 4 * layout.reg_max
        self._centres, self._steps = _anchors(layout)
        # One product gives, per distribution, the sum of its weights and the sum of weight times bin.
        self._bins = np.stack([np.ones(layout.reg_max), np.arange(layout.reg_max)]).astype(np.float32)
        threshold = score_threshold if layout.activation_applied else logit(score_threshold)
        self._threshold = np.float32(threshold) if layout.activation_applied else float32_from(threshold)
        self._lowest_score = np.float32(score_threshold)
        real = np.array([_dequantised(scale) for scale in layout.class_scales or ()]).reshape(-1, 256)
        # Lowest integer of each level that reaches the threshold; 128, which no int8 reaches, where none does.
        self._lowest = [int(row.searchsorted(threshold)) - 128 for row in real]
        scores = np.clip(real, 0, 1) if layout.activation_applied else 1 / (1 + np.exp(-np.clip(real, -700, 700)))
        self._scores = np.roll(scores, 128, axis=1).astype(np.float32).reshape(-1)
        self._score_rows = np.arange(0, len(self._scores), 256)
        self._box_scale = np.array([scale for scale, _ in layout.box_scales or ()], np.float32)

    def __call__(self, heads: Sequence[np.ndarray], letterboxes: Sequence[Letterbox] | None = None) -> list[Detections]:
        """Decode a batch.

        heads: per level a box output (b, 4 * reg_max, h, w) and a class output (b, classes, h, w), all float32 or all
        int8. letterboxes: one per image; None leaves boxes in model pixels, not clipped.
        Returns one Detections per image, best score first, equal scores by cell and then class.
        Raises ValueError for wrong shapes or dtypes, for NaN in a class head, and for NaN or infinity in the box of a
        cell that reaches the threshold (the boxes of all other cells are never read).
        """
        batch, quantised = self._check(heads, letterboxes)
        best, cell, counts = self._survivors(heads, batch, quantised)
        if not len(cell):
            return [Detections.empty() for _ in range(batch)]
        image, anchor, sides, classes = self._gather(heads, batch, cell, counts)
        row, class_id, score = self._classify(best, classes, counts, quantised)
        boxes = self._decode(sides, anchor, counts, quantised)
        if row is not None:
            boxes, image = boxes.take(row, axis=1), image if image is None else image.take(row)
        return self.select(boxes, score, class_id, image, batch, letterboxes)

    def _check(self, heads: Sequence[np.ndarray], letterboxes: Sequence[Letterbox] | None) -> tuple[int, bool]:
        """Validate the heads; return the batch size and whether they are int8."""
        layout = self.layout
        if len(heads) != 2 * len(layout.strides):
            raise ValueError(
                f"heads must be {2 * len(layout.strides)} arrays, box and class per stride of {layout.strides}, "
                f"got {len(heads)}"
            )
        shape, dtype = heads[0].shape, heads[0].dtype
        batch = shape[0] if shape else 0
        for i, head in enumerate(heads):
            channels = layout.class_count if i % 2 else self._channels
            if head.shape != (batch, channels, *self._grids_hw[i // 2]):
                kind = "class" if i % 2 else "box"
                raise ValueError(
                    f"heads[{i}] ({kind}, stride {layout.strides[i // 2]}) must have shape "
                    f"{(batch, channels, *self._grids_hw[i // 2])}, got {head.shape}; does the manifest fit the model?"
                )
            if head.dtype != dtype:
                raise ValueError(
                    f"heads must share one dtype, got {dtype} for heads[0] and {head.dtype} for heads[{i}]"
                )
        if dtype != np.int8 and dtype != np.float32:
            raise ValueError(f"heads must be float32 or int8, got {dtype}")
        if letterboxes is not None and len(letterboxes) != batch:
            raise ValueError(f"letterboxes must be one per image, got {len(letterboxes)} for a batch of {batch}")
        quantised = bool(dtype == np.int8)
        if quantised and (layout.box_scales is None or layout.class_scales is None):
            raise ValueError("int8 heads need a scale and zero point per output, the layout has none; export again")
        return batch, quantised

    def _survivors(
        self, heads: Sequence[np.ndarray], batch: int, quantised: bool
    ) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Find the cells whose best class reaches the threshold.

        Returns their best raw value (k,), their number in (level, image, cell) order (k,), and how many are of each
        level.
        """
        best = np.empty(batch * self._cell_count, np.int8 if quantised else np.float32)
        passed = np.empty(len(best), bool)
        counts = []
        for level, (first, cells) in enumerate(zip(self._first_cell, self._cells, strict=True)):
            part = slice(batch * first, batch * (first + cells))
            classes = heads[2 * level + 1].reshape(batch, -1, cells)
            np.maximum.reduce(classes, axis=1, out=best[part].reshape(batch, cells))
            if quantised:
                np.greater_equal(best[part], self._lowest[level], out=passed[part])
            else:
                # "Not below" instead of "at least": NaN stays in, and is found among the survivors.
                np.less(best[part], self._threshold, out=passed[part])
                np.logical_not(passed[part], out=passed[part])
            counts.append(int(np.count_nonzero(passed[part])))
        cell = passed.nonzero()[0]
        best = best.take(cell)
        if not quantised and len(best) and math.isnan(best.max()):
            raise ValueError("class heads hold NaN; the model or its input is broken")
        return best, cell, counts

    def _gather(
        self, heads: Sequence[np.ndarray], batch: int, cell: np.ndarray, counts: list[int]
    ) -> tuple[np.ndarray | None, np.ndarray, np.ndarray, np.ndarray]:
        """Collect the survivors' columns from all levels.

        Returns image (k,) or None for a batch of one, anchor (k,) over all levels, box values (4 * reg_max, k) and
        class values (classes, k), both raw.
        """
        sides, classes, images, anchors = [], [], [], []
        end = 0
        for level, (first, cells, count) in enumerate(zip(self._first_cell, self._cells, counts, strict=True)):
            if not count:
                continue
            begin, end = end, end + count
            local = cell[begin:end] - batch * first
            box, cls = heads[2 * level], heads[2 * level + 1]
            if batch == 1:
                sides.append(box.reshape(-1, cells).take(local, axis=1))
                classes.append(cls.reshape(-1, cells).take(local, axis=1))
                continue
            image = local // cells
            anchor = local - image * cells
            images.append(image)
            anchors.append(anchor + first)
            for out, head in ((sides, box), (classes, cls)):
                channels = head.shape[1]
                column = anchor + image * (channels * cells)
                out.append(head.reshape(-1).take(column + np.arange(0, channels * cells, cells)[:, None]))
        joined_sides, joined_classes = _join(sides, axis=1), _join(classes, axis=1)
        if batch == 1:
            return None, cell, joined_sides, joined_classes
        return _join(images), _join(anchors), joined_sides, joined_classes

    def _classify(
        self, best: np.ndarray, classes: np.ndarray, counts: list[int], quantised: bool
    ) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
        """Name and score the candidates: best (k,) and classes (classes, k) raw.

        Returns row (n,), the survivor that each candidate is, or None where they are one to one, class_id (n,) and
        score (n,) float32.
        """
        row = None
        if self.multi_label and len(classes) > 1:
            if quantised:
                passed = classes >= np.repeat(self._lowest, counts)
            else:
                passed = ~(classes < self._threshold)
            row, class_id = passed.T.nonzero()
            raw = classes[class_id, row]
        else:
            class_id, raw = classes.argmax(axis=0), best
        if quantised:
            # Reading int8 as uint8 puts -128..-1 behind 0..127, the order of the tables.
            table = self._score_rows.repeat(counts)
            return row, class_id, self._scores.take(raw.view(np.uint8) + (table if row is None else table.take(row)))
        if self.layout.activation_applied:
            return row, class_id, raw
        with np.errstate(over="ignore"):  # exp overflows to infinity for logits below -88, and the score to 0: right
            score = 1 / (1 + np.exp(-raw))
        # A logit at the threshold passed by right, but the last bit of its score may have been rounded below it.
        return row, class_id, np.maximum(score, self._lowest_score, out=score)

    def _decode(self, sides: np.ndarray, anchor: np.ndarray, counts: list[int], quantised: bool) -> np.ndarray:
        """Return boxes (4, k) float32, rows x1, y1, x2, y2 in model pixels, from raw distributions (4 * reg_max, k)."""
        weights = sides.reshape(4, self.layout.reg_max, -1)
        if quantised:
            # The zero point is one constant per distribution, which a softmax does not see.
            weights = weights * self._box_scale.repeat(counts)
        elif not np.isfinite(weights).all():
            raise ValueError("box heads hold NaN or infinity; the model or its input is broken")
        weights = weights - weights.max(axis=1, keepdims=True)
        np.exp(weights, out=weights)
        sums = self._bins @ weights
        boxes = sums[:, 1] / sums[:, 0]
        boxes *= self._steps.take(anchor, axis=1)
        boxes += self._centres.take(anchor, axis=1)
        return boxes


def _anchors(layout: HeadLayout) -> tuple[np.ndarray, np.ndarray]:
    """Return cell centres (x, y, x, y) and steps (-s, -s, s, s) in model pixels, both (4, cells) float32."""
    centres, steps = [], []
    for (h, w), stride in zip(layout.grids_hw, layout.strides, strict=True):
        y, x = (np.indices((h, w)).reshape(2, -1) + 0.5) * stride
        centres.append([x, y, x, y])
        steps.append(np.repeat([[-stride], [-stride], [stride], [stride]], h * w, axis=1))
    return np.concatenate(centres, axis=1).astype(np.float32), np.concatenate(steps, axis=1).astype(np.float32)


def logit(probability: float) -> float:
    """Return the logit of a probability, infinite at 0 and 1."""
    if probability in (0, 1):
        return -math.inf if probability == 0 else math.inf
    return math.log(probability / (1 - probability))


def float32_from(value: float) -> np.float32:
    """Return the lowest float32 that is not below `value`."""
    nearest = np.float32(value)
    return nearest if float(nearest) >= value else np.nextafter(nearest, np.float32(np.inf))


def _dequantised(scale: Scale) -> np.ndarray:
    """Return the real values, (256,) float64, of the integers -128 to 127."""
    return (np.arange(-128, 128) - float(scale[1])) * float(scale[0])


def _best_per_image(score: np.ndarray, image: np.ndarray | None, batch: int, count: int) -> np.ndarray:
    """Return the rows of the best `count` scores of each image, in the order in which they came."""
    order = np.argsort(-score, kind="stable")
    if image is None:
        return np.sort(order[:count])
    owner = image.take(order)
    return np.sort(np.concatenate([order[owner == i][:count] for i in range(batch)]))


def _join(parts: list[np.ndarray], axis: int = 0) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)
