"""The proof's checks: they hold for what was learnt, to the bit, and a failure names the layer."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from deploy.backends.rknn_simulator import SimulatedHeads
from deploy.convert.inside import OnnxRun, SimulatedInside, tapped, write_out_sigmoids
from deploy.convert.onnx_export import export_onnx
from deploy.convert.proof import (
    STRETCH,
    Learnt,
    check_integers,
    check_layers,
    check_perturbation,
    check_scales,
    check_simulator,
    check_torch,
    choose_quantiser,
)
from deploy.convert.proof_page import page, proof_json
from deploy.convert.quantised_onnx import output_grids
from deploy.convert.rknn_build import build_rknn
from quantize.exact_forms import SimulatedRounding, as_simulated
from quantize.export_form import Rounding, export_form
from quantize.insert import Settings
from tests.deploy.small_detector import HW, IMAGES, SmallDetector, learnt_network, pixels_of, run
from train.model import ConvBlock
from train.prove import integers_for_file, learnt_of, simulate_inside

SEEN = list(IMAGES[:2])
# A quantiser in the middle of the network, and the layer that it stands behind.
MIDDLE, LAYER = "down_act_quantiser", "down.conv"


@pytest.fixture(scope="module")
def small(learnt_form) -> Learnt:
    return learnt_of(learnt_form)


@pytest.fixture(scope="module")
def simulated(learnt_path, tmp_path_factory) -> SimulatedHeads:
    return build_rknn(learnt_path, tmp_path_factory.mktemp("built"), evaluate=IMAGES, processes=1).simulated


@pytest.fixture(scope="module")
def inside(learnt_path) -> SimulatedInside:
    return simulate_inside(learnt_path, SEEN)


def test_torch_and_onnx_runtime_say_what_the_simulator_says_to_the_bit(small, simulated, inside, learnt_path):
    for check in (
        check_simulator(small, simulated, inside, learnt_path, list(IMAGES)),
        check_torch(small, simulated, inside, learnt_path, SEEN),
    ):
        assert check.passed
        assert "all 4 outputs identical" in check.told
        assert [row["apart"] for row in check.figures["outputs"]] == [0, 0, 0, 0]


def test_every_layer_is_integer_arithmetic(small, inside):
    check = check_integers(small, inside, SEEN)
    assert check.passed, check.told
    assert {row["name"] for row in check.figures["layers"]} >= {LAYER, "early.m.0 add", "box.1"}


def test_inside_onnx_runtime_says_what_the_simulator_says_to_the_bit(inside, learnt_path):
    other = OnnxRun(learnt_path, inside=True)
    assert inside.places.keys() == other.places.keys()
    for image in SEEN:
        ours, theirs = other.tensors(image), inside.tensors(image)
        for name, tensors in other.places.items():
            assert len(tensors) == len(inside.places[name])
            for here, there in zip(tensors, inside.places[name], strict=True):
                np.testing.assert_array_equal(ours[here], theirs[there], err_msg=name)


def test_other_images_were_not_simulated(inside):
    with pytest.raises(ValueError, match="image must be one of the 2 that were simulated"):
        inside.tensors(IMAGES[3])


def test_taps_change_no_output(learnt_path):
    model = onnx.load(str(learnt_path))
    shapes = {name: t.shape for name, t in OnnxRun(learnt_path, inside=True).tensors(SEEN[0]).items()}
    new, places = tapped(model, shapes)
    onnx.checker.check_model(new, full_check=True)
    pixels = pixels_of(IMAGES[:1])
    before, after = run(model, pixels), run(new, pixels)
    assert len(after) == sum(len(names) for names in places.values())
    for a, b in zip(before, after, strict=False):
        np.testing.assert_array_equal(a, b)


def test_sigmoids_are_written_out(tmp_path, learnt_path):
    """Against literal NumPy: exp to the nearest float32, then two roundings."""
    node = onnx.helper.make_node("Sigmoid", ["images"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 5000]) for n in ("images", "y")]
    graph = onnx.helper.make_graph([node], "one", ends[:1], ends[1:])
    write_out_sigmoids(graph)
    assert "Sigmoid" not in {n.op_type for n in graph.node}
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    x = np.concatenate([np.linspace(-120, 120, 2000), np.random.default_rng(0).normal(0, 2, 3000)]).astype(np.float32)
    with np.errstate(over="ignore"):
        wanted = np.float32(1) / (np.float32(1) + np.exp(-x.astype(np.float64)).astype(np.float32))
    np.testing.assert_array_equal(run(model, x[None])[0][0], wanted)


class Floor(nn.Module):
    """A rounding that rounds down."""

    def __init__(self, source: Rounding | SimulatedRounding) -> None:
        super().__init__()
        self.scale, self.zero_point = source.scale, source.zero_point

    def forward(self, x: Tensor, slot: int = 0) -> Tensor:
        integers = (torch.floor(x / self.scale) + self.zero_point).clamp(-128, 127)
        return ((integers - self.zero_point) * self.scale).float()


def changed(small: Learnt, how: str) -> Learnt:
    """Return what was learnt with one rounding of the torch network spoilt, in all of its forms."""
    parts = {}
    for form in ("module", "simulated", "integer"):
        parts[form] = copy.deepcopy(getattr(small, form))
        rounding = parts[form].get_submodule(MIDDLE)
        if how == "scale":
            rounding.scale *= 1.1
        else:
            setattr(parts[form], MIDDLE, Floor(rounding))
    return replace(small, **parts)


@pytest.mark.parametrize("how", ["scale", "rounding"])
def test_another_scale_or_rounding_fails_with_the_layer(small, simulated, inside, learnt_path, how):
    wrong = changed(small, how)
    for check in (check_torch(wrong, simulated, inside, learnt_path, SEEN), check_integers(wrong, inside, SEEN)):
        assert not check.passed
        assert check.told.startswith(f"layer {LAYER}: "), check.told
    bad = [row["name"] for row in check.figures["layers"] if row["identical"] < 0.999]
    assert bad == [LAYER], "the layers behind get the simulator's integers, and are fine"


def test_weights_that_are_one_integer_off_fail_with_the_layer(small, inside):
    wrong = replace(small, integer=copy.deepcopy(small.integer))
    wrong.integer.get_submodule(LAYER).integers[3] += 1
    check = check_integers(wrong, inside, SEEN)
    assert not check.passed
    assert f"layer {LAYER}: " in check.told


def test_a_simulator_that_computes_something_else_fails_with_the_first_layer(small, simulated, inside, learnt_path):
    """One tenth of the values of a layer one integer up, as another rounding of ties would do, and an output too."""
    rng = np.random.default_rng(0)
    store = inside._simulated
    arrays = {name: np.array(values) for name, values in store.arrays.items()}
    for name in (inside.places[MIDDLE][0], "class_16"):
        arrays[name] = np.minimum(arrays[name].astype(int) + (rng.random(arrays[name].shape) < 0.1), 127).astype(
            np.int8
        )
    wrong = SimulatedInside(SimulatedHeads(arrays, store.keys, store.scales), inside.places)
    heads = {name: np.array(values) for name, values in simulated.arrays.items()}
    moved = rng.random(heads["class_16"].shape) < 0.1
    heads["class_16"] = np.minimum(heads["class_16"].astype(int) + moved, 127).astype(np.int8)
    check = check_simulator(
        small, SimulatedHeads(heads, simulated.keys, simulated.scales), wrong, learnt_path, list(IMAGES)
    )
    assert not check.passed
    assert check.told.startswith("class_16: ")
    assert check.told.endswith(f"from layer {LAYER} on")
    assert not check_integers(small, wrong, SEEN).passed


def test_a_file_with_another_scale_fails_with_its_name(small, learnt_path, tmp_path):
    assert check_scales(small, learnt_path).passed
    activations = {**small.activations, MIDDLE: (small.activations[MIDDLE][0] * 1.1, small.activations[MIDDLE][1])}
    check = check_scales(replace(small, activations=activations), learnt_path)
    assert not check.passed
    assert f"grid of {MIDDLE} differs (1 in all)" in check.told


def test_a_perturbation_must_move_the_simulator_as_torch_predicts(small, learnt_form, simulated):
    """A simulator that calibrates anew would say the same as before; one with the scale in it says what torch says."""

    def stretch(name: str):
        new = copy.deepcopy(learnt_form)
        if name in new.activations:
            new.module.get_submodule(name).scale *= STRETCH
        return as_simulated(new)

    name = choose_quantiser(small, IMAGES[0], simulated, stretch)
    perturbed = stretch(name)
    arrays = {k: np.empty_like(np.array(v[:2])) for k, v in simulated.arrays.items()}
    for i, image in enumerate(SEEN):
        with torch.no_grad():
            heads = perturbed(torch.from_numpy(pixels_of(image[None])))
        for values, head, (scale, zero) in zip(arrays.values(), heads, small_grids(simulated), strict=True):
            values[i] = np.rint(head[0].numpy() / scale) + zero
    after = SimulatedHeads(arrays, simulated.keys[:2], simulated.scales)
    assert check_perturbation(name, perturbed, small, simulated, after, SEEN).passed
    check = check_perturbation(name, perturbed, small, simulated, simulated, SEEN)
    assert not check.passed
    assert f"scale of {name} times 0.9: the outputs move by 0.00 LSB" in check.told


def small_grids(simulated: SimulatedHeads) -> list[tuple[float, int]]:
    return [(grid.scale, grid.zero_point) for grid in simulated.scales.values()]


def test_a_head_in_float16_is_left_out_and_the_rest_proved(tmp_path):
    torch.manual_seed(0)
    form = export_form(learnt_network(SmallDetector(), Settings(float16=("box.0",))))
    path = tmp_path / "model.onnx"
    export_onnx(form.module, path, HW, integers=integers_for_file(form))
    built = build_rknn(path, tmp_path / "out", evaluate=IMAGES[:2], processes=1).simulated
    inside, with_island = simulate_inside(path, SEEN), learnt_of(form)
    for check in (
        check_simulator(with_island, built, inside, path, SEEN),
        check_torch(with_island, built, inside, path, SEEN),
    ):
        assert check.passed, check.told
        assert [row["name"] for row in check.figures["outputs"]] == ["class_8", "box_16", "class_16"]
    layers = {row["name"] for row in check.figures["layers"]}
    assert {"cls.0", "cls.1", "box.1", "mix.cv1.conv"} <= layers


@pytest.mark.parametrize("island", ["early.cv1", "down"])
def test_an_island_inside_the_network_proves_to_the_bit_and_hides_no_fault_behind_it(tmp_path, island):
    torch.manual_seed(0)
    form = export_form(learnt_network(SmallDetector(), Settings(float16=(island,))))
    path = tmp_path / "model.onnx"
    export_onnx(form.module, path, HW, integers=integers_for_file(form))
    build = build_rknn(path, tmp_path / "out", evaluate=SEEN, processes=1)
    assert any(layer.dtype == "FLOAT16" for layer in build.table.layers)
    inside, learnt = simulate_inside(path, SEEN), learnt_of(form)
    for check in (
        check_layers(build.table, [f"{island}.conv"]),
        check_scales(learnt, path),
        check_simulator(learnt, build.simulated, inside, path, SEEN),
        check_torch(learnt, build.simulated, inside, path, SEEN),
        check_integers(learnt, inside, SEEN),
    ):
        assert check.passed, check.told
        assert [row["apart"] for row in check.figures.get("outputs", [])] in ([], [0, 0, 0, 0])
    behind = "mix.cv1.conv"
    learnt.integer.get_submodule(behind).integers[3] += 1
    wrong = check_integers(learnt, inside, SEEN)
    assert not wrong.passed
    assert f"layer {behind}: " in wrong.told


class Tower(SmallDetector):
    """What its first box head reads goes through a convolution of its own before; two more read the same map."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.deeper = ConvBlock(32, 32, 3), ConvBlock(32, 32, 3, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.early(self.stem(x))
        deep = self.deeper(fine)
        return [self.box[0](self.tower(fine)), self.cls[0](fine), self.box[1](deep), self.cls[1](deep)]


def test_a_map_that_an_island_and_two_others_read_is_proved_by_what_comes_of_it(tmp_path):
    """The toolkit cannot show such a map: its copy for the island made the build of the inner tensors a KeyError."""
    torch.manual_seed(0)
    form = export_form(learnt_network(Tower(), Settings(float16=("tower", "box.0"))))
    path = tmp_path / "model.onnx"
    export_onnx(form.module, path, HW, integers=integers_for_file(form))
    built = build_rknn(path, tmp_path / "out", evaluate=SEEN, processes=1).simulated
    inside, learnt = simulate_inside(path, SEEN), learnt_of(form)
    assert sum(places.count("") for places in inside.places.values()) == 1
    simulated = check_simulator(learnt, built, inside, path, SEEN)
    integers = check_integers(learnt, inside, SEEN)
    assert simulated.passed, simulated.told
    assert integers.passed, integers.told
    assert [row["name"] for row in simulated.figures["outputs"]] == ["class_8", "box_16", "class_16"]
    assert {"early.cv1.conv", "box.1"} <= {row["name"] for row in integers.figures["layers"]}


def test_the_page_tells_every_check(small, simulated, inside, learnt_path):
    assert list(output_grids(onnx.load(str(learnt_path)))) == list(simulated.arrays)
    checks = [
        check_simulator(small, simulated, inside, learnt_path, SEEN),
        check_torch(small, simulated, inside, learnt_path, SEEN),
        check_integers(small, inside, SEEN),
    ]
    where = {"commit": "abc", "machine": "one", "created": "now"}
    about = {"name": "small", "target": "rk3588", "toolkit_version": "2", "provenance": where, "accuracy_data": ""}
    text = page(proof_json(checks, {}, about))
    assert "the proof **holds**" in text
    for words in (
        "Simulator against ONNX Runtime",
        "demanded: 2 LSB, 95 % identical, cosine 0.9999",
        "| box_8 | 100.000 % | 0 | 1.000000 |",
        "in the simulator's order of sums",
        "Simulator against integer arithmetic",
    ):
        assert words in text
