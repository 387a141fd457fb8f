"""YOLOv8: backbone, neck and decoupled head, written from the published architecture.

The graph (Jocher et al., YOLOv8, 2023; C2f after CSPNet, arXiv:1911.11929; SPPF after arXiv:1406.4729; DFL head after
arXiv:2006.04388) has 23 numbered layers. Their numbers are part of the customary state-dict names
(`model.0.conv.weight` ... `model.22.cv3.2.2.bias`), so weights that a user trained elsewhere load as they are.
`forward` returns raw logits: decoding belongs to `deploy.postprocess`, the same for every backend.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32)
REG_MAX = 16


@dataclass(frozen=True)
class Scale:
    """How a size of the family differs from `l`: repeats times `depth`, channels times `width` up to `max_channels`."""

    depth: float
    width: float
    max_channels: int

    def channels(self, base: int) -> int:
        return math.ceil(min(base, self.max_channels) * self.width / 8) * 8

    def repeats(self, base: int) -> int:
        return max(1, round(base * self.depth))


SCALES = {
    "n": Scale(0.33, 0.25, 1024),
    "s": Scale(0.33, 0.50, 1024),
    "m": Scale(0.67, 0.75, 768),
    "l": Scale(1.00, 1.00, 512),
    "x": Scale(1.00, 1.25, 512),
}


class ConvBlock(nn.Module):
    """Convolve, normalise, activate (SiLU): the unit that the NPU's compiler fuses into one layer."""

    def __init__(self, cin: int, cout: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, cin, h, w) to (b, cout, h / stride, w / stride)."""
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Two 3x3 blocks, with a residual sum where `shortcut`."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = ConvBlock(channels, channels, 3)
        self.cv2 = ConvBlock(channels, channels, 3)
        self.add = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to the same shape."""
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C2f(nn.Module):
    """Split the channels, pass one half through `repeats` bottlenecks, concatenate every stage, mix with 1x1."""

    def __init__(self, cin: int, cout: int, repeats: int, shortcut: bool) -> None:
        super().__init__()
        hidden = cout // 2
        self.cv1 = ConvBlock(cin, 2 * hidden)
        self.cv2 = ConvBlock((2 + repeats) * hidden, cout)
        self.m = nn.ModuleList(Bottleneck(hidden, shortcut) for _ in range(repeats))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, cin, h, w) to (b, cout, h, w)."""
        left, right = self.cv1(x).chunk(2, 1)
        stages = [left, right]
        for block in self.m:
            stages.append(block(stages[-1]))
        return self.cv2(torch.cat(stages, 1))


class SPPF(nn.Module):
    """Pool three times with a 5x5 window: receptive fields of 5, 9 and 13 cells for the price of one."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.cv1 = ConvBlock(cin, cin // 2)
        self.cv2 = ConvBlock(cin * 2, cout)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, cin, h, w) to (b, cout, h, w)."""
        stages = [self.cv1(x)]
        for _ in range(3):
            stages.append(self.m(stages[-1]))
        return self.cv2(torch.cat(stages, 1))


class Upsample(nn.Module):
    """Double height and width by repetition."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to (b, c, 2h, 2w)."""
        return functional.interpolate(x, scale_factor=2.0, mode="nearest")


class Concat(nn.Module):
    """Join two maps along the channels."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Map (b, c1, h, w) and (b, c2, h, w) to (b, c1 + c2, h, w)."""
        return torch.cat((a, b), 1)


class DetectHead(nn.Module):
    """Predict, per level, box distributions (`cv2`) and class logits (`cv3`) with separate towers."""

    def __init__(self, channels: tuple[int, int, int], class_count: int) -> None:
        super().__init__()
        box_width = max(16, channels[0] // 4, 4 * REG_MAX)
        class_width = max(channels[0], min(class_count, 100))
        self.cv2 = nn.ModuleList(
            nn.Sequential(
                ConvBlock(c, box_width, 3), ConvBlock(box_width, box_width, 3), nn.Conv2d(box_width, 4 * REG_MAX, 1)
            )
            for c in channels
        )
        self.cv3 = nn.ModuleList(
            nn.Sequential(
                ConvBlock(c, class_width, 3),
                ConvBlock(class_width, class_width, 3),
                nn.Conv2d(class_width, class_count, 1),
            )
            for c in channels
        )
        self._start_bias(class_count)

    def _start_bias(self, class_count: int) -> None:
        # Start near "no object here" (about 5 objects in a 640 pixel image), or the first steps go into unlearning
        # thousands of false alarms (focal loss paper, arXiv:1708.02002, section 3.3).
        for box, cls, stride in zip(self.cv2, self.cv3, STRIDES, strict=True):
            nn.init.constant_(box[-1].bias, 1.0)  # type: ignore[index]
            nn.init.constant_(cls[-1].bias, math.log(5 / class_count / (640 / stride) ** 2))  # type: ignore[index]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map the three feature maps to [box, class] logits per level: (b, 64, h, w), (b, classes, h, w)."""
        heads = []
        for box, cls, x in zip(self.cv2, self.cv3, maps, strict=True):
            heads += [box(x), cls(x)]
        return heads


class Yolov8(nn.Module):
    """YOLOv8 of one `size` ("n", "s", "m", "l", "x") for `class_count` classes."""

    def __init__(self, size: str, class_count: int) -> None:
        super().__init__()
        if size not in SCALES:
            raise ValueError(f"model size must be one of {', '.join(SCALES)}, got {size!r}")
        if class_count < 1:
            raise ValueError(f"class_count must be at least 1, got {class_count}")
        self.size, self.class_count = size, class_count
        s = SCALES[size]
        c1, c2, c3, c4, c5 = (s.channels(c) for c in (64, 128, 256, 512, 1024))
        r3, r6 = s.repeats(3), s.repeats(6)
        self.model = nn.ModuleList(
            [
                ConvBlock(3, c1, 3, 2),  # 0
                ConvBlock(c1, c2, 3, 2),  # 1
                C2f(c2, c2, r3, True),  # 2
                ConvBlock(c2, c3, 3, 2),  # 3
                C2f(c3, c3, r6, True),  # 4: stride 8
                ConvBlock(c3, c4, 3, 2),  # 5
                C2f(c4, c4, r6, True),  # 6: stride 16
                ConvBlock(c4, c5, 3, 2),  # 7
                C2f(c5, c5, r3, True),  # 8
                SPPF(c5, c5),  # 9: stride 32
                Upsample(),  # 10
                Concat(),  # 11
                C2f(c5 + c4, c4, r3, False),  # 12
                Upsample(),  # 13
                Concat(),  # 14
                C2f(c4 + c3, c3, r3, False),  # 15: out, stride 8
                ConvBlock(c3, c3, 3, 2),  # 16
                Concat(),  # 17
                C2f(c3 + c4, c4, r3, False),  # 18: out, stride 16
                ConvBlock(c4, c4, 3, 2),  # 19
                Concat(),  # 20
                C2f(c4 + c5, c5, r3, False),  # 21: out, stride 32
                DetectHead((c3, c4, c5), class_count),  # 22
            ]
        )

    def backbone(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what layers 0 to 9 see in images (b, 3, h, w) float, RGB 0 to 1: maps of strides 8, 16 and 32.

        h and w are multiples of 32.
        """
        m = self.model
        p3 = m[4](m[3](m[2](m[1](m[0](x)))))
        p4 = m[6](m[5](p3))
        return p3, p4, m[9](m[8](m[7](p4)))

    def neck(self, p3: Tensor, p4: Tensor, p5: Tensor) -> dict[int, Tensor]:
        """Return the neck's maps by stride, {8: (b, c, h/8, w/8), 16: ..., 32: ...}, of those of the backbone."""
        m = self.model
        down4 = m[12](m[11](m[10](p5), p4))
        out3 = m[15](m[14](m[13](down4), p3))
        out4 = m[18](m[17](m[16](out3), down4))
        out5 = m[21](m[20](m[19](out4), p5))
        return {8: out3, 16: out4, 32: out5}

    def features(self, x: Tensor) -> dict[int, Tensor]:
        """Return the neck's maps by stride, of images (b, 3, h, w) float, RGB 0 to 1."""
        return self.neck(*self.backbone(x))

    def head(self, maps: dict[int, Tensor]) -> list[Tensor]:
        """Return [box_8, class_8, box_16, class_16, box_32, class_32] raw logits of the maps that `features` gave."""
        return self.model[22]([maps[stride] for stride in STRIDES])

    def maps_and_heads(self, x: Tensor) -> tuple[dict[int, Tensor], list[Tensor]]:
        """Return what `features` and `head` give, in one pass: what a distillation loss compares."""
        maps = self.features(x)
        return maps, self.head(maps)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images (b, 3, h, w) float, RGB 0 to 1, to six raw heads: (b, 64, h/s, w/s), (b, classes, h/s, w/s)."""
        return self.head(self.features(x))
