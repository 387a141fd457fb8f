"""Layers left in float16, computed in ONNX Runtime as the vendor's simulator computes them.

Beside an island of floating point the compiler makes every layer float16 that reads floats. The simulator rounds what
such a layer reads and its weights to float16, keeps the bias and the sums in float32, rounds the result, and once more
behind the activation that is fused with it. A value on a grid that a float layer reads becomes float16 too.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from .quantised_onnx import ACTIVATIONS, DQ, LAYERS, SAME_VALUES, integers_of


def write_out_halves(graph: onnx.GraphProto) -> None:
    """Round to float16 wherever a network with learnt integers is float16 on the NPU; in place, float32 all the same.

    graph: a file's, with Q/DQ as it ships. Without islands nothing changes.
    """
    _Halves(graph).run()


class _Halves:
    """One pass over a graph in its order. on_grid: tensors of integers' values. halves: tensors in float16."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        model = onnx.ModelProto()
        model.graph.CopyFrom(graph)
        self.integers = {f"{layer}.weight" for layer in integers_of(model)}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.on_grid: set[str] = set()
        self.halves: set[str] = set()
        self.ends: set[str] = set()
        self.made: list[onnx.NodeProto] = []

    def run(self) -> None:
        for node in self.graph.node:
            if self.is_half(node):
                self.ends |= {node.output[0], self.end_of(node.output[0])}
                for place in range(2):
                    node.input[place] = self.rounded(node.input[place])
            elif node.op_type == DQ:
                self.on_grid.add(node.output[0])
            elif node.op_type in SAME_VALUES:
                values = node.input if node.op_type == "Concat" else node.input[:1]
                if any(name in self.halves for name in values):
                    self.halves.update(node.output)
                elif all(name in self.on_grid for name in values):
                    self.on_grid.update(node.output)
            self.made.append(node)
            name = node.output[0]
            if name in self.ends:
                node.output[0] = f"{name}_wide"
                self.made += _to_half_and_back(node.output[0], name)
                self.halves.add(name)
        del self.graph.node[:]
        self.graph.node.extend(self.made)

    def is_half(self, node: onnx.NodeProto) -> bool:
        if node.op_type in LAYERS:
            return node.input[0] not in self.on_grid or node.input[1] not in self.integers
        return node.op_type == "Add" and any(name in self.halves for name in node.input)

    def end_of(self, name: str) -> str:
        """Return the tensor behind the activation that is fused with the operation that computes `name`."""
        users = self.users.get(name, [])
        if [user.op_type for user in users] == ["Sigmoid", "Mul"]:  # SiLU, as torch's exporter writes it
            return users[1].output[0]
        if len(users) == 1 and users[0].op_type in ACTIVATIONS:
            return users[0].output[0]
        return name

    def rounded(self, name: str) -> str:
        new = f"{name}_half_{len(self.made)}"
        self.made += _to_half_and_back(name, new)
        return new


def _to_half_and_back(name: str, new: str) -> list[onnx.NodeProto]:
    half = f"{new}_float16"
    return [
        helper.make_node("Cast", [name], [half], to=TensorProto.FLOAT16),
        helper.make_node("Cast", [half], [new], to=TensorProto.FLOAT),
    ]
