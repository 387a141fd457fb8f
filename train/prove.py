"""Prove a quantised bundle: from the learnt network and the built file to the list of checks."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import numpy as np
import onnx
import torch
from torch import fx

from deploy.backends.rknn_simulator import SimulatedHeads
from deploy.convert.inside import OnnxRun, SimulatedInside, tapped
from deploy.convert.layer_table import LayerTable
from deploy.convert.onnx_export import export_onnx
from deploy.convert.proof import (
    STRETCH,
    Check,
    Learnt,
    check_integers,
    check_layers,
    check_perturbation,
    check_scales,
    check_simulator,
    check_torch,
    choose_quantiser,
)
from deploy.convert.quantised_onnx import IntegerWeights
from deploy.convert.rknn_build import build_rknn
from quantize.exact_forms import as_simulated, in_integers
from quantize.export_form import ExportForm, export_form
from quantize.half_islands import with_halves

from .quantised_model import QuantisedYolov8

Progress = Callable[[str, int, int], None]

# Images of the proof: the simulator is slow, and the integers inside a network for one image are ten million values.
PROOF_IMAGES = 8
INSIDE_IMAGES = 3
PERTURBED_IMAGES = 2


def quantised_form(model: QuantisedYolov8) -> ExportForm:
    """Return the deployed form of a quantised network, heads only. Raises ValueError where no NPU runs it."""
    return export_form(model.network, output=1)


def integers_for_file(form: ExportForm) -> dict[str, IntegerWeights]:
    """Return the weights of a deployed form as the ONNX file holds them."""
    return {
        name: IntegerWeights(w.integers.numpy(), w.scale.numpy(), w.zero_point.numpy())
        for name, w in form.weights.items()
    }


def learnt_of(form: ExportForm) -> Learnt:
    """Return a deployed form as the proof takes it."""
    assert isinstance(form.module, fx.GraphModule)
    module = with_halves(form.module, form.weights)
    return Learnt(module, as_simulated(form), in_integers(form), integers_for_file(form), form.activations)


def prove(
    model: QuantisedYolov8,
    onnx_path: Path,
    table: LayerTable,
    simulated: SimulatedHeads,
    images: Sequence[np.ndarray],
    progress: Progress | None = None,
) -> list[Check]:
    """Return all checks of a built file.

    model: the learnt network. images: letterboxed (h, w, 3) uint8, the first ones that `simulated` holds, in order.
    """
    tell = progress or (lambda *_: None)
    learnt = learnt_of(quantised_form(model))
    steps = 6
    tell("prove", 0, steps)
    checks = [check_layers(table, model.network.placement.islands), check_scales(learnt, onnx_path)]
    tell("prove", 1, steps)
    seen = images[:INSIDE_IMAGES]
    inside = simulate_inside(onnx_path, seen)
    tell("prove", 2, steps)
    checks.append(check_simulator(learnt, simulated, inside, onnx_path, images))
    tell("prove", 3, steps)
    checks.append(check_torch(learnt, simulated, inside, onnx_path, seen))
    tell("prove", 4, steps)
    checks.append(check_integers(learnt, inside, seen))
    tell("prove", 5, steps)
    checks.append(_perturb(model, learnt, onnx_path, simulated, images[:PERTURBED_IMAGES]))
    tell("prove", 6, steps)
    return checks


def kept_log(task: str) -> Path:
    """Return where a build writes its log whose own folder goes: the user's last one of a task."""
    return Path(gettempdir()) / f"rsedge-{task}-{os.getuid()}.log"


def simulate_inside(path: Path, images: Sequence[np.ndarray]) -> SimulatedInside:
    """Build a file once more with all its tensors as outputs, and return what the vendor's simulator says of them."""
    shapes = {name: tensor.shape for name, tensor in OnnxRun(path, inside=True).tensors(images[0]).items()}
    model, places = tapped(onnx.load(str(path)), shapes)
    with TemporaryDirectory(prefix="rsedge-proof-", ignore_cleanup_errors=True) as folder:
        onnx.save(model, str(Path(folder) / path.name))
        build = build_rknn(
            Path(folder) / path.name,
            Path(folder),
            evaluate=lambda: iter(images),
            processes=1,
            log_path=kept_log("proof"),
        )
    assert build.simulated is not None
    return SimulatedInside(build.simulated, places)


def _perturb(
    model: QuantisedYolov8,
    learnt: Learnt,
    onnx_path: Path,
    simulated: SimulatedHeads,
    images: Sequence[np.ndarray],
) -> Check:
    """Build the network once more with one scale stretched, and see what the simulator makes of it."""
    forms: dict[str, ExportForm] = {}

    def stretch(name: str) -> fx.GraphModule:
        forms[name] = quantised_form(stretched(model, name))
        return as_simulated(forms[name])

    name = choose_quantiser(learnt, images[0], simulated, stretch)
    form = forms[name]
    with TemporaryDirectory(prefix="rsedge-proof-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / onnx_path.name
        height, width = images[0].shape[:2]
        export_onnx(form.module, path, (height, width), integers=integers_for_file(form))
        build = build_rknn(path, Path(folder), evaluate=lambda: iter(images), processes=1, log_path=kept_log("proof"))
        assert build.simulated is not None
        return check_perturbation(name, as_simulated(form), learnt, simulated, build.simulated, images)


@torch.no_grad()
def stretched(model: QuantisedYolov8, name: str) -> Any:
    """Return a copy of a network with one scale times `STRETCH`: of an activation quantiser, or of a layer's weights.

    Integers and zero points of weights stay, so the layer's real weights are multiplied as well.
    """
    new = copy.deepcopy(model)
    layers = new.network.layers()
    if name in layers:
        layers[name].weight.mul_(STRETCH)
        layers[name].weight_quantiser.scale.mul_(STRETCH)
    else:
        new.network.quantisers()[name].scale.mul_(STRETCH)
    return new
