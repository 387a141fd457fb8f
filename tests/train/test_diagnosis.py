"""Signal-to-noise by layer against literal NumPy, the layer to blame, the island and its cost, and the texts."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from deploy.convert.cycles import Convolution
from deploy.convert.layer_table import Layer, LayerTable
from quantize.insert import FakeQuantised, Settings, insert
from train.diagnosis import LayerNoise, calibrated_stand_in, diagnose, ratio_db
from train.diagnosis_plot import plot_diagnosis
from train.diagnosis_report import (
    Island,
    diagnosis_lines,
    diagnosis_markdown,
    limit_of,
    noise_json,
    suggest_island,
    worst_first,
)
from train.model import Yolov8


class Small(nn.Module):
    """Convolutions with and without BatchNorm, a sum, and a Concat whose parts share a grid; `last` reads it."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.act = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU()
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        y = x + self.act(self.one(x))
        return [self.last(torch.cat([self.act(self.two(y)), y], 1))]


def pictures(count=3, size=16):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def floats(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255


def calibrated(model: nn.Module, bits=8, **settings) -> FakeQuantised:
    network = insert(model, Settings(bits, bits, "min_max", **settings)).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        for image in floats(pictures()):
            network(image[None])
    network.freeze()
    return network.eval()


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Small()
    with torch.no_grad():
        model(torch.rand(8, 3, 16, 16))
    return model.eval()


def decibels(reference, rounded):
    reference, rounded = (np.asarray(v, np.float64) for v in (reference, rounded))
    return 10 * np.log10((reference**2).sum() / ((reference - rounded) ** 2).sum())


def numpy_round(x, scale, zero):
    integers = np.rint(x / scale) + zero
    return (np.clip(integers, -128, 127) - zero) * scale, integers


def by_layer(noises):
    return {noise.layer or noise.label: noise for noise in noises}


def test_own_and_accumulated_are_what_numpy_says(model):
    """The first and last convolution, computed by hand from plain modules."""
    network, images = calibrated(model), pictures()
    found = by_layer(diagnose(network, images))
    with torch.no_grad():
        x = floats(images)
        k = model.norm.weight / torch.sqrt(model.norm.running_var + model.norm.eps)
        weight, bias = model.stem.weight * k[:, None, None, None], model.norm.bias - model.norm.running_mean * k
        low, high = (v.numpy() for v in (weight.flatten(1).amin(1), weight.flatten(1).amax(1)))
        scale = ((np.maximum(high, 0) - np.minimum(low, 0)) / 255).astype(np.float32)[:, None, None, None]
        zero = np.rint(-128 - np.minimum(low, 0)[:, None, None, None] / scale)
        rounded, _ = numpy_round(weight.numpy(), scale, zero)
        step = np.float32(1 / 255) * scale[:, 0, 0, 0]
        whole = torch.from_numpy(np.rint(bias.numpy() / step) * step)
        reference = model.act(nn.functional.conv2d(x, weight, bias, 2, 1))
        unrounded = model.act(nn.functional.conv2d(x, torch.from_numpy(rounded).float(), whole.float(), 2, 1))
        s, z = (float(v) for v in network.quantisers()["act_quantiser"].parameters_as_integers())
        own, integers = numpy_round(unrounded.numpy(), s, z)
    stem = found["stem"]
    assert stem.own_db == pytest.approx(decibels(reference, own), abs=0.02)
    assert stem.accumulated_db == stem.own_db  # nothing is rounded before it but the pixels, which lie on their grid
    assert stem.weights_db == pytest.approx(decibels(reference, unrounded), abs=0.02)
    assert abs(stem.integers_used - len(np.unique(np.clip(integers, -128, 127)))) <= 1
    assert stem.integers == 256
    with torch.no_grad():
        rounded_heads = network(floats(images))[0]
        network.enable(False)
        float_heads = network(floats(images))[0]
    assert found["last"].accumulated_db == pytest.approx(decibels(float_heads, rounded_heads), abs=0.02)
    assert found["last"].own_db > found["last"].accumulated_db + 1


def test_every_place_once_in_the_networks_order(model):
    network = calibrated(model)
    noises = diagnose(network, pictures())
    assert [n.layer for n in noises] == ["stem", "one", "", "two", "last"]
    shared = {n.name for n in noises if n.quantiser == noises[2].quantiser}
    assert shared == {"add", "act_2"}  # the parts of the Concat
    assert set(network.placement.groups[noises[2].quantiser]) == shared
    add = noises[2]
    assert add.label == "add"
    assert add.convolution is None
    assert math.isinf(add.weights_db)
    assert noises[0].readers == ("one",)
    assert noises[3].readers == add.readers[::-1][:1] == ("last",)
    assert add.readers == ("two", "last")
    assert [n.reads_image for n in noises] == [True, False, False, False, False]
    assert noises[0].convolution == Convolution(3, 8, (3, 3), (16, 16), (8, 8))
    assert noises[4].convolution == Convolution(16, 4, (1, 1), (8, 8), (8, 8))


def test_the_culprit_is_named_and_not_its_heirs(model):
    with torch.no_grad():
        model.one.weight[:, 0, 0, 0] = 400.0 * model.one.weight.abs().max()  # one huge weight a channel
        model.one.weight[:, 0, 1:, 1:] = 0.1
        model.norm.bias[0] = -40.0  # which meets only zeros behind SiLU, so nothing else grows
    noises = diagnose(calibrated(model), pictures())
    worst = worst_first(noises)[0]
    assert worst.layer == "one"
    assert worst.own_db < 15
    assert worst.weights_db < 15
    heir = by_layer(noises)["last"]
    assert heir.accumulated_db < heir.own_db - 15
    island = suggest_island(noises)
    assert island is not None
    assert island.layer == "one"


def test_an_outlier_of_the_activations_shows_in_the_output_not_in_the_weights(model):
    network = calibrated(model)
    quantiser = network.quantisers()["act_1_quantiser"]
    quantiser.scale.mul_(300)
    found = by_layer(diagnose(network, pictures()))["one"]
    assert found.own_db < 15 < 30 < found.weights_db
    assert found.integers_used < 8


def test_values_beyond_the_grid_are_counted(model):
    network, images = calibrated(model), pictures()
    before = by_layer(diagnose(network, images))["last"]
    assert before.saturated < 0.01
    quantiser = network.quantisers()["last_quantiser"]
    with torch.no_grad():
        quantiser.scale.mul_(0.25)
        network.eval()
        raw = []
        handle = quantiser.register_forward_pre_hook(lambda _, given: raw.append(given[0].numpy()))
        for image in floats(images):
            network(image[None])
        handle.remove()
    scale, zero = (float(v) for v in quantiser.parameters_as_integers())
    _, integers = numpy_round(np.concatenate(raw), scale, zero)
    expected = ((integers < -128) | (integers > 127)).mean()
    assert expected > 0.05
    assert by_layer(diagnose(network, images))["last"].saturated == pytest.approx(expected, abs=0.005)


def test_disabled_quantisers_lose_nothing_and_json_says_none(model):
    network = calibrated(model)
    network.enable(False)
    noises = diagnose(network, pictures())
    assert all(math.isinf(v) for n in noises for v in (n.own_db, n.accumulated_db, n.weights_db))
    assert suggest_island(noises) is None
    told = json.loads(json.dumps(noise_json(noises, None, images=3), allow_nan=False))
    assert told["layers"][0]["own_db"] is None
    assert "exact" in diagnosis_lines(noises, None)[2]


def test_the_network_stays_as_it_was(model):
    network = calibrated(model)
    before = copy.deepcopy(network.state_dict())
    nodes = [node.name for node in network.graph.graph.nodes]
    network.train()
    diagnose(network, pictures())
    assert network.training
    assert "norm" in nodes
    assert [node.name for node in network.graph.graph.nodes] == nodes
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_images_add_up_and_come_one_by_one(model):
    network, images = calibrated(model), pictures(4)
    seen = []
    together = diagnose(network, iter(images), lambda done, total: seen.append((done, total)))
    assert seen == [(n, 0) for n in (1, 2, 3, 4)]
    again = diagnose(network, images[::-1], lambda done, total: seen.append((done, total)))
    assert seen[-1] == (4, 4)
    for a, b in zip(together, again, strict=True):
        assert a.own_db == pytest.approx(b.own_db, abs=1e-6)
        assert a.integers_used == b.integers_used


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "at least one image"),
        ([np.zeros((16, 16, 3), np.float32)], r"must be uint8 with shape \(h, w, 3\), got float32"),
        ([np.zeros((16, 16), np.uint8)], "letterbox it"),
        ([np.zeros((16, 16, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)], r"shape \(16, 16, 3\), got"),
    ],
)
def test_bad_images_are_refused(model, images, message):
    with pytest.raises(ValueError, match=message):
        diagnose(calibrated(model), images)


def test_an_unknown_range_is_refused(model):
    with pytest.raises(ValueError, match="never saw data"):
        diagnose(insert(model).eval(), pictures())


def test_ratios_at_the_ends():
    assert ratio_db(4.0, 1.0) == pytest.approx(6.0206, abs=1e-4)
    assert ratio_db(0.0, 0.0) == math.inf
    assert ratio_db(0.0, 1.0) == -100.0


def test_a_stand_in_for_the_toolkit():
    torch.manual_seed(0)
    model = Yolov8("n", 2).train()
    with torch.no_grad():
        model(torch.rand(2, 3, 64, 64))
    model.eval()
    before, images = copy.deepcopy(model.state_dict()), pictures(2, 64)
    found = calibrated_stand_in(model, iter(images))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert found.folded
    assert not found.training
    with torch.no_grad():
        low, high = (f([f(model.model[0](x[None]).flatten()) for x in floats(images)]) for f in (min, max))
    scale, _ = found.network.quantisers()["model_0_act_quantiser"].parameters_as_integers()
    assert float(scale) == pytest.approx(float(high - low) / 255, rel=1e-4)
    noises = diagnose(found, images)
    assert len(noises) == 69
    assert all(n.saturated < 0.001 for n in noises if n.name == "model_0_act")
    with pytest.raises(ValueError, match="at least one image"):
        calibrated_stand_in(model, [])


# ---- the suggestion


def noise(layer, own, *, integers=256, quantiser="", readers=(), image=False, size=64, kernel=3, channels=64):
    shape = Convolution(channels, 64, (kernel, kernel), (size, size), (size, size)) if layer else None
    return LayerNoise(
        layer or "add",
        layer,
        layer or "add",
        quantiser or layer,
        own,
        own - 3,
        own,
        0.0,
        200,
        integers,
        readers,
        image,
        shape,
    )


FINE = [noise(f"layer.{i}", 35.0 + i % 3) for i in range(9)]
TABLE = LayerTable((Layer(0, "Conv", "INT8", "NPU", "", "", 0, 0, 1_000_000, 0.0, "x"),), 0.0, 0.0)


def test_the_limit_follows_the_network():
    assert limit_of(FINE) == 24.0  # two bits below the median
    assert limit_of([noise("a", 22.0), noise("b", 21.0)]) == 20.0
    assert limit_of([noise("a", 60.0), noise("b", 60.0)]) == 30.0
    assert suggest_island(FINE, TABLE) is None
    assert suggest_island([*FINE, noise("", 3.0)], TABLE) is None  # a sum has no weights to leave in float16
    assert suggest_island([*FINE, noise("four_bits", 3.0, integers=16)], TABLE) is None
    assert suggest_island([], TABLE) is None


def test_an_islands_cost_was_what_the_compiler_said():
    """Islands of a YOLOv8n at 512 with 5 classes, compiled by rknn-toolkit2 2.5.0: extra cycles of the layer table."""
    head = noise("cv3.0.1.conv", 12.0, readers=("cv3.0.2",))
    last = LayerNoise(
        "o",
        "cv3.0.2",
        "o",
        "o",
        40.0,
        30.0,
        40.0,
        0.0,
        9,
        256,
        (),
        False,
        Convolution(64, 5, (1, 1), (64, 64), (64, 64)),
    )
    for noises, measured in (
        ([*FINE, head, last], 155_771),
        ([*FINE, LayerNoise(**{**vars(last), "own_db": 1.0})], 11_085),
        ([*FINE, noise("cv2.1.2", 9.0, size=32, kernel=1)], 3_248),
    ):
        island = suggest_island(noises, TABLE)
        assert island is not None
        assert island.extra_cycles == pytest.approx(measured, rel=0.02)
        assert island.share == pytest.approx(measured / 1_000_000, rel=0.02)
    assert suggest_island([*FINE, head, last]).readers == ("cv3.0.2",)


def test_what_an_island_drags_along():
    part = noise("part", 5.0, quantiser="both", readers=("layer.0",))
    joined = suggest_island([*FINE, part, noise("other", 36.0, quantiser="both")])
    assert joined.readers == ()
    assert joined.in_concat
    reader = noise("reader", 36.0, quantiser="both")
    risky = suggest_island(
        [*FINE, noise("before", 5.0, readers=("reader",)), reader, noise("c", 36.0, quantiser="both")]
    )
    assert risky.readers == ("reader",)
    assert risky.in_concat
    stem = suggest_island([*FINE, noise("stem", 5.0, image=True, size=512, channels=3)])
    assert stem.extra_cycles > 1_048_576  # the image is converted by a convolution over all of it
    grouped = LayerNoise(**{**vars(FINE[0]), "own_db": 1.0, "convolution": None})
    assert suggest_island([*FINE[1:], grouped]).extra_cycles is None


def test_islands_already_there_are_kept_in_the_line():
    island = suggest_island([*FINE, noise("bad", 5.0)], TABLE, present=("model.0.conv",))
    assert island.recipe_line == 'quantize.float16 = ["model.0.conv", "bad"]'


# ---- texts and the picture


def test_texts_name_the_worst_first():
    noises = [*FINE, noise("model.22.cv3.0.2", 12.3), noise("", 33.0)]
    island = suggest_island(noises, TABLE)
    lines = diagnosis_lines(noises, island, count=3)
    assert lines[1].split()[:3] == ["layer", "own", "accumulated"]
    assert lines[2].split()[:3] == ["model.22.cv3.0.2", "12.3", "9.3"]
    assert [line.split()[0] for line in lines[2:5]] == ["model.22.cv3.0.2", "add", "layer.0"]
    assert len({line.rstrip().rfind("/256") for line in lines[2:5]}) == 1  # columns
    assert 'quantize.float16 = ["model.22.cv3.0.2"]' in lines[5]
    assert lines[6].startswith("that costs about +147,456 cycles (+14.7% of 1,000,000)")
    page = diagnosis_markdown(noises, island, images=8, picture="plots/rounding.png", approximate=True, count=3)
    assert page[0].startswith("## ")
    assert "| model.22.cv3.0.2 | 12.3 | 9.3 | 12.3 | 0.00% | 200/256 |" in page
    assert any("Approximation" in line for line in page)
    assert any('`quantize.float16 = ["model.22.cv3.0.2"]`' in line for line in page)
    assert "![signal-to-noise by layer](plots/rounding.png)" in page
    calm = diagnosis_markdown(FINE, None, images=8)
    assert not any("Approximation" in line or "![" in line for line in calm)
    assert any(line.startswith("No layer sticks out") for line in calm)


def test_json_keeps_every_layer_and_the_island():
    noises = [*FINE, noise("bad", 5.0, readers=("layer.0",))]
    told = json.loads(json.dumps(noise_json(noises, suggest_island(noises, TABLE), images=4), allow_nan=False))
    assert [row["layer"] for row in told["layers"]] == [n.layer for n in noises]
    assert told["island"]["layer"] == "bad"
    assert told["island"]["readers"] == ["layer.0"]
    assert told["island"]["recipe_line"] == 'quantize.float16 = ["bad"]'
    assert told["island"]["extra_cycles"] == told["island"]["cycles_fp16"] - told["island"]["cycles_int8"]
    assert told["images"] == 4
    assert told["approximate"] is False
    assert noise_json(FINE, None, images=4)["island"] is None
    unknown = Island("x", -math.inf, 20.0, (), ("x",))
    assert noise_json(FINE, unknown, images=4)["island"]["own_db"] is None


def test_the_chart_is_written(tmp_path):
    noises = [*FINE, noise("bad", 5.0), noise("exact", math.inf), noise("", 33.0)]
    path = plot_diagnosis(noises, tmp_path / "plots" / "rounding.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert plot_diagnosis([noise("exact", math.inf)], tmp_path / "one.png").is_file()
    with pytest.raises(ValueError, match="without layers"):
        plot_diagnosis([], path)
