"""ONNX graphs with learnt integers: stored as int8, read back, and completed for the NPU's compiler.

The file that ships computes what the NPU computes: Q/DQ (QuantizeLinear, DequantizeLinear) behind each fused
operation, none between a convolution and its activation. The compiler wants more, or it silently falls back to float16:
Q/DQ on *every* tensor but the gate inside SiLU. `compile_form` adds the missing ones on a copy: where values do not
change (split, pooling, resizing, Concat) with the producer's grid, before an activation with any grid, because the
compiler drops it when it fuses the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

Q, DQ = "QuantizeLinear", "DequantizeLinear"
SAME_VALUES = (
    "Concat",
    "Split",
    "Slice",
    "MaxPool",
    "Resize",
    "Flatten",
    "Reshape",
    "Transpose",
    "Identity",
    "Gather",
)
LAYERS = ("Conv", "Gemm", "MatMul")
ACTIVATIONS = ("Relu", "LeakyRelu", "HardSwish", "HardSigmoid", "Clip", "Sigmoid")


@dataclass(frozen=True)
class IntegerWeights:
    """int8 weights of one layer: real = (integers - zero_point) * scale by output channel, axis 0."""

    integers: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray


def store_integers(model: onnx.ModelProto, weights: Mapping[str, IntegerWeights]) -> None:
    """Replace the float weights of the named layers by int8 initialisers behind a DequantizeLinear each.

    weights: by layer; its initialiser is called "<layer>.weight". Raises ValueError where the graph has no such weight,
    or another shape.
    """
    graph = model.graph
    _separate(graph)
    found = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for layer, w in weights.items():
        name = f"{layer}.weight"
        if name not in found or list(found[name].dims) != list(w.integers.shape):
            raise ValueError(f"the exported graph has no weight {name} of shape {w.integers.shape}; export it again")
        graph.initializer.remove(found[name])
        parts: dict[str, np.ndarray] = {
            f"{name}_int8": w.integers.astype(np.int8),
            f"{name}_scale": w.scale.astype(np.float32),
            f"{name}_zero_point": w.zero_point.astype(np.int8),
        }
        graph.initializer.extend(numpy_helper.from_array(value, part) for part, value in parts.items())
        nodes.append(helper.make_node(DQ, list(parts), [name], name=f"{name}_dequantise", axis=0))
    for place, node in enumerate(nodes):
        graph.node.insert(place, node)


def _separate(graph: onnx.GraphProto) -> None:
    """Give each name its own initialiser: where values are equal the exporter keeps one, and Identities of it.

    Layers with equal weights need not have equal integers.
    """
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Identity" and n.input[0] in found]:
        own = onnx.TensorProto()
        own.CopyFrom(found[node.input[0]])
        own.name = node.output[0]
        graph.initializer.append(own)
        found[own.name] = own
        graph.node.remove(node)


def integers_of(model: onnx.ModelProto) -> dict[str, IntegerWeights]:
    """Return the int8 weights that a file holds, by layer."""
    constants = _constants(model)
    found = {}
    for node in model.graph.node:
        if node.op_type == DQ and node.output[0].endswith(".weight") and node.input[0] in constants:
            integers, scale, zero = (constants[name] for name in node.input)
            found[node.output[0].removesuffix(".weight")] = IntegerWeights(integers, scale, zero)
    return found


def activations_of(model: onnx.ModelProto) -> dict[str, tuple[float, int]]:
    """Return (scale, zero point) of each activation quantiser that a file holds, by the quantiser's name.

    A quantiser shared by several tensors stands in the graph several times. Raises ValueError where those differ.
    """
    constants = _constants(model)
    found: dict[str, tuple[float, int]] = {}
    for node in model.graph.node:
        if node.op_type == Q:
            name = quantiser_name(node.name)
            pair = float(constants[node.input[1]]), int(constants[node.input[2]])
            if found.setdefault(name, pair) != pair:
                raise ValueError(f"quantiser {name} stands in the graph with {found[name]} and with {pair}")
    return found


def quantiser_name(node: str) -> str:
    """Return the quantiser that a node belongs to: "/model.2/act_quantiser_1/QuantizeLinear" -> "act_quantiser"."""
    inside = node.strip("/").split("/")[-2:][0]
    head, _, number = inside.rpartition("_quantiser_")
    return f"{head}_quantiser" if number.isdigit() else inside


def is_quantised(model: onnx.ModelProto) -> bool:
    """Return whether a file holds learnt integers."""
    return any(node.op_type == Q for node in model.graph.node)


def has_islands(model: onnx.ModelProto) -> bool:
    """Return whether a file with learnt integers leaves some convolutions in floating point."""
    quantised = {f"{layer}.weight" for layer in integers_of(model)}
    return any(node.op_type == "Conv" and node.input[1] not in quantised for node in model.graph.node)


def output_grids(model: onnx.ModelProto) -> dict[str, tuple[float, int]]:
    """Return (scale, zero point) of each output that is quantised."""
    constants, made = _constants(model), {out: node for node in model.graph.node for out in node.output}
    grids = {}
    for value in model.graph.output:
        node = made.get(value.name)
        if node is not None and node.op_type == DQ:
            grids[value.name] = float(constants[node.input[1]]), int(constants[node.input[2]])
    return grids


def compile_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with Q/DQ on every tensor that the compiler wants one on; no value of the network changes."""
    full = onnx.ModelProto()
    full.CopyFrom(model)
    _Completer(full).run()
    onnx.checker.check_model(full, full_check=True)
    return full


class _Completer:
    """One pass over a graph in its order, quantised tensor by tensor.

    grid: the names of its scale and zero point. quantised: the name of its integers.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.weights = {t.name for t in self.graph.initializer}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.integers = {f"{layer}.weight" for layer in integers_of(model)}
        self.grid: dict[str, tuple[str, str]] = {}
        self.quantised: dict[str, str] = {}
        self.made: list[onnx.NodeProto] = []

    def run(self) -> None:
        renamed: dict[str, str] = {}
        outputs = {value.name for value in self.graph.output}
        # Constants first: a quantiser that is added may need one that stands further down.
        for node in sorted(self.graph.node, key=lambda node: node.op_type != "Constant"):
            for place, name in enumerate(node.input):
                node.input[place] = renamed.get(name, name)
            if node.op_type in LAYERS and node.input[1] not in self.integers and node.input[0] in self.grid:
                node.input[0] = self.for_floats(node.input[0])
            self.made.append(node)
            if node.op_type == DQ:
                self.grid[node.output[0]] = (node.input[1], node.input[2])
                self.quantised[node.output[0]] = node.input[0]
                continue
            for name in node.output:
                grid = self.wanted(node, name)
                if grid is not None and name not in outputs:
                    self.grid[f"{name}_rounded"] = grid
                    renamed[name] = self.pair(name, *grid)
        del self.graph.node[:]
        self.graph.node.extend(self.made)

    def wanted(self, node: onnx.NodeProto, name: str) -> tuple[str, str] | None:
        """Return the grid of the Q/DQ that is missing behind a tensor, None where none is."""
        users = self.users.get(name, [])
        if any(user.op_type == Q for user in users):
            return None
        if node.op_type in SAME_VALUES:
            return self.grid.get(node.input[0]) if self.on_grid(node) else None
        # A layer that reads floats is float16, and so is its activation: nothing is fused, and a Q/DQ between the two
        # would stay and cut off all that the activation's own grid does not hold.
        if node.op_type in (*LAYERS, "Add") and self.on_grid(node):
            return self.behind(users)
        return None

    def on_grid(self, node: onnx.NodeProto) -> bool:
        """Return whether all that a node computes with is quantised, so that the compiler makes it INT8."""
        count = {"Concat": len(node.input), "Add": 2, "Conv": 2, "Gemm": 2, "MatMul": 2}.get(node.op_type, 1)
        return all(name in self.grid for name in node.input[:count])

    def behind(self, users: list[onnx.NodeProto]) -> tuple[str, str] | None:
        """Return the grid of the activation that follows: it stands behind one or two more operations."""
        for _ in range(3):
            for user in users:
                if user.op_type == Q:
                    return user.input[1], user.input[2]
            users = [
                after
                for user in users
                if user.op_type in (*ACTIVATIONS, "Mul")
                for after in self.users.get(user.output[0], [])
            ]
        return None

    def pair(self, name: str, scale: str, zero_point: str) -> str:
        """Add Q/DQ behind a tensor and return the new tensor's name."""
        integers, real = f"{name}_integers", f"{name}_rounded"
        self.made.append(helper.make_node(Q, [name, scale, zero_point], [integers], name=f"{name}_added_quantise"))
        self.made.append(helper.make_node(DQ, [integers, scale, zero_point], [real], name=f"{name}_added_dequantise"))
        self.quantised[real] = integers
        return real

    def for_floats(self, name: str) -> str:
        """Add a DequantizeLinear of a layer in float16 alone, and return its output's name.

        Where it shares one with layers in integers, the compiler makes those float16 too, and puts a Concat of them on
        the CPU.
        """
        own = f"{name}_float_{len(self.made)}"
        self.made.append(
            helper.make_node(DQ, [self.quantised[name], *self.grid[name]], [own], name=f"{own}_dequantise")
        )
        return own


def _constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = numpy_helper.to_array(next(a.t for a in node.attribute if a.name == "value"))
    return found
