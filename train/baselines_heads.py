"""Published distillation losses that compare what two heads say: class logits and box distributions.

Every class follows the contract of `train.teacher_student.DistillationLoss`. Cells are flattened as in the detection
loss: levels in the order of the strides, rows, then columns; `a` is their number over all levels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from .boxes import anchor_points, decode_distribution
from .loss import Targets, assign
from .model import REG_MAX, STRIDES
from .teacher_student import Outputs


class LogitDistillation(nn.Module):
    """Match the class logits and the box distributions of the teacher, softened by a temperature.

    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531, section 2, for a detector
    with independent (sigmoid) classes and DFL boxes. With class logits z (b, a, classes), box logits d (b, a, 4, 16),
    p = sigmoid(z / T), q = softmax(d / T) over the bins, u = max over classes of sigmoid(z^T), per cell:

        logit_cls = T^2 sum_cells sum_classes KL(Bernoulli(p^T) || Bernoulli(p^S)) / sum_cells u
        logit_box = box_weight T^2 sum_cells u mean_sides KL(q^T || q^S) / sum_cells u

    Open in the paper, which knows one softmax and no background: the teacher's best unsoftened probability u weighs the
    box term, because box distributions of background cells are noise; both are divided by the sum of u over the batch
    (all processes, at least 1), the mass of objects that the teacher sees, as the detection loss divides by the mass of
    its targets, so that thousands of agreeing background cells do not water the term down. KL stands for
    cross-entropy: the same gradient, and 0 where the two agree. The annotations are not used. Mind that a temperature
    lifts the sigmoid of a background logit far off 0 (-10: 5e-5 at T = 1, 7e-3 at T = 2), so that at higher ones the
    class term is mostly about the background.
    """

    def __init__(
        self,
        student_channels: dict[int, int],
        teacher_channels: dict[int, int],
        *,
        gain: float,
        temperature: float = 2.0,
        box_weight: float = 1.0,
    ) -> None:
        super().__init__()
        require_positive("temperature", temperature)
        self.gain, self.temperature, self.box_weight = gain, temperature, box_weight

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Return the scalars logit_cls and logit_box from the six heads of each; shapes as in Outputs."""
        t = self.temperature
        with torch.autocast(student.heads[0].device.type, enabled=False):
            box_s, class_s = flat_heads(student)
            box_t, class_t = flat_heads(teacher)
            certainty = class_t.sigmoid().amax(-1)
            cls = binary_divergence(class_t / t, class_s / t).sum()
            box = (distribution_divergence(box_t, box_s, t) * certainty).sum()
            mass = certainty.sum()
            return {
                "logit_cls": per_mass(cls, mass) * (self.gain * t * t),
                "logit_box": per_mass(box, mass) * (self.gain * self.box_weight),
            }


class Localisation(nn.Module):
    """Match the box distributions of the teacher where boxes are learnt and around these places.

    Zheng, Ye, Wang, Ren, Zuo, Hou, Cheng: Localization Distillation for Dense Object Detection, arXiv:2102.12252,
    eq. 2 and algorithm 1. With q = softmax(d / T) of the box logits d (b, a, 4, 16), per cell:

        D = T^2 mean_sides KL(q^T || q^S)
        ld_main = sum_main w D / sum_main w        w: the cell's target score in the assignment
        ld_vlr = vlr_weight sum_vlr x D / sum_vlr x        x: DIoU of the teacher's box with the object

    The main region are the cells that the task-aligned assignment gives to an object. The valuable localisation region
    (VLR) surrounds it: cells outside the main region with x >= vlr_ratio * m for an object, m being its positive level.

    Open in the paper, which is written for ATSS with anchor boxes: (1) the assignment is computed from the teacher's
    heads, so that the regions stand still while the student learns; `assigned_by="student"` takes the student's.
    (2) There are no anchor boxes: x uses the box that the teacher predicts at the cell, as the assignment itself does.
    (3) There is no IoU threshold between positives and negatives: m is the mean x over the object's main region. The
    upper end is "not in the main region", because the assignment bounds the number of cells, not their overlap.
    (4) An object without main cells (all lost to a neighbour) and cells that do not overlap have no VLR.
    (5) The KL sums over the bins and averages the four sides; the class term of the later version is left to
    LogitDistillation. Without objects both terms are exactly 0.

    The VLR compares each object with each cell: several tensors (b, m, a) float32, outside the graph; one is 170 MB
    for 16 images of up to 500 objects at 512 pixels.
    """

    def __init__(
        self,
        student_channels: dict[int, int],
        teacher_channels: dict[int, int],
        *,
        gain: float,
        temperature: float = 10.0,
        vlr_ratio: float = 0.25,
        vlr_weight: float = 0.25,
        assigned_by: str = "teacher",
    ) -> None:
        super().__init__()
        require_positive("temperature", temperature)
        if not 0 <= vlr_ratio <= 1:
            raise ValueError(f"vlr_ratio must be from 0 to 1, got {vlr_ratio}; the paper takes 0.25")
        if assigned_by not in ("teacher", "student"):
            raise ValueError(f"assigned_by must be teacher or student, got {assigned_by!r}")
        self.gain, self.temperature = gain, temperature
        self.vlr_ratio, self.vlr_weight, self.assigned_by = vlr_ratio, vlr_weight, assigned_by

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Return the scalars ld_main and ld_vlr from the six heads of each; shapes as in Outputs."""
        with torch.autocast(student.heads[0].device.type, enabled=False):
            box_s, _ = flat_heads(student)
            box_t = flat_heads(teacher)[0]
            main, around = self.regions(student, teacher, targets)
            each = distribution_divergence(box_t, box_s, self.temperature)
            return {
                "ld_main": per_mass((each * main).sum(), main.sum()) * self.gain,
                "ld_vlr": per_mass((each * around).sum(), around.sum()) * (self.gain * self.vlr_weight),
            }

    @torch.no_grad()
    def regions(self, student: Outputs, teacher: Outputs, targets: Targets) -> tuple[Tensor, Tensor]:
        """Return the weights of the main region and of the VLR, each (b, a) float32, 0 outside."""
        shapes = [(int(h.shape[2]), int(h.shape[3])) for h in teacher.heads[::2]]
        points, strides = anchor_points(shapes, STRIDES, teacher.heads[0].device)
        boxes = decode_distribution(flat_heads(teacher)[0], points, strides)
        judge_box, judge_class = flat_heads(teacher if self.assigned_by == "teacher" else student)
        judged = decode_distribution(judge_box, points, strides)
        assigned = assign(judge_class.sigmoid(), judged, points, strides, targets)
        main = assigned.scores.sum(-1)
        if not targets.valid.shape[1]:
            return main, torch.zeros_like(main)
        truth = targets.xyxy[:, :, None]
        overlap = distance_iou(truth, boxes[:, None]).clamp_(min=0)  # (b, m, a)
        # The assignment tells the box of a cell, not its number; equal boxes share their cells, which does no harm.
        own = (truth == assigned.xyxy[:, None]).all(-1) & assigned.positive[:, None] & targets.valid[..., None]
        count = own.sum(-1, keepdim=True)
        level = (overlap * own).sum(-1, keepdim=True) / count.clamp(min=1)
        outside = ~assigned.positive[:, None]
        around = (overlap >= self.vlr_ratio * level) & (count > 0) & outside
        return main, (overlap * around).amax(1)


def flat_heads(outputs: Outputs) -> tuple[Tensor, Tensor]:
    """Join the levels: box logits (b, a, 64) and class logits (b, a, classes), float32."""
    box = torch.cat([h.flatten(2) for h in outputs.heads[::2]], 2).transpose(1, 2).float()
    cls = torch.cat([h.flatten(2) for h in outputs.heads[1::2]], 2).transpose(1, 2).float()
    return box, cls


def binary_divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """Return KL(Bernoulli(sigmoid(teacher)) || Bernoulli(sigmoid(student))) of each element, in nats."""
    p = teacher_logits.sigmoid()
    yes = functional.logsigmoid(teacher_logits) - functional.logsigmoid(student_logits)
    no = functional.logsigmoid(-teacher_logits) - functional.logsigmoid(-student_logits)
    return p * yes + (1 - p) * no


def distribution_divergence(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher || student) of softened box distributions, the mean of four sides.

    Both (b, a, 64): four sides of 16 bins. Returns (b, a), in nats.
    """
    b, a, _ = teacher_logits.shape
    log_t = (teacher_logits.reshape(b, a, 4, REG_MAX) / temperature).log_softmax(-1)
    log_s = (student_logits.reshape(b, a, 4, REG_MAX) / temperature).log_softmax(-1)
    return (log_t.exp() * (log_t - log_s)).sum(-1).mean(-1) * temperature**2


def distance_iou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """Return the distance IoU of broadcast boxes (..., 4) xyxy, shape (...), -1 to 1 (arXiv:1911.08287, eq. 7)."""
    ax1, ay1, ax2, ay2 = a.unbind(-1)
    bx1, by1, bx2, by2 = b.unbind(-1)
    inter = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp_(min=0)
    inter = inter * (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp_(min=0)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
    centre = ((ax1 + ax2 - bx1 - bx2) ** 2 + (ay1 + ay2 - by1 - by2) ** 2) / 4
    hull = (torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)) ** 2
    hull = hull + (torch.maximum(ay2, by2) - torch.minimum(ay1, by1)) ** 2
    return inter / (union + eps) - centre / (hull + eps)


def per_mass(total: Tensor, mass: Tensor) -> Tensor:
    """Divide a sum over this process's images by the mass of all processes' images, at least 1.

    DistributedDataParallel averages gradients; dividing by the mean mass makes that average equal to one process that
    sees all images.
    """
    share = 1.0
    if dist.is_available() and dist.is_initialized():
        mass = mass.clone()
        dist.all_reduce(mass)
        share = dist.get_world_size()
    return total * (share / mass.clamp(min=1.0))


def require_positive(name: str, value: float) -> None:
    """Raise ValueError unless the value is above 0."""
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")
