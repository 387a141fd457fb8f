"""torch to ONNX: six raw heads, static batch 1, opset 19, one weight precision or half of it, checked against torch.

Opset 19 is the newest that the NPU's converter reads. The classic exporter keeps readable node names, which the
converter's layer table then shows; a traced network is written under the names of the network that was traced
(`scopes`). Heads stay raw and apart: joined or decoded in the graph, boxes (0..512) and scores (0..1) would share one
INT8 scale, and every score would become 0.
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

from ..backends.onnx_session import session_options
from .calibration import check_model_image
from .quantised_onnx import IntegerWeights, store_integers
from .scopes import NamedNetwork

OPSET = 19
INPUT_NAME = "images"
# Below this many values (biases) halving saves nothing and only costs accuracy.
_HALF_FROM = 256


def output_names(strides: Sequence[int]) -> list[str]:
    """Return the names of the raw outputs in the model's order: box_8, class_8, box_16, ..."""
    return [f"{kind}_{stride}" for stride in strides for kind in ("box", "class")]


def export_onnx(
    model: nn.Module,
    path: Path,
    input_hw: tuple[int, int],
    *,
    half_weights: bool = False,
    integers: Mapping[str, IntegerWeights] | None = None,
) -> None:
    """Write a model as ONNX, whole or not at all.

    model: (1, 3, h, w) float32 RGB 0..1 -> list of raw heads [box, class] by ascending stride; it is not changed (a
    copy on the CPU in evaluation mode is exported). path: the file. input_hw: model input in pixels. half_weights:
    store the weights as float16 with a Cast to float32, so the file is half as big; runtimes fold the Casts on load
    and compute in float32 with weights rounded to 11 bits. integers: weights to store as int8, by layer name; they must
    be what the model's float weights stand for.

    Raises ValueError where the heads are not what is written above or hold non-finite values, OSError where the file
    cannot be written.
    """
    model = copy.deepcopy(model).cpu().float().eval()
    sample = torch.zeros(1, 3, *input_hw)
    with torch.no_grad():
        heads = model(sample)
    names = output_names(_strides(heads, input_hw))
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings(), _quiet_exporter():
            # The exporter announces its own retirement, and the tracer remarks on each size that it makes static.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                NamedNetwork(model) if isinstance(model, fx.GraphModule) else _Flat(model),
                (sample,),
                str(part),
                opset_version=OPSET,
                dynamo=False,
                input_names=[INPUT_NAME],
                output_names=names,
                do_constant_folding=True,
            )
        graph = onnx.load(str(part))
        _static_outputs(graph)
        if integers:
            store_integers(graph, integers)
        elif half_weights:
            _halve_weights(graph)
        onnx.checker.check_model(graph, full_check=True)
        onnx.save(graph, str(part))
        os.replace(part, path)
    except onnx.checker.ValidationError as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"{path}: exported graph does not pass the ONNX checker ({line})") from error
    finally:
        part.unlink(missing_ok=True)


class _Flat(nn.Module):
    """Return the heads as a tuple, which the tracer keeps as separate outputs, and keep the model's own node names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # The children are registered here one by one: a wrapper attribute would prefix every node name.
        for name, child in model.named_children():
            self.add_module(name, child)
        object.__setattr__(self, "_whole", model)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(object.__getattribute__(self, "_whole")(x))


class _quiet_exporter:
    """Keep the exporter's log lines off the console."""

    def __enter__(self) -> None:
        self._logger = logging.getLogger("torch.onnx")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)


def _strides(heads: Any, input_hw: tuple[int, int]) -> list[int]:
    """Return the stride of each head; ValueError where the model's outputs are not raw heads."""
    if not isinstance(heads, (list, tuple)) or not heads or len(heads) % 2:
        raise ValueError(f"model must return a list of [box, class] heads, got {type(heads).__name__}")
    strides = []
    for box, cls in zip(heads[::2], heads[1::2], strict=True):
        if box.shape[2:] != cls.shape[2:] or input_hw[0] % box.shape[2] or input_hw[1] % box.shape[3]:
            raise ValueError(
                f"a box and a class head must share a grid that divides input_hw {input_hw}, "
                f"got {tuple(box.shape)} and {tuple(cls.shape)}; use a multiple of 32"
            )
        if not (torch.isfinite(box).all() and torch.isfinite(cls).all()):
            raise ValueError("model returns values that are not finite on a black image; its weights are damaged")
        strides.append(input_hw[0] // box.shape[2])
    if strides != sorted(set(strides)):
        raise ValueError(f"heads must come by ascending stride, got {strides}")
    return strides


def _static_outputs(graph: onnx.ModelProto) -> None:
    """Raise ValueError unless every input and output has a static shape, as the converter needs."""
    for value in (*graph.graph.input, *graph.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not dims or any(not dim.HasField("dim_value") for dim in dims):
            raise ValueError(
                f"{value.name} of the exported graph has no static shape; the model must not depend on sizes"
            )


def _halve_weights(graph: onnx.ModelProto) -> None:
    """Store float32 initialisers as float16, each behind a Cast to float32 of the old name."""
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if values.size < _HALF_FROM or not np.isfinite(half).all():
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    for place, node in enumerate(casts):
        graph.graph.node.insert(place, node)


def compare_with_torch(model: nn.Module, path: Path, images: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    """Measure how far an exported file is from the torch model.

    images: letterboxed (h, w, 3) uint8 RGB of the model's input size, at least one; real images, not noise, tell
    most. Returns, by output name, `max_abs` and `mean_abs` of the difference of raw logits over all images, and
    `range` (largest minus smallest torch value) to set them against.
    """
    import onnxruntime

    if not images:
        raise ValueError("comparison needs at least one image, got none")
    model = copy.deepcopy(model).cpu().float().eval()
    session = onnxruntime.InferenceSession(str(path), session_options(exact=True), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    height, width = session.get_inputs()[0].shape[2:]
    worst, total, count = np.zeros(len(names)), np.zeros(len(names)), np.zeros(len(names))
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for image in images:
        check_model_image(image, (height, width), "image")
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)[None] / np.float32(255)
        with torch.no_grad():
            wanted = [head.numpy() for head in model(torch.from_numpy(pixels))]
        for slot, (want, got) in enumerate(zip(wanted, session.run(names, {INPUT_NAME: pixels}), strict=True)):
            error = np.abs(want - got)
            worst[slot] = max(worst[slot], float(error.max()))
            total[slot] += float(error.sum(dtype=np.float64))
            count[slot] += error.size
            low[slot], high[slot] = min(low[slot], want.min()), max(high[slot], want.max())
    return {
        name: {
            "max_abs": float(worst[slot]),
            "mean_abs": float(total[slot] / count[slot]),
            "range": float(high[slot] - low[slot]),
        }
        for slot, name in enumerate(names)
    }
