"""Find poolings that the NPU's compiler would turn into others: windows wider than their map.

Where the window of a MaxPool is wider than the map (5 x 5 over 4 x 4 cells), the compiler makes one maximum over the
whole of that dimension and spreads it (rows MaxPool and Expand in its layer table), in INT8 and in float16. That is
right only where every window covers the whole map, as 5 x 5 with a padding of 2 does over 3 x 3 cells or fewer. Over
4 x 4 the corners come out wrong, without a word in the log. All of it was measured in the vendor's simulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..backends.onnx_session import session_options


@dataclass(frozen=True)
class WidePool:
    """A MaxPool that compiles to another one. layer: its node. map_hw: its input in cells, kernel_hw: its window.

    input_hw: the smallest model input in pixels whose map is as large as the window.
    """

    layer: str
    map_hw: tuple[int, int]
    kernel_hw: tuple[int, int]
    input_hw: tuple[int, int]

    def told(self) -> str:
        """Return what is wrong and what cures it, in a line."""
        (h, w), (kh, kw) = self.map_hw, self.kernel_hw
        return (
            f"layer {self.layer} pools a map of {h} x {w} cells with a window of {kh} x {kw}: the compiler would take "
            f"one maximum of the whole map instead; set train.image_size to at least {max(self.input_hw)}"
        )


def wide_pools(model: onnx.ModelProto) -> list[WidePool]:
    """Return the poolings of a graph that would be compiled wrongly, in its order.

    model: one static input (1, c, h, w) float32.
    """
    pools = [node for node in model.graph.node if node.op_type == "MaxPool"]
    if not pools:
        return []
    (height, width), maps = _sizes(model, [node.input[0] for node in pools])
    found = []
    for node in pools:
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        cells, kernel = maps[node.input[0]], settings["kernel_shape"]
        if not all(_right(settings, cells[axis], axis) for axis in (0, 1)):
            needed = -(-kernel[0] * height // cells[0]), -(-kernel[1] * width // cells[1])
            found.append(WidePool(node.name, cells, (kernel[0], kernel[1]), needed))
    return found


def _sizes(model: onnx.ModelProto, names: list[str]) -> tuple[tuple[int, int], dict[str, tuple[int, int]]]:
    """Return (height, width) of the model's input, and of tensors inside by name.

    ONNX Runtime is asked, on an empty image: onnx's own inference gives up where sizes are worked out in the graph.
    """
    import onnxruntime

    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    del asked.graph.output[:]
    asked.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in dict.fromkeys(names))
    session = onnxruntime.InferenceSession(
        asked.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()
    values = session.run(None, {given.name: np.zeros(given.shape, np.float32)})
    found = [(int(value.shape[2]), int(value.shape[3])) for value in values]
    return (given.shape[2], given.shape[3]), dict(zip(dict.fromkeys(names), found, strict=True))


def _right(settings: dict[str, Any], cells: int, axis: int) -> bool:
    """Return whether a pooling node survives compiling along one axis, of so many cells."""
    before, after = ((settings.get("pads") or [0] * 4)[axis + edge] for edge in (0, 2))
    stride = (settings.get("strides") or [1, 1])[axis]
    kernel = settings["kernel_shape"][axis]
    return survives(cells, kernel, stride, (before, after), ceil_mode=bool(settings.get("ceil_mode")))


def survives(cells: int, kernel: int, stride: int, padding: tuple[int, int], *, ceil_mode: bool = False) -> bool:
    """Return whether a pooling along one axis, of so many cells, is compiled to what it is. padding: before, after."""
    if kernel <= cells:
        return True
    before, after = padding
    room = cells + before + after - kernel
    steps = -(-room // stride) if ceil_mode else room // stride
    if steps * stride >= cells + before:
        steps -= 1  # a window that would begin behind the map is left out
    # The first window must reach the last cell, the last window must begin no later than the first cell.
    return kernel - before >= cells and steps * stride <= before
