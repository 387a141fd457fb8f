"""Closed-form cycles against every convolution that the vendor's compiler was asked about."""

import json
from pathlib import Path

import pytest

from deploy.convert.cycles import (
    Convolution,
    arithmetic_cycles,
    convolution_of,
    convolutions_of,
    memory_cycles,
    total_cycles,
)
from deploy.convert.layer_table import Layer, LayerTable

ZOO = Path(__file__).resolve().parents[2] / "deploy" / "zoo"

# (in, out, kernel, input size, output size, DDR cycles, NPU cycles): rows of the tables of a YOLOv8n at 512 and of a
# small network with depthwise convolutions (kernel < 0), both built as float16 by rknn-toolkit2 2.5.0 for the RK3588.
FLOAT16 = [
    (3, 16, 3, 512, 256, 155255, 589824),
    (16, 32, 3, 256, 128, 133385, 294912),
    (32, 32, 1, 128, 128, 88752, 65536),
    (16, 16, 3, 128, 128, 44528, 147456),
    (48, 32, 1, 128, 128, 110960, 65536),
    (32, 64, 3, 128, 64, 68064, 147456),
    (64, 64, 1, 64, 64, 44687, 32768),
    (32, 32, 3, 64, 64, 22950, 73728),
    (128, 64, 1, 64, 64, 67199, 65536),
    (64, 128, 3, 64, 32, 39503, 147456),
    (128, 128, 1, 32, 32, 23572, 32768),
    (64, 64, 3, 32, 32, 14211, 73728),
    (256, 128, 1, 32, 32, 36040, 65536),
    (128, 256, 3, 32, 16, 41603, 147456),
    (256, 256, 1, 16, 16, 16667, 32768),
    (128, 128, 3, 16, 16, 18031, 73728),
    (384, 256, 1, 16, 16, 22209, 49152),
    (256, 128, 1, 16, 16, 11105, 16384),
    (512, 256, 1, 16, 16, 27750, 65536),
    (192, 128, 1, 32, 32, 29806, 49152),
    (96, 64, 1, 64, 64, 55943, 49152),
    (64, 64, 3, 64, 32, 30834, 73728),
    (64, 64, 3, 64, 64, 47458, 294912),
    (64, 10, 1, 64, 64, 27763, 8192),
    (128, 128, 3, 32, 16, 26343, 73728),
    (128, 64, 3, 32, 32, 22869, 147456),
    (64, 64, 1, 32, 32, 11440, 8192),
    (64, 10, 1, 32, 32, 6984, 2048),
    (64, 64, 3, 16, 16, 5899, 18432),
    (64, 10, 1, 16, 16, 1789, 512),
    (64, 64, 1, 16, 16, 3128, 2048),
    (3, 64, 3, 128, 64, 26722, 147456),
    (64, 96, 1, 64, 64, 55948, 49152),
    (192, 64, 1, 16, 16, 6592, 6144),
    (192, 7, 1, 16, 16, 4619, 1536),
    (64, 64, -3, 64, 64, 44390, 36864),
    (96, 96, -3, 64, 32, 41649, 18432),
    (192, 192, -5, 16, 16, 8751, 19200),
]


def convolution(cin, cout, kernel, size, out) -> Convolution:
    k = abs(kernel)
    # So few channels only leave the network: they are class logits.
    return Convolution(cin, cout, (k, k), (size, size), (out, out), cin if kernel < 0 else 1, leaves=cout <= 10)


@pytest.mark.parametrize(("name", "off"), [("vhr10", 0), ("procedural", 3)])
def test_every_convolution_of_the_shipped_tables(name, off):
    table = LayerTable.from_json(json.loads((ZOO / name / "layers.json").read_text()))
    rows = convolutions_of(table)
    assert len(rows) >= 60
    assert [arithmetic_cycles(conv, "int8") for _, conv in rows] == [layer.cycles_npu for layer, _ in rows]
    # An odd number of classes is padded by a few bytes more.
    wrong = [layer for layer, conv in rows if memory_cycles(conv, "int8") != layer.cycles_ddr]
    assert len(wrong) == off
    assert all(
        layer.name.endswith(".2/Conv") and abs(memory_cycles(conv, "int8") - layer.cycles_ddr) <= 3
        for layer, conv in rows
        if layer in wrong
    )
    assert abs(sum(total_cycles(conv, "int8") for _, conv in rows) - table.cycles) <= 3 * off


@pytest.mark.parametrize("row", FLOAT16)
def test_float16(row):
    *shape, memory, arithmetic = row
    conv = convolution(*shape)
    assert arithmetic_cycles(conv, "fp16") == arithmetic
    # An odd number of classes is padded by a few bytes more.
    assert abs(memory_cycles(conv, "fp16") - memory) <= (3 if conv.out_channels == 7 else 0)
    assert abs(total_cycles(conv, "fp16") - max(arithmetic, memory)) <= 3


def test_depthwise_costs_the_same_in_both():
    conv = convolution(192, 192, -5, 16, 16)
    assert conv.depthwise
    assert arithmetic_cycles(conv, "int8") == arithmetic_cycles(conv, "fp16") == 19200


def row(kind: str, inputs: str, outputs: str) -> Layer:
    return Layer(3, kind, "INT8", "NPU", inputs, outputs, 0, 0, 0, 0.0, "Conv:/b/Conv")


def test_rows_become_shapes():
    plain = convolution_of(row("ConvExSwish", "(1,3,512,640),(16,3,3,5),(16)", "(1,16,256,320)"))
    assert plain == Convolution(3, 16, (3, 5), (512, 640), (256, 320))
    assert plain.weights == 16 * 3 * 3 * 5
    # Printed so by the toolkit: one filter of 64 channels stands for 64 filters of one.
    depthwise = convolution_of(row("ConvRelu", "(1,64,64,64),(1,64,3,3),(64)", "(1,64,64,64)"))
    assert depthwise == Convolution(64, 64, (3, 3), (64, 64), (64, 64), groups=64)
    assert depthwise.weights == 64 * 9
    assert convolution_of(row("ConvAdd", "(1,8,4,4),(8,8,1,1),(8),...", "(1,8,4,4)")) is not None
    assert convolution_of(row("Split", "(1,32,64,64),(2)", "(1,16,64,64),...")) is None
    with pytest.raises(ValueError, match=r"layer 3 Conv:/b/Conv is a Conv, its shapes must be"):
        convolution_of(row("Conv", "(1,32,64,64),...", "(1,16,64,64)"))


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="precision must be one of int8, fp16, got 'w8a8'"):
        total_cycles(convolution(3, 8, 3, 8, 8), "w8a8")
    with pytest.raises(ValueError, match="got 4 groups of 96 channels to 192"):
        arithmetic_cycles(Convolution(96, 192, (3, 3), (32, 32), (16, 16), groups=4), "int8")
