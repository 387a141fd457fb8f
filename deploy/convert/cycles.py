"""Cycles of one convolution on one NPU core, in closed form: what a layer costs before, or instead of, compiling it.

The compiler's layer table counts two columns and takes the larger. The closed forms were found from the tables of
rknn-toolkit2 2.5.0 for the RK3588. Arithmetic ("NPU") agrees with every convolution that the tests know: channels are
paid in whole groups, of 32 coming in and of 32 (INT8) or 16 (FP16) going out, so a convolution to 10 class logits costs
as much as one to 32. Memory ("DDR") is maps, weights and biases, the channels of maps in units of 16 bytes, over 23.654
bytes a cycle (about 0.7 of what LPDDR4X at 4224 MT/s on 64 wires carries at 1 GHz). It agrees with YOLOv8 n, s and m at
512 and 640, but for one row by one cycle; layers of fewer than 16 odd channels may be off by 0.7 %.

Cycles at 1 GHz underestimate time; they compare layers and precisions, they do not predict milliseconds (`roofline`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from .layer_table import Layer, LayerTable

Precision = Literal["int8", "fp16"]

IN_GROUP = 32
OUT_GROUP = {"int8": 32, "fp16": 16}
DEPTHWISE_GROUP = 64
VALUE_BYTES = {"int8": 1, "fp16": 2}
# An INT8 output channel has a bias and a shift of four bytes each.
BIAS_BYTES = {"int8": 8, "fp16": 4}
# Maps lie in memory in units of so many bytes along the channels.
UNIT_BYTES = 16
# An image of up to so many channels is read as it is, byte for byte.
IMAGE_CHANNELS = 4
BYTES_PER_CYCLE = 23.6540013

_SHAPE = re.compile(r"\(([\d,]+)\)")


@dataclass(frozen=True)
class Convolution:
    """The shape of a convolution. kernel_hw in cells; input_hw, output_hw: height and width of its maps.

    biased: has a bias. sums: adds a second map of its output's shape to what it computes. leaves: its output is one of
    the network's, which are stored in whole groups of channels; None (not known) takes it for one where its channels
    are no multiple of 16.
    """

    in_channels: int
    out_channels: int
    kernel_hw: tuple[int, int]
    input_hw: tuple[int, int]
    output_hw: tuple[int, int]
    groups: int = 1
    biased: bool = True
    sums: bool = False
    leaves: bool | None = None

    @property
    def depthwise(self) -> bool:
        """Whether each channel has a filter of its own."""
        return self.groups > 1 and self.groups == self.in_channels == self.out_channels

    @property
    def weights(self) -> int:
        """How many weights it has, the bias not counted."""
        return self.out_channels * (self.in_channels // self.groups) * self.kernel_hw[0] * self.kernel_hw[1]

    @property
    def multiply_adds(self) -> int:
        """How many multiply-adds it computes, padding counted as values."""
        return self.weights * self.output_hw[0] * self.output_hw[1]


def arithmetic_cycles(conv: Convolution, precision: Precision) -> int:
    """Return the table's NPU column: cycles of the multiplications.

    H W max(k k ceil(Cin / 32) ceil(Cout / N), ceil(Cout / N) N / 8) with N = 32 for "int8" and 16 for "fp16"; the
    second term is the speed at which results leave. Raises ValueError for grouped convolutions that are not depthwise:
    no table told what they cost.
    """
    _check(conv, precision)
    cells = conv.output_hw[0] * conv.output_hw[1]
    taps = conv.kernel_hw[0] * conv.kernel_hw[1]
    if conv.depthwise:
        return cells * taps * _groups(conv.out_channels, DEPTHWISE_GROUP)
    size = OUT_GROUP[precision]
    out = _groups(conv.out_channels, size)
    return cells * max(taps * _groups(conv.in_channels, IN_GROUP) * out, out * size // 8)


def memory_cycles(conv: Convolution, precision: Precision) -> int:
    """Return the table's DDR column: cycles in which input, weights, biases and output are moved."""
    moved = read_bytes(conv, precision) + written_bytes(conv, precision)
    return math.ceil(moved / BYTES_PER_CYCLE)


def read_bytes(conv: Convolution, precision: Precision) -> int:
    """Return the bytes that it reads: its maps, weights and biases. The table's RW column is this in whole KB."""
    _check(conv, precision)
    maps = map_bytes(conv.in_channels, conv.input_hw, precision)
    if conv.sums:
        maps += map_bytes(conv.out_channels, conv.output_hw, precision)
    return maps + weight_bytes(conv, precision)


def weight_bytes(conv: Convolution, precision: Precision) -> int:
    """Return the bytes of its weights and biases as the NPU reads them."""
    _check(conv, precision)
    size, group = VALUE_BYTES[precision], OUT_GROUP[precision]
    weights, biases = conv.weights, _groups(conv.out_channels, group) * group
    # The filters of an image are stored in whole units, unless the last of several groups of them is not full.
    if conv.in_channels <= IMAGE_CHANNELS and not (conv.out_channels > group and conv.out_channels % group):
        weights = weights // conv.in_channels * (UNIT_BYTES // size)
    if conv.depthwise:
        biases = _groups(conv.out_channels, 2 * group) * 2 * group
    return weights * size + conv.biased * BIAS_BYTES[precision] * biases


def written_bytes(conv: Convolution, precision: Precision) -> int:
    """Return the bytes that it writes."""
    _check(conv, precision)
    leaves = conv.out_channels % UNIT_BYTES != 0 if conv.leaves is None else conv.leaves
    return map_bytes(conv.out_channels, conv.output_hw, precision, leaves=leaves)


def map_bytes(channels: int, size_hw: tuple[int, int], precision: Precision, *, leaves: bool = False) -> int:
    """Return the bytes of a map in memory. leaves: it is one of the network's outputs."""
    size = VALUE_BYTES[precision]
    stored = channels
    if leaves:
        stored = _groups(channels, OUT_GROUP[precision]) * OUT_GROUP[precision]
    elif channels > IMAGE_CHANNELS:
        stored = _groups(channels, UNIT_BYTES // size) * (UNIT_BYTES // size)
    return stored * size_hw[0] * size_hw[1] * size


def total_cycles(conv: Convolution, precision: Precision) -> int:
    """Return the table's total: the slower of arithmetic and memory."""
    return max(arithmetic_cycles(conv, precision), memory_cycles(conv, precision))


def convolution_of(layer: Layer, *, leaves: bool | None = None) -> Convolution | None:
    """Return the convolution that a row of the layer table runs, None for any other row.

    leaves: whether its output is one of the network's, which the row does not tell (`convolutions_of` does). Raises
    ValueError where its shapes are not those of a convolution.
    """
    if not layer.type.startswith("Conv"):
        return None
    shapes = [tuple(map(int, hit.split(","))) for hit in _SHAPE.findall(layer.input_shapes)]
    out = [tuple(map(int, hit.split(","))) for hit in _SHAPE.findall(layer.output_shapes)]
    if len(shapes) < 2 or not out or not len(shapes[0]) == len(shapes[1]) == len(out[0]) == 4:
        raise ValueError(
            f"layer {layer.index} {layer.name} is a {layer.type}, its shapes must be (1, c, h, w) and (out, in, k, k); "
            f"got {layer.input_shapes} -> {layer.output_shapes}"
        )
    (_, channels, *input_hw), (filters, per_group, *kernel_hw) = shapes[0], shapes[1]
    _, out_channels, *output_hw = out[0]
    # A depthwise convolution's weights are printed as (1, channels, k, k).
    groups = channels if filters == 1 and per_group == out_channels else channels // per_group
    return Convolution(
        channels,
        out_channels,
        (kernel_hw[0], kernel_hw[1]),
        (input_hw[0], input_hw[1]),
        (output_hw[0], output_hw[1]),
        groups,
        biased=len(shapes) > 2,
        sums=layer.type == "ConvAdd",
        leaves=leaves,
    )


def convolutions_of(table: LayerTable) -> list[tuple[Layer, Convolution]]:
    """Return each row of a table that runs a convolution, with its shape.

    Raises ValueError where a row's shapes are not those of a convolution.
    """
    found = []
    for layer, following in zip(table.layers, (*table.layers[1:], None), strict=True):
        leaves = following is not None and following.type == "OutputOperator"
        conv = convolution_of(layer, leaves=leaves)
        if conv is not None:
            found.append((layer, conv))
    return found


def _groups(channels: int, size: int) -> int:
    return -(-channels // size)


def _check(conv: Convolution, precision: str) -> None:
    if precision not in OUT_GROUP:
        raise ValueError(f"precision must be one of {', '.join(OUT_GROUP)}, got {precision!r}")
    if conv.groups > 1 and not conv.depthwise:
        raise ValueError(
            f"cycles are known for plain and depthwise convolutions, got {conv.groups} groups of {conv.in_channels} "
            f"channels to {conv.out_channels}; read them from the layer table"
        )
