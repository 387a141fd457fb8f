"""Boxes in torch: anchor points, distribution decoding and complete IoU, for the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def anchor_points(
    shapes_hw: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return cell centres (anchors, 2) float32, xy in model pixels, and the stride of each (anchors,) float32.

    Order: levels as given, rows then columns inside a level, as in the flattened heads.
    """
    points, stride_of = [], []
    for (h, w), stride in zip(shapes_hw, strides, strict=True):
        y, x = torch.meshgrid(
            torch.arange(h, device=device, dtype=torch.float32),
            torch.arange(w, device=device, dtype=torch.float32),
            indexing="ij",
        )
        points.append((torch.stack((x, y), -1).reshape(-1, 2) + 0.5) * stride)
        stride_of.append(torch.full((h * w,), float(stride), device=device))
    return torch.cat(points), torch.cat(stride_of)


def decode_distribution(box_logits: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Turn distance distributions into boxes (arXiv:2006.04388, eq. 3: the expectation over the bins).

    box_logits: (b, anchors, 4 * reg_max), order left, top, right, bottom. points: (anchors, 2) model pixels.
    strides: (anchors,). Returns (b, anchors, 4) float32, xyxy in model pixels.
    """
    b, a, c = box_logits.shape
    bins = torch.arange(c // 4, device=box_logits.device, dtype=torch.float32)
    distance = box_logits.float().view(b, a, 4, c // 4).softmax(-1) @ bins * strides[:, None]
    return torch.cat((points - distance[..., :2], points + distance[..., 2:]), -1)


def complete_iou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """Return the complete IoU of broadcast boxes (..., 4) xyxy, shape (...), in -1.5 to 1 (arXiv:1911.08287, eq. 10).

    The trade-off weight is a constant for the gradient, as in the paper.
    """
    ax1, ay1, ax2, ay2 = a.unbind(-1)
    bx1, by1, bx2, by2 = b.unbind(-1)
    aw, ah, bw, bh = ax2 - ax1, ay2 - ay1, bx2 - bx1, by2 - by1
    inter_w = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    inter_h = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    inter = inter_w * inter_h
    iou = inter / (aw * ah + bw * bh - inter + eps)
    hull_w = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    hull_h = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    diagonal = hull_w**2 + hull_h**2 + eps
    centre = ((ax1 + ax2 - bx1 - bx2) ** 2 + (ay1 + ay2 - by1 - by2) ** 2) / 4
    shape = (4 / math.pi**2) * (torch.atan(bw / (bh + eps)) - torch.atan(aw / (ah + eps))) ** 2
    with torch.no_grad():
        weight = shape / (shape - iou + (1 + eps))
    return iou - centre / diagonal - weight * shape
