"""Where quantisers go: in YOLOv8, a ResNet-like and a MobileNet-like network, by tracing alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from quantize import layers
from quantize.insert import Settings, insert
from quantize.numerics import Grid, per_channel, scale_and_zero_point, to_integers, to_real
from train.model import Yolov8


def block(cin, cout, *, stride=1, groups=1, act=nn.ReLU):
    conv = nn.Conv2d(cin, cout, 3, stride, 1, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout), act() if act else nn.Identity())


class Residual(nn.Module):
    """Stem, pooling, a block whose sum goes through ReLU, mean, linear."""

    def __init__(self):
        super().__init__()
        self.stem, self.pool = block(3, 8, stride=2), nn.MaxPool2d(2)
        self.one, self.two = block(8, 8), block(8, 8, act=None)
        self.relu, self.mean, self.head = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x):
        x = self.pool(self.stem(x))
        x = self.relu(self.two(self.one(x)) + x)
        return self.head(torch.flatten(self.mean(x), 1))


class Mobile(nn.Module):
    """Expansion, depthwise, linear bottleneck with a sum and no activation behind it."""

    def __init__(self):
        super().__init__()
        self.stem = block(3, 8, stride=2, act=nn.ReLU6)
        self.expand, self.depthwise = block(8, 16, act=nn.ReLU6), block(16, 16, groups=16, act=nn.Hardswish)
        self.project = nn.Sequential(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        y = x + self.project(self.depthwise(self.expand(x)))
        up = functional.interpolate(functional.max_pool2d(y, 2), scale_factor=2)
        return {"heads": [self.head(torch.cat([y, up], 1))]}


NETWORKS = {"yolov8n": lambda: Yolov8("n", 3), "residual": Residual, "mobile": Mobile}


def trained(name):
    torch.manual_seed(0)
    model = NETWORKS[name]().train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.rand(2, 3, 64, 64))
    return model.eval()


def tensors(out):
    if isinstance(out, dict):
        return tensors(list(out.values()))
    return [t for part in out for t in tensors(part)] if isinstance(out, (list, tuple)) else [out]


def observed(model, settings=None):
    network = insert(model, settings).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        network(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_without_rounding_nothing_changes_and_16_bits_change_little(name):
    model = trained(name)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    network = observed(model)
    names = {k for k in network.graph.state_dict() if "quantiser" not in k}
    assert names == set(model.state_dict()), "parameters keep their names"
    with torch.no_grad():
        wanted = tensors(model(x))
        network.enable(False)
        assert all(torch.equal(a, b) for a, b in zip(wanted, tensors(network(x)), strict=True))
        network.enable(True)
        rough = tensors(network(x))
        network.set_bits(16, 16)
        fine = tensors(network(x))
        network.fold_batch_norm()
        folded = tensors(network(x))
    for a, b, c, d in zip(wanted, rough, fine, folded, strict=True):
        # Not less: ranges that 8 bits had rounded stay, and cut off what they cut off.
        assert 0 < float((a - c).square().mean()) < 0.45 * float((a - b).square().mean())
        step = float(c.unique().diff().min())  # of the outputs' own 16 bits: a value between two may fall to either
        assert torch.allclose(c, d, atol=max(float(a.std()) * 0.02, 1.1 * step))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())


@pytest.mark.parametrize("name", ["yolov8n", "mobile"])
def test_a_convolution_works_for_a_batch_norm_that_stands_still(name, monkeypatch):
    """The same values and gradients as by way of the BatchNorm, to what its scale and 16 bits let through."""
    network = observed(trained(name))
    network.set_bits(16, 16)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    own = [p for p in network.parameters() if p.requires_grad]
    assert all(layer.works_for_norm for layer in network.layers().values() if layer.norm is not None)
    found = []
    for _ in range(2):
        network.zero_grad()
        outputs = tensors(network(x))
        sum(o.square().mean() for o in outputs).backward()
        found.append([torch.cat([v.detach().flatten() for v in values]) for values in (outputs, [p.grad for p in own])])
        monkeypatch.setattr(layers._WithFakeWeights, "works_for_norm", False)
    (one, by_one), (two, by_two) = found
    assert not torch.equal(one, two), "both ways were gone"
    assert torch.allclose(one, two, atol=1e-3 * float(one.abs().max()))
    assert float((by_one - by_two).norm()) < 0.02 * float(by_two.norm())


def test_yolov8_in_groups():
    groups = observed(trained("yolov8n")).placement.groups
    # 63 convolutions, 6 sums, the image; a C2f with shortcuts joins its first convolution and all its sums.
    assert groups["model_4_cv1_act_quantiser"] == ["model_4_cv1_act", "add_1", "add_2"]
    # Joined by the neck's Concats: stride 16 of the backbone, SPPF (resized), and the last downsampling.
    assert groups["model_6_cv2_act_quantiser"] == ["model_6_cv2_act", "model_9_cv2_act", "model_19_act"]
    assert groups["x_quantiser"] == ["x"]
    assert sum(map(len, groups.values())) == 63 + 6 + 1
    assert not [n for members in groups.values() for n in members if n.endswith(("_conv", "_bn"))]


def test_residual_and_mobile_in_groups():
    groups = observed(trained("residual")).placement.groups
    assert list(groups.values()) == [["x"], ["stem_2"], ["one_2"], ["two_1"], ["relu"], ["mean"], ["head"]]
    groups = observed(trained("mobile")).placement.groups
    # The sum has no activation; pooling and resizing keep its grid, so the Concat costs nothing.
    assert list(groups.values()) == [["x"], ["stem_2"], ["expand_2"], ["depthwise_2"], ["project_1"], ["add"], ["head"]]


def test_one_layer_by_hand():
    """Image, weights, bias and output of one convolution with SiLU, from the numerics alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.SiLU()).eval()
    network = insert(model).train()
    x = torch.randint(0, 256, (1, 3, 8, 8)) / 255
    with torch.no_grad():
        network(x)
        got = network.eval()(x)
    grid = Grid(8)
    w = model[0].weight.detach()
    w_scale, w_zero = scale_and_zero_point(w.flatten(1).amin(1), w.flatten(1).amax(1), grid)
    shaped = per_channel(w_scale, 4), per_channel(w_zero, 4)
    weight = to_real(to_integers(w, *shaped, grid), *shaped)
    step = w_scale / 255
    bias = (model[0].bias.detach() / step).round() * step
    out = functional.silu(functional.conv2d(x, weight, bias, padding=1))
    scale, zero = scale_and_zero_point(out.min(), out.max(), grid)
    expected = to_real(to_integers(out, scale, zero, grid), scale, zero)
    assert float((got - expected).abs().max()) <= float(scale) * 1.01  # a tie may fall to either side
    assert float((got == expected).float().mean()) > 0.99


def test_float16_islands():
    network = observed(trained("residual"), Settings(float16=("one",)))
    assert network.placement.islands == ["one.0"]
    assert "one.0" not in network.layers()
    assert "one_2_quantiser" not in network.placement.groups
    with pytest.raises(ValueError, match="float16 names 'nothing', no convolution is called so"):
        insert(trained("residual"), Settings(float16=("nothing",)))


def test_gradients_reach_weights_and_learnt_ranges():
    network = observed(trained("mobile"))
    network.learn()
    network.train()
    sum(t.square().sum() for t in tensors(network(torch.rand(1, 3, 64, 64)))).backward()
    for name, quantiser in network.quantisers().items():
        assert quantiser.fixed or quantiser.stretch.grad is not None, name
    assert all(layer.weight.grad.abs().sum() > 0 for layer in network.layers().values())


class Unsupported(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x).real


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU()), "layer _1 uses GELU, which cannot be quantised for the NPU"),
        (Unsupported(), "cannot be quantised for the NPU"),
        (Branching(), "must not branch on values"),
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 2)), "layer _0 uses ConvTranspose2d"),
    ],
)
def test_what_cannot_be_quantised(model, said):
    with pytest.raises(ValueError, match=said):
        insert(model)


def test_a_layer_that_never_saw_data():
    network = insert(trained("residual"))
    with pytest.raises(ValueError, match="never saw data"):
        network.learn()
