"""Start a larger network as the same function as a trained smaller one (Net2Net).

Chen, Goodfellow and Shlens, "Net2Net", arXiv:1511.05641, section 3: a wider layer repeats the channels of the narrow
one, and the layers behind it share each channel's weight among its copies; a deeper one adds stages that change nothing
yet. Here every copy gets a random share instead of an equal one: the function stays, but no two copies have the same
gradient, so they do not stay copies. Added bottlenecks of a C2f start fresh, with zero weight in the 1x1 convolution
that mixes the stages.

It gives sizes for which no weights ship a start that already knows edges, roofs and vehicles.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .model import SCALES, SPPF, STRIDES, Bottleneck, C2f, ConvBlock, Yolov8

NEW = -1  # a channel of the larger network that has no counterpart


def size_of(weights: dict[str, Tensor]) -> str | None:
    """Return the size ("n" ... "x") that a state dict belongs to, None where its first layer fits none."""
    first = weights.get("model.0.conv.weight")
    sizes = {scale.channels(64): size for size, scale in SCALES.items()}
    return sizes.get(int(first.shape[0])) if first is not None and first.ndim == 4 else None


def grow(source: Yolov8, size: str, seed: int = 0) -> Yolov8:
    """Return a network of a larger `size`, same classes, whose eval-mode heads equal those of `source`.

    Raises ValueError where `size` is not larger.
    """
    order = list(SCALES)
    if order.index(size) <= order.index(source.size):
        raise ValueError(f"weights of YOLOv8{source.size} can start a larger network only, got size {size!r}")
    target = Yolov8(size, source.class_count)
    with torch.no_grad():
        _Growth(seed).network(source, target)
    return target.eval()


class _Growth:
    """Copy layer by layer; `index` maps each channel of the larger network to one of the smaller, or NEW."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def network(self, source: Yolov8, target: Yolov8) -> None:
        """Follow the graph of `Yolov8.features` and `head`."""
        s, t = source.model, target.model
        index: dict[int, Tensor] = {}

        def block(number: int, x: Tensor) -> Tensor:
            index[number] = self._layer(s[number], t[number], x)
            return index[number]

        x = torch.arange(3)
        for number in range(10):
            x = block(number, x)
        widths = {n: _width(s[n]) for n in (4, 6, 9, 12, 16, 19)}
        block(12, _joined((index[9], widths[9]), (index[6], widths[6])))
        block(15, _joined((index[12], widths[12]), (index[4], widths[4])))
        block(16, index[15])
        block(18, _joined((index[16], widths[16]), (index[12], widths[12])))
        block(19, index[18])
        block(21, _joined((index[19], widths[19]), (index[9], widths[9])))
        for level, number in zip(range(len(STRIDES)), (15, 18, 21), strict=True):
            for tower in ("cv2", "cv3"):
                x = index[number]
                small: Any = getattr(s[22], tower)[level]
                large: Any = getattr(t[22], tower)[level]
                for stage in (0, 1):
                    x = self._block(small[stage], large[stage], x)
                large[2].weight.copy_(self._shared(small[2].weight, x))
                large[2].bias.copy_(small[2].bias)

    def _layer(self, small: nn.Module, large: Any, x: Tensor) -> Tensor:
        if isinstance(small, ConvBlock):
            return self._block(small, large, x)
        if isinstance(small, C2f):
            return self._c2f(small, large, x)
        if isinstance(small, SPPF):
            hidden, width = self._block(small.cv1, large.cv1, x), _width(small.cv1)
            return self._block(small.cv2, large.cv2, _joined(*[(hidden, width)] * 4))
        raise TypeError(f"no rule to grow a {type(small).__name__}")

    def _c2f(self, small: C2f, large: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(large, C2f)
        both = self._block(small.cv1, large.cv1, x)
        width = _width(small.cv1) // 2
        half = len(both) // 2
        parts = [(both[:half], width), (both[half:] - width, width)]
        for number, stage in enumerate(large.m):
            if number < len(small.m):
                one, other = small.m[number], stage
                assert isinstance(one, Bottleneck)
                assert isinstance(other, Bottleneck)
                x = self._block(one.cv1, other.cv1, parts[-1][0])
                parts.append((self._block(one.cv2, other.cv2, x), width))
            else:
                parts.append((torch.full((half,), NEW), 0))
        return self._block(small.cv2, large.cv2, _joined(*parts))

    def _block(self, small: nn.Module, large: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(small, ConvBlock)
        assert isinstance(large, ConvBlock)
        rows = _spread(_width(small), _width(large))
        large.conv.weight.copy_(self._shared(small.conv.weight[rows], x))
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(large.bn, name).copy_(getattr(small.bn, name)[rows])
        return rows

    def _shared(self, weight: Tensor, columns: Tensor) -> Tensor:
        """Widen (o, i, k, k) along i: each copy of an input channel gets a random share, the shares add up to one."""
        old = columns != NEW
        shape = (len(weight), len(columns))
        # From a tenth to one: no copy is switched off, and none is the only one.
        share = torch.rand(shape, generator=self.generator) * 0.9 + 0.1
        total = torch.zeros(len(weight), weight.shape[1]).index_add_(1, columns[old], share[:, old])
        wide = torch.zeros(*shape, *weight.shape[2:])
        wide[:, old] = weight[:, columns[old]] * (share[:, old] / total[:, columns[old]])[..., None, None]
        return wide


def _width(block: nn.Module) -> int:
    """Return the output channels of a block."""
    last = block if isinstance(block, ConvBlock) else block.cv2
    assert isinstance(last, ConvBlock)
    return last.conv.out_channels


def _spread(small: int, large: int) -> Tensor:
    """Return which of `small` channels each of `large` repeats: neighbours, so halves of a split stay halves."""
    return torch.arange(large) * small // large


def _joined(*parts: tuple[Tensor, int]) -> Tensor:
    """Return the index of concatenated maps, given each part's index and its width in the smaller network."""
    out, start = [], 0
    for index, width in parts:
        out.append(torch.where(index == NEW, index, index + start))
        start += width
    return torch.cat(out)
