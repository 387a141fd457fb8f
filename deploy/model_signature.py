"""Signature: input and outputs of a model file, as the runtime tells them, or as its user does.

An ONNX file is asked through ONNX Runtime. A `.rknn` file is closed: on a board the vendor's runtime tells its shapes,
types and scales; elsewhere the user has to.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .manifest import TensorScale
from .onnx_graph import OnnxGraph, read_graph

LayoutName = Literal["six", "nine", "one"]
Precision = Literal["int8", "fp16", "fp32"]
# Of the models that a user describes: those of every YOLOv8 without extra levels.
STRIDES = (8, 16, 32)
REG_MAX = 16


@dataclass(frozen=True)
class Output:
    """One output. shape: batch first, channels second where there are four sides. scale: of an int8 output."""

    name: str
    shape: tuple[int, ...]
    scale: TensorScale | None = None

    def __str__(self) -> str:
        return f"{self.name} {' x '.join(map(str, self.shape))}"


@dataclass(frozen=True, eq=False)
class Signature:
    """What a model takes and gives. outputs: in the file's order. source: who says so, for people to read.

    graph: of an ONNX file. run: takes (1, 3, h, w) float32 and returns all outputs; None where the file cannot be run
    here. class_names: those in the file's own notes.
    """

    path: Path
    input_hw: tuple[int, int]
    outputs: tuple[Output, ...]
    precision: Precision
    source: str
    graph: OnnxGraph | None = None
    run: Callable[[np.ndarray], list[np.ndarray]] | None = None
    class_names: tuple[str, ...] = ()


def onnx_signature(path: Path) -> Signature:
    """Ask ONNX Runtime what a model takes and gives.

    Raises FileNotFoundError; ValueError where onnxruntime is missing, where the file is no ONNX model or has its
    weights elsewhere, and where its input is not one fixed float32 NCHW image.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; name the model's file")
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"reading {path} needs onnxruntime, which cannot be imported ({error}); pip install onnxruntime"
        ) from error
    from .backends.onnx_session import session_options

    graph = read_graph(path)
    if graph.external:
        raise ValueError(
            f"{path} has its weights in files beside it, a bundle holds one model file; export it with the weights "
            "inside (onnx.save with save_as_external_data=False)"
        )
    try:
        session: Any = onnxruntime.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a family of its own that derives from Exception only
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} cannot be loaded by ONNX Runtime ({line}); export the model again") from error
    name, input_hw = _image_input(path, session.get_inputs())
    outputs = []
    for entry in session.get_outputs():
        if not all(isinstance(side, int) for side in entry.shape) or not entry.shape:
            raise ValueError(
                f"{path}: output {entry.name} has no fixed shape, got {entry.shape}; export with fixed axes "
                "(dynamic=False), or run onnxsim over the file"
            )
        if entry.type != "tensor(float)":
            raise ValueError(
                f"{path}: output {entry.name} must be float32, got {entry.type}; export in float32 (half=False), "
                "without suppression inside (nms=False)"
            )
        outputs.append(Output(entry.name, tuple(entry.shape)))

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        found: list[np.ndarray] = session.run(None, {name: pixels})
        return found

    noted = _noted_names(session.get_modelmeta().custom_metadata_map)
    return Signature(path, input_hw, tuple(outputs), "fp32", "read from the file", graph, run, noted)


def told_signature(
    path: Path,
    layout: LayoutName,
    input_hw: tuple[int, int],
    class_count: int,
    precision: Precision,
) -> Signature:
    """Describe a model that nobody can ask here: YOLOv8's strides and bins, box before class before score sum."""
    for side in input_hw:
        if side < 1 or side % STRIDES[-1]:
            raise ValueError(
                f"--input-size must be multiples of {STRIDES[-1]}, height and width, got {input_hw[0]} {input_hw[1]}"
            )
    grids = [(input_hw[0] // stride, input_hw[1] // stride) for stride in STRIDES]
    if layout == "one":
        outputs = [Output("output0", (1, 4 + class_count, sum(h * w for h, w in grids)))]
    else:
        kinds = [("box", 4 * REG_MAX), ("class", class_count), ("sum", 1)][: 2 if layout == "six" else 3]
        outputs = [
            Output(f"{kind}_{stride}", (1, channels, *grid))
            for stride, grid in zip(STRIDES, grids, strict=True)
            for kind, channels in kinds
        ]
    return Signature(path, input_hw, tuple(outputs), precision, "as the options say")


def _image_input(path: Path, inputs: list[Any]) -> tuple[str, tuple[int, int]]:
    """Return name and size of the one input. Raises ValueError where it is not a fixed float32 NCHW image."""
    if len(inputs) != 1:
        raise ValueError(
            f"{path}: a model must have one input, the image, got {len(inputs)} "
            f"({', '.join(entry.name for entry in inputs)}); export it without the others"
        )
    entry = inputs[0]
    shape, told = list(entry.shape), f"{path}: input {entry.name}"
    if len(shape) != 4:
        raise ValueError(f"{told} must have shape [1, 3, height, width], got {shape}; export an image model")
    if not all(isinstance(side, int) for side in shape):
        raise ValueError(
            f"{told} must have fixed axes, got {shape}; export with batch 1 and a fixed size, dynamic=False"
        )
    if shape[3] == 3 and shape[1] != 3:
        raise ValueError(f"{told} must be NCHW, [1, 3, height, width], got NHWC {shape}; export the model as NCHW")
    if shape[1] != 3:
        raise ValueError(f"{told} must have 3 channels, [1, 3, height, width], got {shape}; rsedge reads colour images")
    if shape[0] != 1:
        raise ValueError(f"{told} must have batch 1, got {shape}; export with batch=1")
    if entry.type != "tensor(float)":
        raise ValueError(f"{told} must be float32, got {entry.type}; export in float32 (half=False)")
    return str(entry.name), (shape[2], shape[3])


def _noted_names(notes: dict[str, str]) -> tuple[str, ...]:
    """Return the class names that an exporter noted in the file as Python or JSON text, nothing where it did not."""
    try:
        names = ast.literal_eval(notes["names"])
        names = [names[i] for i in range(len(names))]
    except (KeyError, ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return ()
    return tuple(map(str, names))
