"""What the operations of an ONNX file say about an output, read without the onnx package, which boards do not have.

An ONNX file is one protobuf message. Only its outline is walked: the nodes' operations and the names that join them;
weights are stepped over. Field numbers are those of the public `onnx.proto`.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATION = 1, 2, 4
_TENSOR_LOCATION, _EXTERNAL = 14, 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# These move values or round them; what they mean stays.
_SAME_VALUES = frozenset(
    ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Slice", "Split", "Concat")
) | {"QuantizeLinear", "DequantizeLinear"}
_PROBABILITIES = frozenset(("Sigmoid", "HardSigmoid", "Softmax"))
_LOGITS = frozenset(("Conv", "Gemm", "MatMul", "Add", "BatchNormalization"))

Activation = Literal["sigmoid", "none"]


@dataclass(frozen=True)
class Node:
    """One operation of a graph."""

    operation: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """The outline of a graph. producers: the node that makes each value. external: weights lie in other files."""

    producers: dict[str, Node]
    external: bool

    def activation(self, output: str) -> tuple[Activation | None, str]:
        """Say whether an output holds probabilities ("sigmoid") or logits ("none"); and which operation decides that.

        Steps back over what only moves values; behind a Concat the last input counts, where scores stand behind boxes.
        None where the operation that is found decides nothing.
        """
        name, seen = output, set()
        while (node := self.producers.get(name)) is not None and name not in seen:
            if node.operation in _PROBABILITIES:
                return "sigmoid", node.operation
            if node.operation in _LOGITS:
                return "none", node.operation
            if node.operation not in _SAME_VALUES or not node.inputs:
                return None, node.operation
            seen.add(name)
            name = node.inputs[-1 if node.operation == "Concat" else 0]
        return None, "nothing"

    def reaches(self, start: str, target: str) -> bool:
        """Say whether `target` is computed from `start`, over any operations."""
        waiting, seen = [target], set()
        while waiting:
            name = waiting.pop()
            if name == start:
                return True
            node = self.producers.get(name)
            if node is not None and name not in seen:
                seen.add(name)
                waiting.extend(node.inputs)
        return False


def read_graph(path: Path) -> OnnxGraph:
    """Read the outline of an ONNX file. Raises FileNotFoundError, and ValueError where it is no such file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; name the model's file")
    producers: dict[str, Node] = {}
    external = False
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for field, start, end in _fields(data, 0, len(data)):
                if field != _MODEL_GRAPH:
                    continue
                for part, begin, stop in _fields(data, start, end):
                    if part == _GRAPH_NODE:
                        node = _node(data, begin, stop)
                        producers.update(dict.fromkeys(node.outputs, node))
                    elif part == _GRAPH_INITIALIZER:
                        places = (first for f, first, _ in _fields(data, begin, stop) if f == _TENSOR_LOCATION)
                        external = external or _EXTERNAL in places
    except (ValueError, IndexError) as error:  # an empty file cannot be mapped, another one ends too early
        raise ValueError(f"{path} is not an ONNX file ({error}); export the model again") from error
    return OnnxGraph(producers, external)


def _node(data: mmap.mmap, start: int, end: int) -> Node:
    texts: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: [], _NODE_OPERATION: []}
    for field, begin, stop in _fields(data, start, end):
        if field in texts:
            texts[field].append(data[begin:stop].decode("utf-8"))
    operation = texts[_NODE_OPERATION]
    return Node(operation[-1] if operation else "", tuple(texts[_NODE_INPUT]), tuple(texts[_NODE_OUTPUT]))


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (field number, first byte, byte behind) of each field of a message; a plain number as (field, value, 0)."""
    while start < end:
        key, start = _number(data, start)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, start = _number(data, start)
            yield field, value, 0
            continue
        if wire == _BYTES:
            size, start = _number(data, start)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"no field of protobuf is of kind {wire}")
        if start + size > end:
            raise ValueError(f"it ends before its field {field} does")
        yield field, start, start + size
        start += size


def _number(data: mmap.mmap, start: int) -> tuple[int, int]:
    """Return a varint, seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
    raise ValueError("a number has more than ten bytes")
