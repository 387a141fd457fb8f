"""Post-processing of models that decode their boxes themselves: one output of boxes and scores -> Detections.

The usual export of others: per box four numbers and a score per class, in one tensor. What is left to do is the
threshold, the way from centre and size to corners, suppression, and the way back to image pixels; the last two are
those of raw heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .detections import Detections
from .head_layout import DecodedLayout
from .letterbox import Letterbox
from .postprocess import Selection, float32_from, logit


class DecodedPostProcessor(Selection):
    """Turn a decoded output into Detections. Holds constants only: one object may serve several threads.

    options: as of `Selection`.
    """

    def __init__(self, layout: DecodedLayout, **options: Any) -> None:
        super().__init__(layout.class_count, **options)
        self.layout = layout
        self._lowest_score = np.float32(self.score_threshold)
        self._threshold = self._lowest_score
        if not layout.activation_applied:
            self._threshold = float32_from(logit(self.score_threshold))
        height, width = layout.input_hw
        sides = (width, height, width, height) if layout.box_units == "fractions" else (1, 1, 1, 1)
        self._gain = np.array(sides, np.float32)[:, None]

    def __call__(self, heads: Sequence[np.ndarray], letterboxes: Sequence[Letterbox] | None = None) -> list[Detections]:
        """Decode a batch.

        heads: one array, (b, 4 + classes, boxes) float32, or (b, boxes, 4 + classes) where the layout says so.
        letterboxes: one per image; None leaves boxes in model pixels, not clipped.
        Returns one Detections per image, best score first, equal scores by box and then class.
        Raises ValueError for wrong shapes or dtypes, for NaN in a score, and for NaN or infinity in a box that reaches
        the threshold.
        """
        values = self._check(heads, letterboxes)
        batch = len(values)
        best = np.maximum.reduce(values[:, 4:], axis=1)
        if math.isnan(best.max()):  # a maximum hands NaN on
            raise ValueError("class scores hold NaN; the model or its input is broken")
        image, box = (best >= self._threshold).nonzero()
        if not len(box):
            return [Detections.empty() for _ in range(batch)]
        found = values[image, :, box].T
        if not np.isfinite(found[:4]).all():
            raise ValueError("boxes hold NaN or infinity; the model or its input is broken")
        boxes, scores = self._corners(found[:4]), found[4:]
        if self.multi_label and len(scores) > 1:
            row, class_id = (scores >= self._threshold).T.nonzero()
            boxes, image, score = boxes.take(row, axis=1), image.take(row), scores[class_id, row]
        else:
            class_id, score = scores.argmax(axis=0), scores.max(axis=0)
        if not self.layout.activation_applied:
            with np.errstate(over="ignore"):  # exp overflows to infinity, and the score to 0: right
                score = 1 / (1 + np.exp(-score))
            # A logit at the threshold passed by right, but the last bit of its score may have been rounded below it.
            np.maximum(score, self._lowest_score, out=score)
        return self.select(boxes, score, class_id, None if batch == 1 else image, batch, letterboxes)

    def _check(self, heads: Sequence[np.ndarray], letterboxes: Sequence[Letterbox] | None) -> np.ndarray:
        """Validate the output; return it as (b, 4 + classes, boxes) float32."""
        wanted = self.layout.output_hw
        if len(heads) != 1:
            raise ValueError(f"heads must be one array of shape (b, {wanted[0]}, {wanted[1]}), got {len(heads)}")
        output = heads[0]
        if output.ndim != 3 or output.shape[1:] != wanted or not len(output):
            raise ValueError(
                f"output must have shape (b, {wanted[0]}, {wanted[1]}), got {output.shape}; "
                "does the manifest fit the model?"
            )
        if output.dtype != np.float32:
            raise ValueError(
                f"a decoded output must be float32, got {output.dtype}; in int8 boxes and scores share one scale, and "
                "every score becomes 0: export raw heads"
            )
        if letterboxes is not None and len(letterboxes) != len(output):
            raise ValueError(f"letterboxes must be one per image, got {len(letterboxes)} for a batch of {len(output)}")
        return output.transpose(0, 2, 1) if self.layout.transposed else output

    def _corners(self, raw: np.ndarray) -> np.ndarray:
        """Return boxes (4, n) float32, rows x1, y1, x2, y2 in model pixels."""
        if self.layout.box_format == "xyxy":
            return raw * self._gain
        half = raw[2:] / 2
        return np.concatenate([raw[:2] - half, raw[:2] + half]) * self._gain
