"""Local-attention magnitude and context-relation distillation between a teacher and a student.

Objects are given a level by their size, their cells a weight that is larger for smaller objects; attended features are
compared there and over the background (magnitude), and so are the cosines between objects and between each object and
its surroundings (relation). Shapes: b images, m padded objects per image, maps (b, c, h, w) at strides 8, 16, 32.

Choices that the method leaves open, and what stands here unless a recipe says otherwise:

- The level formula is the literal one. Its level 2 begins at boxes of half the image's side, so that in most aerial
  images every object is on the finest level; `level_offset` moves the borders (2: level 2 from an eighth, level 3 from
  a quarter), `levels = "all"` puts every object on every level.
- A cell is covered when the box shares area with it: floor(x1 / s) up to, not including, ceil(x2 / s).
- `eps`, the weight of cells outside the foreground, is 0: what is outside counts in the background term.
- Attention is pooled over channels, cell by cell; computing it inside a region is therefore the same as restricting it.
- The mean over all pairs of objects includes the diagonal, where both cosines are 1.
- With several processes the objects of the "whole batch" are those of the process's own share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .loss import Targets
from .teacher_student import Adapters, Outputs

# Channels that hardly move would otherwise turn rounding noise into a loss.
SMALLEST_DEVIATION = 0.02

Attention = Literal["teacher", "own", "none"]
Levels = Literal["size", "all"]


@dataclass(frozen=True)
class Regions:
    """Where the objects are on one level.

    cells: (b, m, h, w) bool, the cells each object of this level covers, all False for padding and other levels.
    member: (b, m) bool, the objects of this level. weight: (b, h, w) float32, `w_i` on the cells of object i, the
    larger where objects overlap, 0 elsewhere. background: (b, h, w) bool, cells that no object of any level covers.
    """

    cells: Tensor
    member: Tensor
    weight: Tensor
    background: Tensor


def level_of(xyxy: Tensor, image_hw: tuple[int, int], level_count: int = 3, offset: float = 0.0) -> Tensor:
    """Return the level of each box, 1 (finest) to `level_count`, int64: clamp(floor(L + log2(sqrt(wh / WH))), 1, L).

    xyxy: (..., 4) in pixels of an image of `image_hw`. offset: added inside the floor. Boxes without area get level 1.
    """
    wh = (xyxy[..., 2:] - xyxy[..., :2]).clamp(min=0)
    share = wh[..., 0] * wh[..., 1] / (image_hw[0] * image_hw[1])
    # log2 of a root is half the log2: exact at powers of two, where a box changes its level.
    raw = (level_count + offset + torch.log2(share) / 2).floor()
    return raw.clamp(1, level_count).long()


def size_weights(xyxy: Tensor, valid: Tensor) -> Tensor:
    """Return A_avg / A_i of each box, (b, m) float32, 0 for padding; A_avg is the mean area over the image's boxes.

    Areas are in square pixels and count at least 1, so that a box that was cut down to a line has a finite weight.
    """
    wh = (xyxy[..., 2:] - xyxy[..., :2]).clamp(min=0)
    area = (wh[..., 0] * wh[..., 1]).clamp(min=1)
    mean = (area * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1)
    return mean / area * valid


def covered_cells(xyxy: Tensor, stride: int, hw: tuple[int, int]) -> Tensor:
    """Return (b, m, h, w) bool: the cells of a level that each box shares area with, at least one each."""
    rows, columns = covered_spans(xyxy, stride, hw)
    return rows[..., :, None] & columns[..., None, :]


def covered_spans(xyxy: Tensor, stride: int, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the rows (b, m, h) and the columns (b, m, w) of a level that each box covers, bool, at least one each."""
    return _span(xyxy[..., 1], xyxy[..., 3], stride, hw[0]), _span(xyxy[..., 0], xyxy[..., 2], stride, hw[1])


def _span(low: Tensor, high: Tensor, stride: int, count: int) -> Tensor:
    """Return (b, m, count) bool: which of `count` cells of `stride` pixels lie between two coordinates."""
    first = (low / stride).floor().clamp(0, count - 1)
    end = torch.maximum((high / stride).ceil().clamp(max=count), first + 1)
    at = torch.arange(count, device=low.device)
    return (at >= first[..., None]) & (at < end[..., None])


def regions_of(
    targets: Targets,
    stride: int,
    hw: tuple[int, int],
    level: int,
    *,
    size_aware: bool = True,
    levels: Levels = "size",
    level_offset: float = 0.0,
) -> Regions:
    """Return the regions of level `level` (1 the finest), whose map has `hw` cells of `stride` pixels.

    size_aware: False gives every object the weight 1. levels: "all" puts every object on this level too.
    """
    image_hw = (hw[0] * stride, hw[1] * stride)
    everywhere = covered_cells(targets.xyxy, stride, hw) & targets.valid[..., None, None]
    member = targets.valid
    if levels == "size":
        member = member & (level_of(targets.xyxy, image_hw, offset=level_offset) == level)
    cells = everywhere & member[..., None, None]
    each = size_weights(targets.xyxy, targets.valid) if size_aware else targets.valid.float()
    b, m = targets.valid.shape
    weight = (cells * each[..., None, None]).amax(1) if m else torch.zeros(b, *hw, device=targets.valid.device)
    return Regions(cells, member, weight, ~everywhere.any(1))


def spatial_attention(features: Tensor) -> Tensor:
    """Return sigmoid(mean over channels + maximum over channels), (b, 1, h, w), of a map (b, c, h, w)."""
    return torch.sigmoid(features.mean(1, keepdim=True) + features.amax(1, keepdim=True))


def magnitude_terms(
    student: Tensor,
    teacher: Tensor,
    regions: Regions,
    *,
    attention: Attention = "teacher",
    eps: float = 0.0,
    standardise: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return L_fg and L_bg of each image, (b,) each.

    student, teacher: (b, c, h, w) float32, the student after its adapter. eps: weight of the cells outside the
    foreground. standardise: measure the gap in standard deviations of each teacher channel over the batch, so that
    quiet channels count as much as loud ones. Each sum is divided by its masked cells times channels; without a masked
    cell it is exactly 0.
    """
    if attention == "none":
        gap = teacher - student
    elif attention == "teacher":
        gap = spatial_attention(teacher) * (teacher - student)
    else:
        gap = spatial_attention(teacher) * teacher - spatial_attention(student) * student
    if standardise:
        gap = gap / teacher.std((0, 2, 3), keepdim=True).clamp(min=SMALLEST_DEVIATION)
    square = gap.square().sum(1)
    foreground = regions.weight > 0
    inside = foreground.sum((1, 2))
    weight = torch.where(foreground, regions.weight, eps) if eps else regions.weight
    # Multiplied, not selected: an image without objects must keep the adapter in the graph.
    fg = (weight * square).sum((1, 2)) * (inside > 0) / (inside * student.shape[1]).clamp(min=1)
    outside = regions.background.sum((1, 2))
    bg = (regions.background * square).sum((1, 2)) / (outside * student.shape[1]).clamp(min=1)
    return fg, bg


def object_vectors(features: Tensor, regions: Regions) -> tuple[Tensor, Tensor]:
    """Return the mean feature of each object over its cells (b, m, c), and of each image's background (b, c).

    Padding and objects of other levels get 0, and so does the background of an image that has none.
    """
    flat = features.flatten(2).transpose(1, 2)
    cells = regions.cells.flatten(2).to(flat.dtype)
    objects = torch.bmm(cells / cells.sum(-1, keepdim=True).clamp(min=1), flat)
    outside = regions.background.flatten(1).to(flat.dtype)
    around = torch.bmm((outside / outside.sum(-1, keepdim=True).clamp(min=1))[:, None], flat)[:, 0]
    return objects, around


def relation_terms(student: Tensor, teacher: Tensor, regions: Regions) -> tuple[Tensor, Tensor]:
    """Return the mean squared differences of the object-object and of the object-background cosines, two scalars.

    student, teacher: (b, c, h, w) float32. Fewer than two objects on the level: the first is exactly 0. Objects of an
    image that has no background on this level are left out of the second.
    """
    members = regions.member.nonzero(as_tuple=True)  # once for both: on a GPU it waits for the device
    ours, theirs = (_cosines(f, regions, members) for f in (student, teacher))
    pairs = (theirs[0] - ours[0]).square().mean() if len(members[0]) > 1 else student.sum() * 0
    counted = regions.background.flatten(1).any(1)[members[0]]
    around = ((theirs[1] - ours[1]).square() * counted).sum() / counted.sum().clamp(min=1)
    return pairs, around


def relations_of(features: Tensor, regions: Regions) -> tuple[Tensor, Tensor]:
    """Return R_obj (n, n), the cosines between all n objects of the level, and R_ctx (k,), objects against background.

    Objects come in the order of images, then of targets; k leaves out those in images without background.
    """
    members = regions.member.nonzero(as_tuple=True)
    pairs, around = _cosines(features, regions, members)
    return pairs, around[regions.background.flatten(1).any(1)[members[0]]]


def _cosines(features: Tensor, regions: Regions, members: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return the cosines between the n members (n, n), and of each with its image's background (n,)."""
    objects, around = object_vectors(features, regions)
    units = functional.normalize(objects[members], dim=-1, eps=1e-8)
    return units @ units.T, (units * functional.normalize(around, dim=-1, eps=1e-8)[members[0]]).sum(-1)


class MethodDistillation(nn.Module):
    """The method's losses as one module: `fg`, `bg`, `relation_object`, `relation_context`, already weighted.

    alpha, beta: gains of the foreground and background magnitude. gamma, delta: gains of the object and context
    relation. A pair of gains that is 0 is not computed. normalise: "batch" divides the magnitude by b, "sum" does not.
    Levels are summed. The adapters belong to this module and are trained with the student.
    """

    def __init__(
        self,
        student_channels: dict[int, int],
        teacher_channels: dict[int, int],
        *,
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float = 0.0,
        delta: float = 0.0,
        attention: Attention = "teacher",
        size_aware: bool = True,
        levels: Levels = "size",
        level_offset: float = 0.0,
        eps: float = 0.0,
        normalise: Literal["batch", "sum"] = "batch",
        standardise: bool = False,
    ) -> None:
        super().__init__()
        self.adapters = Adapters(student_channels, teacher_channels)
        self.gains = {"fg": alpha, "bg": beta, "relation_object": gamma, "relation_context": delta}
        self.attention, self.eps, self.normalise, self.standardise = attention, eps, normalise, standardise
        self.size_aware, self.levels, self.level_offset = size_aware, levels, level_offset

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Return the weighted losses by name; a gradient reaches the teacher where it has a graph."""
        adapted = self.adapters(student.maps)
        with torch.autocast(targets.xyxy.device.type, enabled=False):
            total = {name: targets.xyxy.new_zeros(()) for name in self.gains}
            for level, (stride, ours) in enumerate(adapted.items(), 1):
                theirs = teacher.maps[stride].float()
                for name, value in self._level(ours, theirs, self.regions(targets, stride, ours, level)).items():
                    total[name] = total[name] + value
            return {name: value * self.gains[name] for name, value in total.items() if self.gains[name]}

    def regions(self, targets: Targets, stride: int, features: Tensor, level: int) -> Regions:
        """Return the regions of one level under this module's switches."""
        return regions_of(
            targets,
            stride,
            (int(features.shape[2]), int(features.shape[3])),
            level,
            size_aware=self.size_aware,
            levels=self.levels,
            level_offset=self.level_offset,
        )

    def _level(self, ours: Tensor, theirs: Tensor, regions: Regions) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if self.gains["fg"] or self.gains["bg"]:
            fg, bg = magnitude_terms(
                ours, theirs, regions, attention=self.attention, eps=self.eps, standardise=self.standardise
            )
            images = len(fg) if self.normalise == "batch" else 1
            terms |= {"fg": fg.sum() / images, "bg": bg.sum() / images}
        if self.gains["relation_object"] or self.gains["relation_context"]:
            pairs, around = relation_terms(ours, theirs, regions)
            terms |= {"relation_object": pairs, "relation_context": around}
        return terms
