"""The deployed form: what training computed, in plain layers and integers, or a refusal that names the layer."""

import copy

import pytest
import torch
from torch import nn

from quantize.export_form import Rounding, export_form
from quantize.insert import FakeQuantised, Settings, insert
from tests.quantize.test_insert import NETWORKS, Mobile, observed, tensors, trained
from train.model import Yolov8

IMAGES = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(7)) / 255


def folded(name: str, *, learn: bool = True) -> FakeQuantised:
    """A network as it stands at the end of training: BatchNorm folded, ranges learnt and moved a little."""
    network = observed(trained(name))
    network.fold_batch_norm()
    if learn:
        network.learn()
        rng = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for quantiser in network.quantisers().values():
                if not quantiser.fixed:
                    quantiser.stretch += torch.randn(quantiser.stretch.shape, generator=rng) * 0.05
                    quantiser.shift += torch.randn(quantiser.shift.shape, generator=rng) * 0.01
                    quantiser.keep_on_grid()
    return network.eval()


@pytest.fixture(scope="module")
def networks():
    return {name: folded(name) for name in NETWORKS}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_it_computes_what_the_trained_network_computes(networks, name):
    network = networks[name]
    form = export_form(network)
    for ours, theirs in zip(tensors(network(IMAGES)), tensors(form.module(IMAGES)), strict=True):
        assert torch.equal(ours, theirs)
    for layer, trained_layer in network.layers().items():
        assert torch.equal(form.module.get_submodule(layer).weight, trained_layer.fake_weight()), layer
    kinds = {type(m) for m in form.module.modules()}
    assert kinds & {nn.Conv2d, nn.Linear}
    assert Rounding in kinds
    assert not [kind for kind in kinds if kind.__name__.startswith("Fake")]


@pytest.mark.parametrize("name", ["residual", "mobile"])
@torch.no_grad()
def test_batch_norm_that_was_not_folded_is_folded_on_the_way(name):
    network = observed(trained(name))
    form = export_form(network)
    names = {n for n, m in form.module.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert not names
    by_hand = copy.deepcopy(network)
    by_hand.fold_batch_norm()
    for ours, theirs in zip(tensors(by_hand(IMAGES)), tensors(form.module(IMAGES)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_integers_stand_for_the_values_and_one_zero_point_is_not_zero(networks, name):
    """What the compiler gets (integers, scale, zero point) is worked out literally and is what the torch form holds."""
    form = export_form(networks[name])
    assert form.weights.keys() == networks[name].layers().keys()
    for layer, w in form.weights.items():
        assert (w.integers.dtype, w.zero_point.dtype, w.scale.dtype) == (torch.int8, torch.int8, torch.float32)
        assert w.scale.shape == w.zero_point.shape == w.integers.shape[:1]
        assert bool((w.zero_point != 0).any()), layer
        shape = (-1, *[1] * (w.integers.ndim - 1))
        real = (w.integers.double() - w.zero_point.double().view(shape)) * w.scale.double().view(shape)
        module = form.module.get_submodule(layer)
        assert torch.allclose(module.weight.double(), real, rtol=1e-6, atol=0), layer
        if module.bias is not None:
            scale = networks[name].layers()[layer].__dict__["_input"].current()[0].double()
            steps = module.bias.double() / (scale * w.scale.double())
            assert torch.allclose(steps, steps.round(), rtol=1e-6, atol=1e-3), "bias lies on the grid of the products"


@torch.no_grad()
def test_activations_are_those_that_were_learnt(networks):
    network = networks["mobile"]
    form = export_form(network)
    assert form.activations["x_quantiser"] == (pytest.approx(1 / 255), -128)
    for name, (scale, zero_point) in form.activations.items():
        quantiser = network.quantisers()[name]
        assert scale == float(quantiser.scale * torch.exp(quantiser.stretch)), name
        assert zero_point == round(float(quantiser.zero_point + 255 * quantiser.shift)), name
    weights = {id(q) for q in network.weight_quantisers().values()}
    assert form.activations.keys() == {n for n, q in network.quantisers().items() if id(q) not in weights}


@torch.no_grad()
def test_no_activation_is_deployed_with_zero_point_zero():
    """The compiler takes such a grid for symmetric and rescales it; training must have seen what stands in for it."""
    network = folded("mobile")
    quantiser = network.quantisers()["head_quantiser"]
    quantiser.shift.copy_((0.2 - quantiser.zero_point) / 255)
    assert round(float(quantiser.current()[1])) == 0
    form = export_form(network)
    assert abs(form.activations["head_quantiser"][1]) == 1
    assert all(zero_point for _, zero_point in form.activations.values())
    for ours, theirs in zip(tensors(network(IMAGES * 3)), tensors(form.module(IMAGES * 3)), strict=True):
        assert torch.equal(ours, theirs)


def test_the_network_itself_is_not_changed(networks):
    network = observed(trained("residual"))
    network.learn()
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    code = network.graph.code
    export_form(network)
    assert network.training
    assert network.graph.code == code
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(q.stretch.requires_grad for q in network.activation_quantisers().values())


@torch.no_grad()
def test_one_part_of_what_it_returns_can_be_kept():
    model = Yolov8("n", 2).eval()
    network = insert(model, Settings(), method="maps_and_heads").train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    network(IMAGES)
    network.eval()
    network.fold_batch_norm()
    maps, heads = network(IMAGES)
    only = export_form(network, output=1).module(IMAGES)
    assert len(only) == 6
    assert all(torch.equal(a, b) for a, b in zip(only, heads, strict=True))
    only = export_form(network, output=0)
    assert all(torch.equal(a, b) for a, b in zip(only.module(IMAGES).values(), maps.values(), strict=True))


def test_a_layer_left_in_float_stays_as_it_is():
    network = observed(trained("residual"), Settings(float16=("one",)))
    form = export_form(network)
    assert "one.0" not in form.weights
    by_hand = copy.deepcopy(network)
    by_hand.fold_batch_norm()
    with torch.no_grad():
        assert torch.equal(by_hand(IMAGES), form.module(IMAGES))


def spoilt(name: str, part: str, value: float) -> FakeQuantised:
    network = folded("mobile")
    with torch.no_grad():
        getattr(network.quantisers()[name], part).fill_(value)
    return network


@pytest.mark.parametrize(
    ("name", "part", "value"),
    [
        ("depthwise_2_quantiser", "stretch", float("nan")),
        ("depthwise_2_quantiser", "scale", -0.1),
        ("depthwise_2_quantiser", "scale", 0.0),
        ("depthwise_2_quantiser", "shift", float("inf")),
        ("expand.0.weight_quantiser", "stretch", float("nan")),
    ],
)
def test_scales_that_are_none_are_refused_with_the_layer(name, part, value):
    with pytest.raises(ValueError, match=rf"{name} has a scale or zero point that is not a positive finite number"):
        export_form(spoilt(name, part, value))


@pytest.mark.parametrize(("weights", "activations"), [(4, 4), (16, 8), (8, 6)])
def test_other_widths_are_refused_with_the_layer_and_the_cure(weights, activations):
    network = folded("mobile")
    network.set_bits(weights, activations)
    bits = weights if weights != 8 else activations
    with pytest.raises(ValueError, match=rf"quantiser has {bits} bits, the RK3588 runs 8.*let the ladder end at 8"):
        export_form(network)


def test_a_range_that_was_never_seen_is_refused_with_the_layer():
    with pytest.raises(ValueError, match=r"stem_2_quantiser never saw data, its range is unknown"):
        export_form(insert(Mobile().eval()))
