"""Find out what shapes do not say: whether scores are probabilities, and in which form and unit boxes are.

The graph of an ONNX file answers the first for certain where its last operation decides it. What it leaves open is
found by running noise images: a score below 0 or above 1 is a logit, and the boxes of all cells reach across the whole
input whatever the image shows, in pixels or in fractions. The integer grid of an INT8 output answers too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .foreign_model import FoundLayout
from .model_signature import Signature
from .onnx_graph import Activation

_IMAGES = 3
# A box in fractions reaches 1, or a little more; in pixels it reaches the input's side, at least 32.
_LARGEST_FRACTION = 2.0


@dataclass(frozen=True)
class Probed:
    """What was found, with what it rests on for people to read."""

    activation: Activation
    activation_why: str
    box_format: Literal["xywh", "xyxy"] = "xywh"
    box_units: Literal["pixels", "fractions"] = "pixels"
    boxes_why: str = ""


def probe(signature: Signature, layout: FoundLayout, told: Activation | None = None) -> Probed:
    """Find out the activation, and of decoded boxes form and unit.

    told: the activation by the user's word, needed where nothing here tells it. Raises ValueError where it contradicts
    what is certain, where it is missing, and where the outputs are those of another kind of model.
    """
    runs = _noise_runs(signature) if signature.run is not None and layout.decoded is not None else None
    if layout.decoded is None:
        return Probed(*_activation(signature, layout, told))
    index = signature.outputs.index(layout.decoded)
    if runs is None:
        activation, why = _activation(signature, layout, told)
        return Probed(activation, why, boxes_why="assumed: nothing tells it here")
    values = np.concatenate([run[index].swapaxes(1, 2) if layout.transposed else run[index] for run in runs])
    if layout.maybe_suppressed and (values[:, 5] == values[:, 5].round()).all():
        raise ValueError(
            f"{signature.path}: output {layout.decoded} is what is left after suppression inside the model (its sixth "
            "value is a class number), which rsedge does itself; export without it (nms=False, end2end=False)"
        )
    activation, why = _activation(signature, layout, told)
    boxes = values[:, :4]
    if not np.isfinite(boxes).all():
        raise ValueError(f"{signature.path}: output {layout.decoded} holds NaN or infinity for noise; export it again")
    corners = bool((boxes[:, 2:] >= boxes[:, :2]).all())
    reach = float(boxes[:, :2].max())
    if not corners and (boxes[:, 2:] < 0).any():
        raise ValueError(
            f"{signature.path}: the first four values of output {layout.decoded} are neither centre and size nor "
            "corners (sizes below 0 came out); export decoded boxes, or raw heads"
        )
    return Probed(
        activation,
        why,
        "xyxy" if corners else "xywh",
        "pixels" if reach > _LARGEST_FRACTION else "fractions",
        f"found by running {_IMAGES} noise images, centres or corners reach {reach:.4g}",
    )


def _activation(signature: Signature, layout: FoundLayout, told: Activation | None) -> tuple[Activation, str]:
    """Return the activation and why: from the graph, the integers, a run, or the user's word."""
    scores = [layout.decoded] if layout.decoded is not None else [level.classes for level in layout.levels]
    certain: dict[str, tuple[Activation, str]] = {}
    for output in scores:
        found, why = None, ""
        if signature.graph is not None:
            found, operation = signature.graph.activation(output.name)
            why = f"the graph's last operation for {output.name} is {operation}"
        elif output.scale is not None:
            low = (-128 - output.scale.zero_point) * output.scale.scale
            high = (127 - output.scale.zero_point) * output.scale.scale
            found = "none" if low < 0 or high > 1.5 else "sigmoid"
            why = f"the integers of {output.name} reach from {low:.3g} to {high:.3g}"
        if found is not None:
            certain[output.name] = found, why
    if len({found for found, _ in certain.values()}) > 1:
        raise ValueError(
            f"{signature.path}: class outputs must all have a sigmoid or none, got "
            f"{', '.join(f'{found} for {name}' for name, (found, _) in certain.items())}; export the model again"
        )
    if certain:
        found, why = next(iter(certain.values()))
        if told not in (None, found):
            raise ValueError(f"{signature.path}: --activation is {told}, but {why}; leave the option out")
        return found, why
    if told is not None:
        return told, "by --activation"
    if signature.run is None:
        raise ValueError(
            f"{signature.path}: nothing here tells whether its scores went through a sigmoid; give --activation "
            "sigmoid, or none where they are logits"
        )
    rows = slice(4, None) if layout.decoded is not None else slice(None)
    low, high = np.inf, -np.inf
    for run in _noise_runs(signature):
        for output in scores:
            values = run[signature.outputs.index(output)]
            part = (values.swapaxes(1, 2) if layout.transposed else values)[:, rows]
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    why = f"found by running {_IMAGES} noise images, scores reach from {low:.3g} to {high:.3g}"
    return ("sigmoid" if low >= 0 and high <= 1 else "none"), why


def _noise_runs(signature: Signature) -> list[list[np.ndarray]]:
    """Run noise of different contrast, as pixels of 0 to 1."""
    assert signature.run is not None
    rng = np.random.default_rng(0)
    shape = (1, 3, *signature.input_hw)
    contrasts = np.linspace(0.2, 1, _IMAGES, dtype=np.float32)
    return [signature.run(rng.random(shape, np.float32) * contrast) for contrast in contrasts]
