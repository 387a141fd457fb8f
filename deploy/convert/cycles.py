"""Cycles of one convolution on one NPU core, in closed form: what a layer costs before, or instead of, compiling it.

The compiler's layer table counts two columns and takes the larger. The arithmetic ("NPU") column is exact here: it was
found from the tables of rknn-toolkit2 2.5.0 for the RK3588 and agrees with every convolution of them that the tests
know. Channels are paid in whole groups, of 32 coming in and of 32 (INT8) or 16 (FP16) going out, so a convolution to 10
class logits costs as much as one to 32. The memory ("DDR") column is bytes over a bandwidth that was fitted to the same
tables, within 1 % or 60 cycles (7 % for one layer that reads 24 channels).

Cycles at 1 GHz underestimate time; they compare layers and precisions, they do not predict milliseconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from .layer_table import Layer

Precision = Literal["int8", "fp16"]

IN_GROUP = 32
OUT_GROUP = {"int8": 32, "fp16": 16}
DEPTHWISE_GROUP = 64
VALUE_BYTES = {"int8": 1, "fp16": 2}
BIAS_BYTES = 4
# Channels that are no multiple of this are stored as whole groups.
STORED_GROUP = 16
BYTES_PER_CYCLE = 23.65

_SHAPE = re.compile(r"\(([\d,]+)\)")


@dataclass(frozen=True)
class Convolution:
    """The shape of a convolution. kernel_hw in cells; input_hw, output_hw: height and width of its maps."""

    in_channels: int
    out_channels: int
    kernel_hw: tuple[int, int]
    input_hw: tuple[int, int]
    output_hw: tuple[int, int]
    groups: int = 1

    @property
    def depthwise(self) -> bool:
        """Whether each channel has a filter of its own."""
        return self.groups > 1 and self.groups == self.in_channels == self.out_channels

    @property
    def weights(self) -> int:
        """How many weights it has, the bias not counted."""
        return self.out_channels * (self.in_channels // self.groups) * self.kernel_hw[0] * self.kernel_hw[1]


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
    """Return an estimate of the table's DDR column: cycles in which input, weights and output are moved."""
    _check(conv, precision)
    moved = (
        conv.in_channels * conv.input_hw[0] * conv.input_hw[1]
        + conv.weights
        + _stored(conv.out_channels, OUT_GROUP[precision]) * conv.output_hw[0] * conv.output_hw[1]
    )
    return round((moved * VALUE_BYTES[precision] + BIAS_BYTES * conv.out_channels) / BYTES_PER_CYCLE)


def total_cycles(conv: Convolution, precision: Precision) -> int:
    """Return an estimate of the table's total: the slower of arithmetic and memory."""
    return max(arithmetic_cycles(conv, precision), memory_cycles(conv, precision))


def convolution_of(layer: Layer) -> Convolution | None:
    """Return the convolution that a row of the layer table runs, None for any other row.

    Raises ValueError where its shapes are not those of a convolution.
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
    )


def _stored(channels: int, size: int) -> int:
    return channels if channels % STORED_GROUP == 0 else _groups(channels, size) * size


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
