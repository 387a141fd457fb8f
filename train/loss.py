"""The detection loss: task-aligned assignment, then complete IoU, distribution focal and binary cross-entropy terms.

Which anchors answer for which object is decided anew in every step from how well classification and localisation agree
(TOOD, arXiv:2108.07755, eq. 3: t = score^alpha * IoU^beta, best 10 cells inside the box). The class target of a chosen
anchor is its normalised alignment, the box terms are weighted by it, and every sum is divided by the sum of these
targets over the whole batch (over all processes), so that a batch cut into pieces gives the same gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from .boxes import anchor_points, complete_iou, decode_distribution
from .model import REG_MAX, STRIDES


@dataclass(frozen=True)
class Targets:
    """The objects of a batch, padded to the largest image.

    xyxy: (b, m, 4) float32, model pixels. class_id: (b, m) int64. valid: (b, m) bool.
    """

    xyxy: Tensor
    class_id: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> Targets:
        """Move to a device without waiting for the copy."""
        return Targets(*(t.to(device, non_blocking=True) for t in (self.xyxy, self.class_id, self.valid)))


@dataclass(frozen=True)
class Assignment:
    """Which anchor answers for what: scores (b, a, classes), boxes (b, a, 4) model pixels, positive (b, a) bool."""

    scores: Tensor
    xyxy: Tensor
    positive: Tensor


@torch.no_grad()
def assign(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    strides: Tensor,
    targets: Targets,
    *,
    top: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
) -> Assignment:
    """Choose the anchors of each object (task-aligned learning, arXiv:2108.07755, section 3.2).

    scores: (b, a, classes) probabilities. boxes: (b, a, 4) predicted, model pixels. points: (a, 2) cell centres,
    strides: (a,) of their levels.
    Candidates are the cells whose centre lies inside the box; a box so small that it holds no centre (common in aerial
    images) takes the nearest cell of the finest level, or it would never be learnt. An anchor wanted by several
    objects goes to the one it overlaps most.

    Works on the list of (object, candidate) pairs: of objects times anchors, one pair in a hundred is a candidate.
    """
    b, a, classes = scores.shape
    m = targets.valid.shape[1]
    image, gt, anchor = _candidates(targets, points, strides)
    truth = targets.xyxy[image, gt]
    label = targets.class_id[image, gt].clamp(0, classes - 1)
    overlap = complete_iou(truth, boxes[image, anchor]).clamp(min=0)
    align = scores[image, anchor, label].pow(alpha) * overlap.pow(beta)

    # Candidates without any overlap yet still fill the ten places: early in training every object must own anchors.
    best = _first_of_group(image * m + gt, align, top)
    keep = best[_first_of_group((image * a + anchor)[best], overlap[best], 1)]
    image, gt, anchor, truth, label, overlap, align = (
        v[keep] for v in (image, gt, anchor, truth, label, overlap, align)
    )

    owner = image * m + gt
    strongest = align.new_zeros(b * m).scatter_reduce(0, owner, align, "amax")
    best_overlap = overlap.new_zeros(b * m).scatter_reduce(0, owner, overlap, "amax")
    quality = align * best_overlap[owner] / (strongest[owner] + 1e-9)
    target_scores, target_boxes = torch.zeros_like(scores), torch.zeros_like(boxes)
    positive = torch.zeros((b, a), dtype=torch.bool, device=scores.device)
    target_scores[image, anchor, label] = quality
    target_boxes[image, anchor] = truth
    positive[image, anchor] = True
    return Assignment(target_scores, target_boxes, positive)


def _candidates(targets: Targets, points: Tensor, strides: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """List the (image, object, anchor) indices of all candidates, each (pairs,) int64."""
    x1, y1, x2, y2 = targets.xyxy[..., None].unbind(2)
    px, py = points.unbind(1)
    inside = (px > x1) & (px < x2) & (py > y1) & (py < y2) & targets.valid[..., None]
    pairs = inside.nonzero()
    homeless = (targets.valid & ~inside.any(-1)).nonzero()
    if len(homeless):
        box = targets.xyxy[homeless[:, 0], homeless[:, 1]]
        fine = (strides == strides.min()).nonzero()[:, 0]
        away = ((box[:, None, :2] + box[:, None, 2:]) / 2 - points[fine]).square().sum(-1)
        pairs = torch.cat((pairs, torch.cat((homeless, fine[away.argmin(-1, keepdim=True)]), 1)))
    return pairs[:, 0], pairs[:, 1], pairs[:, 2]


def _first_of_group(group: Tensor, value: Tensor, count: int) -> Tensor:
    """Return the positions of the `count` largest values of each group; equal values in the order given."""
    order = value.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    in_order = group[order]
    place = torch.arange(len(order), device=order.device)
    starts = torch.searchsorted(in_order, in_order)
    return order[place - starts < count]


class DetectionLoss(nn.Module):
    """Turn raw heads and targets into the named losses `box`, `cls` and `dfl`, already multiplied by their gains."""

    def __init__(self, box_gain: float = 7.5, cls_gain: float = 0.5, dfl_gain: float = 1.5) -> None:
        super().__init__()
        self.gains = {"box": box_gain, "cls": cls_gain, "dfl": dfl_gain}

    def forward(self, heads: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """Return scalar losses.

        heads: [box, class] per stride 8, 16, 32: (b, 64, h, w), (b, classes, h, w) logits. A batch without any object
        gives box and dfl of exactly 0, and the class term over the background.
        """
        # Autocast would run the expectation over the bins in bfloat16, a tenth of a cell off.
        with torch.autocast(heads[0].device.type, enabled=False):
            sums, weight = self.sums(heads, targets)
        share = 1.0
        if dist.is_available() and dist.is_initialized():
            # DistributedDataParallel averages gradients over the processes; dividing by the mean weight makes that
            # average equal to one process seeing all images.
            weight = weight.clone()
            dist.all_reduce(weight)
            share = dist.get_world_size()
        scale = share / weight.clamp(min=1.0)
        return {name: value * (scale * self.gains[name]) for name, value in sums.items()}

    def sums(self, heads: list[Tensor], targets: Targets) -> tuple[dict[str, Tensor], Tensor]:
        """Return the unnormalised sums over the batch and the sum of the target scores: additive over images."""
        shapes = [(int(h.shape[2]), int(h.shape[3])) for h in heads[::2]]
        points, strides = anchor_points(shapes, STRIDES, heads[0].device)
        box_logits = torch.cat([h.flatten(2) for h in heads[::2]], 2).transpose(1, 2).float()
        class_logits = torch.cat([h.flatten(2) for h in heads[1::2]], 2).transpose(1, 2).float()
        boxes = decode_distribution(box_logits, points, strides)
        assigned = assign(class_logits.detach().sigmoid(), boxes.detach(), points, strides, targets)
        cls = functional.binary_cross_entropy_with_logits(class_logits, assigned.scores, reduction="sum")
        weight = assigned.scores.sum()
        chosen = assigned.positive
        if not bool(chosen.any()):
            # Kept in the graph: with several processes every parameter needs a gradient in every step.
            nothing = box_logits.sum() * 0
            return {"box": nothing, "cls": cls, "dfl": nothing}, weight
        each = assigned.scores.sum(-1)[chosen]
        iou = complete_iou(boxes[chosen], assigned.xyxy[chosen])
        box = ((1 - iou) * each).sum()
        at = chosen.nonzero()[:, 1]
        centre, stride = points[at], strides[at][:, None]
        wanted = torch.cat((centre - assigned.xyxy[chosen][:, :2], assigned.xyxy[chosen][:, 2:] - centre), -1) / stride
        dfl = (distribution_focal(box_logits[chosen].view(-1, 4, REG_MAX), wanted) * each).sum()
        return {"box": box, "cls": cls, "dfl": dfl}, weight


def distribution_focal(logits: Tensor, distance: Tensor) -> Tensor:
    """Return the distribution focal loss (arXiv:2006.04388, eq. 6), mean over the four sides.

    logits: (n, 4, reg_max). distance: (n, 4) in strides, clipped to what the bins can say. Returns (n,).
    """
    bins = logits.shape[-1]
    distance = distance.clamp(0, bins - 1 - 0.01)
    left = distance.long()
    right_share = distance - left
    log_p = logits.log_softmax(-1)
    low = -log_p.gather(-1, left[..., None])[..., 0]
    high = -log_p.gather(-1, left[..., None] + 1)[..., 0]
    return (low * (1 - right_share) + high * right_share).mean(-1)
