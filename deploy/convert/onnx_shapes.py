"""The layers and maps of an ONNX file, as the compiler's table would list them; its weights are not looked at.

Activations and batch normalisation run inside of the convolution before them, quantisers are no layers, two Slices that
halve a map are one Split: the compiler does all that, and so do these rules.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from .cycles import Convolution
from .network_shapes import STRIDE, Network, NetworkLayer, canonical
from .static_shapes import static_shapes

# What leaves a map as it is.
_NOTHING = {"QuantizeLinear", "DequantizeLinear", "Cast", "Identity", "Dropout"}
# What runs inside of the convolution before it.
_FUSED = {
    "BatchNormalization",
    "Relu",
    "LeakyRelu",
    "PRelu",
    "Clip",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Tanh",
    "Elu",
    "Softplus",
    "Mish",
}
_COMPUTING = {"Gemm", "MatMul", "ConvTranspose", "Einsum", "LSTM", "GRU", "RNN", "ConvInteger", "MatMulInteger"}


def network_of_onnx(path: Path) -> tuple[Network, list[str]]:
    """Return the network of an ONNX file, and the kinds of layers whose cycles no closed form knows.

    Raises FileNotFoundError, or ValueError where it is no ONNX file, its shapes are not static, it takes a batch or
    something else than one image, or it has no convolution.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        model = onnx.load(str(path), load_external_data=False)
        nodes, outputs = list(model.graph.node), list(model.graph.output)
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in weights]
        _check_inputs(inputs, path)
        dims, values = static_shapes(model)
    except ValueError:
        raise
    except Exception as error:  # protobuf's DecodeError and onnx's InferenceError derive from Exception only
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: not an ONNX file that can be read ({why}); export the model again") from error
    reading = _Reading(nodes, inputs[0], outputs, dims, values, path)
    reading.layers_of()
    if not any(layer.conv for layer in reading.layers):
        raise ValueError(f"{path}: has no convolution; an estimate is of a detector's network")
    image = reading.maps[reading.image]
    classes = [reading.maps[layer.inputs[0]][0] for layer in reading.layers if layer.name.startswith("class_")]
    network = Network(
        path.stem,
        (image[1], image[2]),
        classes[0] if classes and len(set(classes)) == 1 else None,
        tuple(reading.layers),
        reading.maps,
    )
    return network, sorted(reading.unknown)


def _check_inputs(inputs: list[onnx.ValueInfoProto], path: Path) -> None:
    """Raise ValueError unless the network takes one image of a static size."""
    if len(inputs) != 1:
        raise ValueError(f"{path}: must take one image, has {len(inputs)} inputs")
    name, dims = inputs[0].name, inputs[0].type.tensor_type.shape.dim
    told = [dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or "?") for dim in dims]
    shown = f"({', '.join(map(str, told))})"
    if not told or any(not isinstance(size, int) or size < 1 for size in told):
        raise ValueError(
            f"{path}: input {name} has dynamic axes {shown}; the NPU needs static ones, export it with a fixed size"
        )
    if len(told) != 4 or told[0] != 1:
        raise ValueError(f"{path}: input {name} must be (1, channels, height, width), got {shown}")
    if dims[2].dim_value % STRIDE or dims[3].dim_value % STRIDE:
        raise ValueError(f"{path}: height and width must be multiples of {STRIDE}, got {shown}")


class _Reading:
    """One pass over the graph. alias: the map that a tensor is the same as, for what is no layer of its own."""

    def __init__(
        self,
        nodes: list[onnx.NodeProto],
        image: onnx.ValueInfoProto,
        outputs: list[onnx.ValueInfoProto],
        dims: dict[str, tuple[int, ...]],
        values: dict[str, np.ndarray],
        path: Path,
    ) -> None:
        self.nodes, self.outputs, self.dims, self.values, self.path = nodes, outputs, dims, values, path
        self.layers: list[NetworkLayer] = []
        self.image = image.name
        shape = [dim.dim_value for dim in image.type.tensor_type.shape.dim]
        self.maps: dict[str, tuple[int, int, int]] = {self.image: (shape[1], shape[2], shape[3])}
        self.unknown: set[str] = set()
        self.alias: dict[str, str] = {}

    def layers_of(self) -> None:
        """Fill `layers` and `maps`."""
        slices = self._halving_slices()
        for node in self.nodes:
            kind = node.op_type
            data = [self._map(name) for name in node.input if self._map(name) in self.maps]
            if not data or node.output[0] in self.values:
                continue  # weights and shapes: computed once, by the compiler
            # A Mul of a map with a function of itself is SiLU's; with a constant, a scale.
            if kind in _NOTHING or kind in _FUSED or (kind == "Mul" and len(set(data)) == 1):
                self.alias[node.output[0]] = data[0]
                continue
            if kind == "Conv":
                self._convolution(node, data[0])
                continue
            if kind == "Slice" and node.output[0] in slices:
                group = slices[node.output[0]]
                if group[0] == node.output[0]:
                    self._add("Split", f"{node.name}_split", (data[0],), tuple(group))
                continue
            if kind in _COMPUTING:
                self.unknown.add(kind)
            self._add(kind, node.name, tuple(data), tuple(name for name in node.output if name))
        leaving = {self._map(value.name) for value in self.outputs}
        self.layers = [
            replace(layer, conv=replace(layer.conv, leaves=layer.outputs[0] in leaving)) if layer.conv else layer
            for layer in self.layers
        ]
        for value in self.outputs:
            if self._map(value.name) in self.maps:
                self.layers.append(NetworkLayer(value.name, "Output", (self._map(value.name),), ()))

    def _map(self, name: str) -> str:
        while name in self.alias:
            name = self.alias[name]
        return name

    def _size(self, name: str, node: onnx.NodeProto) -> tuple[int, int, int]:
        dims = self.dims.get(name)
        if dims is None:
            raise ValueError(
                f"{self.path}: the output of {node.name or node.op_type} has no static shape; export it with a fixed "
                "size"
            )
        # Whatever is no map counts by its values; only maps of convolutions must be (1, c, h, w).
        padded = (*dims[1:], 1, 1, 1)[:3] if len(dims) <= 4 else (int(np.prod(dims[1:])), 1, 1)
        return padded[0], padded[1], padded[2]

    def _add(self, kind: str, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        node = onnx.NodeProto(name=name, op_type=kind)
        for output in outputs:
            self.maps[output] = self._size(output, node)
        self.layers.append(NetworkLayer(canonical(name) or kind, kind, inputs, outputs))

    def _convolution(self, node: onnx.NodeProto, x: str) -> None:
        weight = self._weight_dims(node)
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        out = self._size(node.output[0], node)
        channels, height, width = self.maps[x]
        self.maps[node.output[0]] = out
        shape = Convolution(
            channels,
            weight[0],
            (weight[2], weight[3]),
            (height, width),
            (out[1], out[2]),
            attributes.get("group", 1),
            biased=len(node.input) > 2,
        )
        # A traced network numbers its nodes; its weights keep their names, where the exporter does not fold them.
        weight_name = node.input[1]
        called = canonical(node.name) or node.output[0]
        name = weight_name.removesuffix(".weight") if weight_name.endswith(".weight") else called
        self.layers.append(NetworkLayer(name, "Conv", (x,), (node.output[0],), shape, called))

    def _weight_dims(self, node: onnx.NodeProto) -> tuple[int, ...]:
        dims = self.dims.get(node.input[1])
        if dims is None or len(dims) != 4:
            raise ValueError(f"{self.path}: weights of {node.name} must be (out, in, k, k), got {dims}; it is not 2-D")
        return dims

    def _halving_slices(self) -> dict[str, list[str]]:
        """Return, by output, the Slices of the same map along its channels, when together they are all of it."""
        groups: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            if node.op_type == "Slice" and node.output[0] in self.dims and len(self.dims[node.output[0]]) == 4:
                groups.setdefault(node.input[0], []).append(node)
        found = {}
        for source, nodes in groups.items():
            whole, parts = self.dims.get(source), [self.dims[node.output[0]] for node in nodes]
            if whole and len(whole) == 4 and len(nodes) > 1:
                same = all(part[2:] == whole[2:] for part in parts)
                if same and sum(part[1] for part in parts) == whole[1]:
                    outputs = [node.output[0] for node in self._in_order(nodes)]
                    found.update(dict.fromkeys(outputs, outputs))
        return found

    def _in_order(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Sort Slices by their first channel, where that is written down; else they stay in the file's order."""
        starts = [self.values.get(node.input[1]) if len(node.input) > 1 else None for node in nodes]
        if any(start is None for start in starts):
            return nodes
        first = [int(start.ravel()[0]) for start in starts if start is not None]
        return [node for _, node in sorted(zip(first, nodes, strict=True), key=lambda pair: pair[0])]
