"""ONNX files read as layers: quantisers and activations vanish, what is not static or not known is told."""

import math
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from deploy.convert.layer_costs import closed_form
from deploy.convert.network_shapes import canonical, yolov8
from deploy.convert.onnx_shapes import network_of_onnx

ZOO = Path(__file__).resolve().parents[2] / "deploy" / "zoo"


def test_a_quantised_onnx_file_is_the_network_without_quantisers():
    network, unknown = network_of_onnx(ZOO / "vhr10" / "model.onnx")
    assert unknown == []
    assert {x.name: x.conv for x in network.convolutions} == {
        x.name: x.conv for x in yolov8("n", (512, 512), 10).convolutions
    }


def graph_of(nodes, weights, dims=(1, 3, 64, 64), outputs=("y",)) -> onnx.ModelProto:
    tensors = [helper.make_tensor(n, TensorProto.FLOAT, s, [0.0] * math.prod(s)) for n, s in weights.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


CONV = helper.make_node("Conv", ["images", "w"], ["y"], name="/a/Conv", pads=[1, 1, 1, 1])


def test_onnx_files_that_cannot_be_estimated(tmp_path):
    path = tmp_path / "m.onnx"
    for dims, told in (
        (("batch", 3, 64, 64), r"dynamic axes \(batch, 3, 64, 64\).*fixed size"),
        ((1, 3, "h", "w"), r"dynamic axes \(1, 3, h, w\)"),
        ((2, 3, 64, 64), r"must be \(1, channels, height, width\), got \(2, 3, 64, 64\)"),
        ((1, 3, 60, 64), r"multiples of 32, got \(1, 3, 60, 64\)"),
    ):
        onnx.save(graph_of([CONV], {"w": (8, 3, 3, 3)}, dims), path)
        with pytest.raises(ValueError, match=told):
            network_of_onnx(path)
    path.write_bytes(b"no graph at all")
    with pytest.raises(ValueError, match="not an ONNX file that can be read"):
        network_of_onnx(path)
    onnx.save(graph_of([helper.make_node("Relu", ["images"], ["y"])], {}), path)
    with pytest.raises(ValueError, match="has no convolution"):
        network_of_onnx(path)


def test_onnx_kinds_without_a_closed_form_are_named(tmp_path):
    nodes = [
        CONV,
        helper.make_node("ConvTranspose", ["y", "t"], ["z"], name="/up", strides=[2, 2]),
        helper.make_node("Conv", ["z", "g"], ["out"], name="/b/Conv", group=2),
    ]
    onnx.save(
        graph_of(nodes, {"w": (8, 3, 3, 3), "t": (8, 8, 2, 2), "g": (8, 4, 1, 1)}, outputs=("out",)),
        tmp_path / "m.onnx",
    )
    network, unknown = network_of_onnx(tmp_path / "m.onnx")
    assert unknown == ["ConvTranspose"]
    with pytest.raises(ValueError, match=r"m, layer b: cycles are known for plain and depthwise .* 2 groups"):
        closed_form(network, "int8")


def test_names_of_nodes():
    assert canonical("Conv:/model.2/cv1/conv/Conv") == "model.2.cv1.conv"
    assert canonical("/model.22/cv2.0/cv2.0.2/Conv") == "model.22.cv2.0.2"
    assert canonical("Conv:/model.22/cv3.1/cv3.1.0/conv/Conv") == "model.22.cv3.1.0.conv"
