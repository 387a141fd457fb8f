"""The shape of every tensor of an ONNX graph, where the file itself computes some of them.

Exporters write a map's halving as arithmetic on its shape, and ONNX's own inference stops there. Here that arithmetic
is done as soon as its inputs are known, and the inference goes on. Weights take part with their shapes only, so large
files cost no more than small ones.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

# Sizes, axes and factors have few values; anything longer is a weight.
_FEW = 64


def static_shapes(model: onnx.ModelProto) -> tuple[dict[str, tuple[int, ...]], dict[str, np.ndarray]]:
    """Return the shape of each tensor that has a static one, and the values of small constants. `model` is changed.

    Raises what onnx's inference raises for a graph that contradicts itself.
    """
    graph = model.graph
    values: dict[str, np.ndarray] = {}
    known: dict[str, tuple[int, ...]] = {}
    weights = []
    for tensor in graph.initializer:
        known[tensor.name] = tuple(tensor.dims)
        if int(np.prod(tensor.dims)) <= _FEW:
            values[tensor.name] = numpy_helper.to_array(tensor)
        else:
            weights.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    kept = [tensor for tensor in graph.initializer if tensor.name in values]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    own = {value.name for value in graph.input}
    graph.input.extend(value for value in weights if value.name not in own)
    while True:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
            kind = value.type.tensor_type
            if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
                known.setdefault(value.name, tuple(dim.dim_value for dim in kind.shape.dim))
        if not _compute(model.graph, known, values):
            return known, values


def _compute(graph: onnx.GraphProto, known: dict[str, tuple[int, ...]], values: dict[str, np.ndarray]) -> bool:
    """Compute what can be, put it into the graph as constants, and return whether the inference may go further now."""
    done = []
    for node in graph.node:
        result = _value_of(node, known, values)
        if result is not None and result.size <= _FEW:
            values[node.output[0]] = result
            known[node.output[0]] = result.shape
            done.append(node)
    for node in done:
        graph.node.remove(node)
        graph.initializer.append(numpy_helper.from_array(values[node.output[0]], node.output[0]))
    return any(node.op_type != "Constant" for node in done)


def _value_of(
    node: onnx.NodeProto, known: dict[str, tuple[int, ...]], values: dict[str, np.ndarray]
) -> np.ndarray | None:
    """Return what a node of constants computes, None where it depends on the image."""
    if len(node.output) != 1:
        return None
    if node.op_type == "Shape":
        return np.array(known[node.input[0]], np.int64) if node.input[0] in known and not node.attribute else None
    if node.op_type in {"QuantizeLinear", "DequantizeLinear"} or not all(n in values for n in node.input if n):
        return None
    try:
        (result,) = ReferenceEvaluator(node).run(None, {name: values[name] for name in node.input if name})
    except Exception:  # the evaluator knows not every operator, and raises whatever it meets; then it stays unknown
        return None
    return np.asarray(result)
