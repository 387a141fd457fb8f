"""What a teacher and a student hand to a distillation loss, and the adapters between their channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .loss import Targets
from .model import Yolov8


@dataclass(frozen=True)
class Outputs:
    """What one network says about a batch.

    maps: by stride, (b, c, h, w) float, the neck's output that the head sees. heads: [box, class] logits per stride,
    (b, 64, h, w) and (b, classes, h, w).
    """

    maps: dict[int, Tensor]
    heads: list[Tensor]

    def float(self) -> Outputs:
        """Return the same in float32: squares of small differences drown in half precision."""
        return Outputs({s: m.float() for s, m in self.maps.items()}, [h.float() for h in self.heads])

    def detached(self) -> Outputs:
        """Return the same cut off from the network that said it."""
        return Outputs({s: m.detach() for s, m in self.maps.items()}, [h.detach() for h in self.heads])


class DistillationLoss(Protocol):
    """A module that compares two networks on one batch."""

    def __call__(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Return named scalar losses, already multiplied by their gains; differentiable by both.

        Training cuts the teacher off before (`DistillingNetwork`); only the teacher's own tuning goes back through it.
        """


class Adapters(nn.Module):
    """Map the student's channels onto the teacher's, level by level, with a learned 1x1 convolution.

    Where the counts agree nothing is learned and the map passes through, so that a student equal to its teacher has a
    loss of exactly zero. Adapters are trained with the student and thrown away at export.
    """

    def __init__(self, student_channels: dict[int, int], teacher_channels: dict[int, int]) -> None:
        super().__init__()
        self.levels = nn.ModuleDict(
            {
                str(s): nn.Identity() if c == teacher_channels[s] else nn.Conv2d(c, teacher_channels[s], 1)
                for s, c in student_channels.items()
            }
        )

    def forward(self, maps: dict[int, Tensor]) -> dict[int, Tensor]:
        """Map {stride: (b, c_student, h, w)} to {stride: (b, c_teacher, h, w)} float32."""
        return {s: self.levels[str(s)](m).float() for s, m in maps.items()}


def channels_of(model: Any) -> dict[int, int]:
    """Return the channels of the model's maps by stride."""
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # a probe must not move the BatchNorm statistics
    with torch.no_grad():
        maps = model.features(torch.zeros(1, 3, 64, 64, device=device))
    for module, training in modes:  # one by one: BatchNorms that were kept still stay so
        module.training = training
    return {stride: int(m.shape[1]) for stride, m in maps.items()}


def run_network(model: Any, images: Tensor) -> Outputs:
    """Run a network on (b, 3, h, w) float images, RGB 0 to 1, keeping what its head saw.

    model: anything with `maps_and_heads`: a YOLOv8, or one with fake-quantisers.
    """
    return Outputs(*model.maps_and_heads(images))


@dataclass(frozen=True)
class Teacher:
    """A finished network to learn from.

    origin: where it comes from, for messages and cards (no folders). digest: SHA-256 of its weights. scores: map50 and
    map50_95 (0 to 1) on the validation split at the student's image size.
    """

    model: Yolov8
    class_names: list[str]
    origin: str
    digest: str
    scores: dict[str, float]

    def line(self) -> str:
        """Return one line about it."""
        return (
            f"YOLOv8{self.model.size}, {self.origin}, mAP50 {100 * self.scores['map50']:.1f}, "
            f"mAP50-95 {100 * self.scores['map50_95']:.1f} at the student's image size"
        )

    def describe(self) -> dict[str, Any]:
        """Return what a student's checkpoint says about its teacher."""
        return {"size": self.model.size, "origin": self.origin, "sha256": self.digest, "scores": self.scores}


def check_pair(teacher: Teacher, student: nn.Module, student_classes: list[str]) -> None:
    """Raise ValueError where the two cannot be compared: other classes, another order of them, or other strides."""
    theirs = teacher.class_names
    if theirs != student_classes:
        lacking = [name for name in student_classes if name not in theirs]
        besides = [name for name in theirs if name not in student_classes]
        what = f"the order differs: {', '.join(theirs[:3])} ... against {', '.join(student_classes[:3])} ..."
        if lacking or besides:
            what = f"it lacks {_some(lacking)} and has {_some(besides)} besides"
        raise ValueError(
            f"teacher ({teacher.origin}): its {len(theirs)} classes must be the {len(student_classes)} of the data, in "
            f"the same order; {what}; give a teacher of these classes, or leave teacher.checkpoint empty to train one"
        )
    ours, strides = tuple(channels_of(student)), tuple(channels_of(teacher.model))
    if ours != strides:
        raise ValueError(
            f"teacher ({teacher.origin}): its strides must be the student's {_listed(ours)}, got {_listed(strides)}; "
            "give a teacher whose maps lie on the same levels"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"


def _listed(strides: tuple[int, ...]) -> str:
    return "/".join(str(s) for s in strides)
