"""Channel counts that go together, rounded, against the same layers changed by hand."""

from dataclasses import replace

from deploy.convert.cycles import Convolution, total_cycles
from deploy.convert.layer_costs import closed_form, total_of
from deploy.convert.network_shapes import Network, NetworkLayer, yolov8
from deploy.convert.widths import losses, rounded, widths


def test_rounding_a_width_changes_every_layer_that_shares_it():
    """The stem and the hidden channels of YOLOv8n's first C2f, each checked against a network built that way."""
    network = yolov8("n", (512, 512), 10)
    now = total_of(closed_form(network, "int8"))
    found = {width.layers: width for width in widths(network, "int8")}
    stem = found[("model.0.conv", "model.1.conv")]
    assert (stem.channels, stem.wider.channels, stem.narrower) == (16, 32, None)
    changed = 0
    for layer in network.convolutions[:2]:
        wide = replace(layer.conv, **{"out_channels" if layer.name == "model.0.conv" else "in_channels": 32})
        changed += total_cycles(wide, "int8") - total_cycles(layer.conv, "int8")
    assert stem.wider.cycles == changed
    # The residual sum ties the second half of cv1 to what the bottleneck puts out; the first half is free.
    tied = ("model.2.cv1.conv", "model.2.m.0.cv1.conv", "model.2.m.0.cv2.conv", "model.2.cv2.conv")
    by_hand = {"model.2.cv1.conv": (32, 48), "model.2.m.0.cv1.conv": (32, 16), "model.2.m.0.cv2.conv": (16, 32)}
    by_hand["model.2.cv2.conv"] = (16 + 32 + 32, 32)
    wide = 0
    for layer in network.convolutions:
        cin, cout = by_hand.get(layer.name, (layer.conv.in_channels, layer.conv.out_channels))
        wide += total_cycles(replace(layer.conv, in_channels=cin, out_channels=cout), "int8")
    assert found[tied].wider.cycles == wide - now
    assert ("model.2.cv1.conv", "model.2.cv2.conv") in found
    # Nobody can choose the image's three channels, or those of the outputs.
    assert all("model.22.cv3.0.2" not in width.layers or width.channels != 10 for width in found.values())


def test_rounding_everything_leaves_no_odd_width_but_the_fixed():
    network = yolov8("m", (512, 512), 10)
    down, up = rounded(network, "int8", up=False), rounded(network, "int8", up=True)
    now = closed_form(network, "int8")
    assert total_of(down) < total_of(now) < total_of(up)
    assert sum(cost.multiply_adds for cost in down) < sum(cost.multiply_adds for cost in now)
    assert rounded(yolov8("l", (512, 512), 10), "int8", up=True) is None  # widths of 64 and more everywhere


def test_what_does_not_fill_the_arrays():
    first = {loss.layer: loss for loss in losses(yolov8("n", (512, 512), 10), "int8")}
    assert first["model.0.conv"].filled == (3 / 32) * (16 / 32)
    assert first["model.22.cv3.0.2"].filled == 10 / 32
    assert first["model.22.cv3.0.2"].lost_cycles == round(16384 * (1 - 10 / 32))
    assert "model.3.conv" not in first


def test_a_graph_that_mixes_channels_frees_none(tmp_path):
    maps = {"images": (3, 64, 64), "a": (24, 64, 64), "b": (24, 64, 64), "c": (8, 64, 64)}
    conv = Convolution(3, 24, (3, 3), (64, 64), (64, 64))
    layers = (
        NetworkLayer("a", "Conv", ("images",), ("a",), conv),
        NetworkLayer("b", "Transpose", ("a",), ("b",)),
        NetworkLayer("c", "Conv", ("b",), ("c",), replace(conv, in_channels=24, out_channels=8)),
        NetworkLayer("out", "Output", ("c",), ()),
    )
    assert widths(Network("x", (64, 64), None, layers, maps), "int8") == []
    joined = (layers[0], replace(layers[1], kind="MaxPool"), *layers[2:])
    assert [w.layers for w in widths(Network("x", (64, 64), None, joined, maps), "int8")] == [("a", "c")]
