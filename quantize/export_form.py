"""The deployed form of a fake-quantised network: plain layers, integers taken out, and roundings that every exporter
knows.

Training needs fake-quantisers with gradients; an exporter needs operators that it can write down. Here each layer
becomes an ordinary convolution that holds the values its integers stand for, and each activation quantiser becomes
`torch.fake_quantize_per_tensor_affine`, which torch's ONNX exporter writes as QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .fake_quant import FakeQuantizer
from .insert import FakeQuantised, _replace
from .layers import FakeConv2d, FakeLinear
from .numerics import DEPLOYED_BITS, bias_on_grid, marked_asymmetric, per_channel, to_real


@dataclass(frozen=True)
class WeightIntegers:
    """Weights of one layer. integers: int8, the weight's shape. scale float32 and zero_point int8: (channels,)."""

    integers: Tensor
    scale: Tensor
    zero_point: Tensor


@dataclass(frozen=True)
class ExportForm:
    """What is exported. module: called as the network was. weights: by layer name. activations: (scale, zero point) by
    quantiser name, the input's among them.
    """

    module: nn.Module
    weights: dict[str, WeightIntegers]
    activations: dict[str, tuple[float, int]]


class Rounding(nn.Module):
    """One activation quantiser with constants for scale and zero point; 8 bits."""

    def __init__(self, scale: float, zero_point: int) -> None:
        super().__init__()
        self.scale, self.zero_point = scale, zero_point

    def forward(self, x: Tensor, slot: int = 0) -> Tensor:
        """Return x on the grid, same shape, float32. slot: which tensor of the group x is; all share the grid."""
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, -128, 127)


def export_form(network: FakeQuantised, output: int | None = None) -> ExportForm:
    """Return the form of a finished network that can be written as ONNX; the network is not changed.

    output: which part of a tuple that the network returns is kept; None: all. Raises ValueError where it cannot run on
    the NPU: other widths than 8 bits, or a range that was never seen or is not finite, each with the layer's name.
    """
    check_deployable(network)
    network = copy.deepcopy(network).cpu().eval()
    network.fold_batch_norm()
    weights: dict[str, WeightIntegers] = {}
    for name, layer in network.layers().items():
        integers, scale, zero_point = layer.weight_integers()
        integers, zero_point = marked_asymmetric(integers, zero_point)
        real = to_real(integers, *(per_channel(v, integers.ndim) for v in (scale, zero_point)))
        weights[name] = WeightIntegers(integers.to(torch.int8), scale, zero_point.to(torch.int8))
        _replace(network.graph, name, _plain(layer, real, scale))
    activations: dict[str, tuple[float, int]] = {}
    for name, quantiser in network.quantisers().items():
        scale, zero_point = quantiser.parameters_as_integers()
        activations[name] = (float(scale), int(zero_point))
        _replace(network.graph, name, Rounding(*activations[name]))
    if output is not None:
        last = next(n for n in network.graph.graph.nodes if n.op == "output")
        last.args = (last.args[0][output],)  # type: ignore[index]
        network.graph.graph.eliminate_dead_code()
    network.graph.recompile()
    return ExportForm(network.graph, weights, activations)


def check_deployable(network: FakeQuantised) -> None:
    """Raise ValueError unless every quantiser has 8 bits and a known, finite range."""
    for name, quantiser in network.quantisers().items():
        if quantiser.grid.bits != DEPLOYED_BITS:
            raise ValueError(
                f"{name} has {quantiser.grid.bits} bits, the RK3588 runs {DEPLOYED_BITS}; others are for research "
                f"in torch; let the ladder end at {DEPLOYED_BITS}"
            )
        scale, zero_point = quantiser.current()
        # A weight's range is taken from the weight itself, so only activations can be without one.
        if quantiser.axis is None and not quantiser.ready:
            raise ValueError(f"{name} never saw data, its range is unknown; train or calibrate before exporting")
        if not bool(torch.isfinite(scale).all() and torch.isfinite(zero_point).all() and (scale > 0).all()):
            raise ValueError(
                f"{name} has a scale or zero point that is not a positive finite number; the training diverged, lower "
                "its learning rate"
            )


def _plain(layer: FakeConv2d | FakeLinear, weight: Tensor, scale: Tensor) -> nn.Module:
    """Return an ordinary layer with these weights and the bias on the grid of the products."""
    source: FakeQuantizer | None = layer.__dict__.get("_input")
    new: nn.Module
    if isinstance(layer, FakeConv2d):
        new = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
        )
    else:
        new = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    new.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        bias = layer.bias.detach()
        bias = bias if source is None else bias_on_grid(bias, source.current()[0].detach(), scale)
        new.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return new
