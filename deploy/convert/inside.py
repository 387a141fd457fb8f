"""The integers of every rounded tensor inside a network: as ONNX Runtime computes them, and as the simulator does.

ONNX Runtime is told to compute as the simulator does, see `OnnxRun`; then both say the same to the bit. The simulator
shows outputs only, so `tapped` writes each inner tensor down once more, as an output; the others keep their values.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..backends.onnx_session import session_options
from ..backends.rknn_simulator import SimulatedHeads, image_key
from .half_islands import write_out_halves
from .quantised_onnx import DQ, LAYERS, Q, integers_of, output_grids, quantiser_name

Heads = list[np.ndarray]


class Inside(Protocol):
    """Some run of a network whose inner tensors can be seen.

    places: names of the tensors behind each quantiser, by quantiser, in the order in which the network calls it; the
    outputs are among them, the input is not. "": one that cannot be seen.
    """

    places: dict[str, list[str]]

    def tensors(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return all of them for one letterboxed image, (1, channels, h, w) float32 by name."""
        ...


def network_input(image: np.ndarray) -> np.ndarray:
    """Return a letterboxed (h, w, 3) uint8 image as the (1, 3, h, w) float32 that the network sees, 0 to 1."""
    return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)[None] / np.float32(255)


class OnnxRun:
    """ONNX Runtime on a file, computed to the bit as the simulator computes it.

    No operation is joined with another (that would change the order of sums and divisions), one thread computes it, and
    the sigmoid is the simulator's, see `write_out_sigmoids`; what is float16 on the NPU is rounded to it.
    inside: every quantised tensor can be asked for.
    """

    def __init__(self, path: Path, *, inside: bool = False) -> None:
        import onnxruntime

        model = onnx.load(str(path))
        self.grids = output_grids(model)
        self.names = [value.name for value in model.graph.output]
        self.places: dict[str, list[str]] = {}
        if inside:
            self.places = _places(model)
            for name in itertools.chain.from_iterable(self.places.values()):
                if name not in self.names:
                    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        write_out_halves(model.graph)
        write_out_sigmoids(model.graph)
        options = session_options(1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session: Any = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def heads(self, image: np.ndarray) -> Heads:
        """Return the outputs for one letterboxed image, (1, channels, h, w) float32 each."""
        return list(self._session.run(self.names, {self._input: network_input(image)}))

    def tensors(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return all outputs by name, the inner ones among them."""
        names = [value.name for value in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, {self._input: network_input(image)}), strict=True))


class SimulatedInside:
    """What the vendor's simulator said of a file that `tapped` made. Raises ValueError for other images."""

    def __init__(self, simulated: SimulatedHeads, places: Mapping[str, list[str]]) -> None:
        self.places = dict(places)
        self._simulated, self._index = simulated, {key: i for i, key in enumerate(simulated.keys)}

    def tensors(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return all outputs by name, the inner ones among them."""
        index = self._index.get(image_key(image))
        if index is None:
            raise ValueError(f"image must be one of the {len(self._index)} that were simulated with all tensors")
        return dict(zip(self._simulated.arrays, self._simulated.heads([index]), strict=True))


def tapped(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[onnx.ModelProto, dict[str, list[str]]]:
    """Return a copy that has every quantised tensor among its outputs, and the outputs' names as `Inside.places`.

    shapes: of each quantised tensor by its name in the file. A tensor is quantised once more by the same grid, because
    the compiler takes no tensor for an output that another layer reads; but not those that it cannot show (`_unseen`).
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph, outputs = new.graph, {value.name for value in model.graph.output}
    made = {out: node for node in model.graph.node for out in node.output}
    hidden = _unseen(model)
    taps: dict[str, list[str]] = {}
    for name, tensors in _places(model).items():
        for tensor in tensors:
            if tensor in outputs or tensor in hidden:
                taps.setdefault(name, []).append(tensor if tensor in outputs else "")
                continue
            tap = f"inside_{len(graph.output)}"
            back = made[tensor]
            forth = made[back.input[0]]
            graph.node.append(helper.make_node(Q, list(forth.input), [f"{tap}_int8"], name=f"{tap}_quantise"))
            pair = [f"{tap}_int8", *back.input[1:]]
            graph.node.append(helper.make_node(DQ, pair, [tap], name=f"{tap}_dequantise"))
            graph.output.append(helper.make_tensor_value_info(tap, TensorProto.FLOAT, shapes[tensor]))
            taps.setdefault(name, []).append(tap)
    return new, taps


def _places(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Return the quantised tensors of a file by quantiser, without the input."""
    inputs = {value.name for value in model.graph.input}
    made = {out: node for node in model.graph.node for out in node.output}
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        source = made.get(node.input[0]) if node.op_type == DQ else None
        if source is not None and source.op_type == Q and source.input[0] not in inputs:
            found.setdefault(quantiser_name(node.name), []).append(node.output[0])
    return found


def _unseen(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that the toolkit cannot show.

    Those that only layers without integers read; and those that such a layer and more than one with integers read: it
    copies them for the two kinds and loses the output (KeyError "..._dup").
    """
    quantised = {f"{layer}.weight" for layer in integers_of(model)}
    readers: dict[str, list[bool]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type in LAYERS and node.input[1] not in quantised)
    return {name for name, floats in readers.items() if all(floats) or (any(floats) and floats.count(False) > 1)}


def write_out_sigmoids(graph: onnx.GraphProto) -> None:
    """Replace every Sigmoid of a float32 graph by 1 / (1 + exp(-x)), exp rounded once from float64; in place.

    ONNX Runtime's own Sigmoid and Exp are polynomials whose last bit differs from the simulator's for 1 value in 2 and
    1 in 25. That makes another integer of 1 value in 3 million and 1 in 150 million; a deep network amplifies one.
    """
    one = "sigmoid_one"
    graph.initializer.append(numpy_helper.from_array(np.ones((), np.float32), one))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "Sigmoid":
            nodes.append(node)
            continue
        x, y = node.input[0], node.output[0]
        nodes.append(helper.make_node("Neg", [x], [f"{y}_minus"]))
        nodes.append(helper.make_node("Cast", [f"{y}_minus"], [f"{y}_wide"], to=TensorProto.DOUBLE))
        nodes.append(helper.make_node("Exp", [f"{y}_wide"], [f"{y}_wide_exp"]))
        nodes.append(helper.make_node("Cast", [f"{y}_wide_exp"], [f"{y}_exp"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Add", [one, f"{y}_exp"], [f"{y}_sum"]))
        nodes.append(helper.make_node("Div", [one, f"{y}_sum"], [y]))
    del graph.node[:]
    graph.node.extend(nodes)
