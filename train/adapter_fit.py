"""Start the adapters where least squares puts them, instead of at random.

A random 1x1 convolution between student and teacher asks the student for features that mean nothing yet: its first
epochs chase a map that the adapter has not learnt to draw. The best linear map from the student's starting features to
the teacher's is known in closed form; from there on, what is left in the loss is what the student really lacks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .dataset import Batch
from .model import Yolov8
from .supervised import images_to_float
from .teacher_cache import Ask
from .teacher_student import Adapters

# Relative to the mean variance of the student's channels: enough for channels that say the same twice.
RIDGE = 1e-3


@torch.no_grad()
def fit_adapters(
    losses: nn.Module,
    student: Yolov8,
    ask: Ask,
    batches: Iterable[Batch],
    autocast: torch.dtype | None,
    *,
    frozen: bool = False,
) -> None:
    """Set every 1x1 convolution in `losses` to the ridge regression from student to teacher maps over `batches`.

    The student stays as it is, BatchNorm statistics included. frozen: it will train with fixed statistics.
    """
    found = [module for module in losses.modules() if isinstance(module, Adapters)]
    levels = {s for adapters in found for s, layer in adapters.levels.items() if isinstance(layer, nn.Conv2d)}
    if not levels:
        return
    device = next(student.parameters()).device
    probe = copy.deepcopy(student).train(not frozen)
    sums: dict[str, list[Tensor]] = {}
    for batch in batches:
        batch = batch.to(device)
        with torch.autocast(device.type, autocast or torch.bfloat16, enabled=autocast is not None):
            theirs, ours = ask(batch).maps, probe.features(images_to_float(batch.images))
        for name in levels:
            x, y = (m[int(name)].movedim(1, -1).flatten(0, -2).double() for m in (ours, theirs))
            x = torch.cat((x, x.new_ones(len(x), 1)), 1)  # the last column finds the bias
            parts = [x.T @ x, x.T @ y]
            sums[name] = [a + b for a, b in zip(sums[name], parts, strict=True)] if name in sums else parts
    for name, (square, cross) in sums.items():
        count = square[-1, -1]
        mean = square[:-1, -1] / count
        variance = (square.diagonal()[:-1] / count - mean.square()).clamp(min=0).mean()
        penalty = torch.full((len(square),), float(RIDGE * variance * count), device=device, dtype=square.dtype)
        penalty[-1] = 0  # the mean is not shrunk
        solution = torch.linalg.solve(square + penalty.diag(), cross)
        for adapters in found:
            layer = adapters.levels[name]
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                layer.weight.copy_(solution[:-1].T[..., None, None])
                layer.bias.copy_(solution[-1])
