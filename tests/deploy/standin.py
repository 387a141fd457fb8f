"""A network with six raw heads that is small enough to export and convert in seconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Convolve with stride 2, normalise, activate, as YOLOv8's blocks do."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(cout)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class StandIn(nn.Module):
    """Return [box_8, class_8, box_16, class_16, box_32, class_32] like the real detector."""

    def __init__(self, class_count: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(Block(3, 16), Block(16, 32), Block(32, 32))
        self.down = nn.ModuleList([Block(32, 32), Block(32, 32)])
        self.box = nn.ModuleList([nn.Conv2d(32, 64, 1) for _ in range(3)])
        self.cls = nn.ModuleList([nn.Conv2d(32, class_count, 1) for _ in range(3)])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.stem(x)]
        for block in self.down:
            maps.append(block(maps[-1]))
        return [head(level) for level, *heads in zip(maps, self.box, self.cls, strict=True) for head in heads]


def make_standin(seed: int = 0) -> StandIn:
    """Return a seeded stand-in whose batch norms hold the statistics of noise, so that its heads vary."""
    torch.manual_seed(seed)
    model = StandIn()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(8, 3, 64, 64))
    return model.eval()
