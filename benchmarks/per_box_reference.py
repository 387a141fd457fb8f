"""Post-processing as plain board code does it, box by box: what `deploy.postprocess` is measured against.

One loop over the cells of every level: sigmoid of the best class, threshold, softmax of four distributions, then
suppression with two nested loops. Nothing is slowed down on purpose: heads are dequantised by one vectorised call per
output, the class maximum and the softmax of a cell are NumPy calls, and cells below the threshold are left at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from deploy.detections import Detections
from deploy.head_layout import HeadLayout
from deploy.letterbox import Letterbox


def per_box_detections(
    heads: Sequence[np.ndarray],
    layout: HeadLayout,
    letterbox: Letterbox | None = None,
    *,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.7,
    max_detections: int = 300,
) -> Detections:
    """Decode one image, heads as `PostProcessor` takes them with a batch of one; logits, best class per cell."""
    found: list[tuple[float, int, list[float]]] = []
    bins = np.arange(layout.reg_max, dtype=np.float32)
    for level, stride in enumerate(layout.strides):
        box = _real(heads[2 * level][0], layout.box_scales[level] if layout.box_scales else None)
        cls = _real(heads[2 * level + 1][0], layout.class_scales[level] if layout.class_scales else None)
        height, width = cls.shape[1:]
        for y in range(height):
            for x in range(width):
                logits = cls[:, y, x]
                class_id = int(logits.argmax())
                score = 1 / (1 + math.exp(-logits[class_id]))
                if score < score_threshold:
                    continue
                sides = []
                for side in range(4):
                    distribution = box[side * layout.reg_max : (side + 1) * layout.reg_max, y, x]
                    weights = np.exp(distribution - distribution.max())
                    sides.append(float((weights * bins).sum() / weights.sum()))
                cx, cy = x + 0.5, y + 0.5
                corners = [cx - sides[0], cy - sides[1], cx + sides[2], cy + sides[3]]
                found.append((score, class_id, [corner * stride for corner in corners]))
    found.sort(key=lambda item: -item[0])
    kept: list[tuple[float, int, list[float]]] = []
    for candidate in found:
        if all(candidate[1] != k[1] or _overlap(candidate[2], k[2]) <= iou_threshold for k in kept):
            kept.append(candidate)
            if len(kept) == max_detections:
                break
    if not kept:
        return Detections.empty()
    xyxy = np.array([k[2] for k in kept], np.float32)
    return Detections(
        xyxy if letterbox is None else letterbox.to_image(xyxy),
        np.array([k[0] for k in kept], np.float32),
        np.array([k[1] for k in kept], np.int32),
    )


def _real(head: np.ndarray, scale: tuple[float, int] | None) -> np.ndarray:
    """Return a head (c, h, w) as float32."""
    if head.dtype != np.int8:
        return head
    if scale is None:
        raise ValueError("int8 heads need a scale and zero point per output")
    return (head.astype(np.float32) - scale[1]) * np.float32(scale[0])


def _overlap(a: list[float], b: list[float]) -> float:
    """Return the intersection over union of two boxes, 0 to 1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)
