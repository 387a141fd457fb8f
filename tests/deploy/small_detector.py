"""A small detector with everything that YOLOv8 has: SiLU, split, sum, Concat, pooling, resizing; and images for it."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from deploy.backends.onnx_session import session_options
from deploy.convert.onnx_export import INPUT_NAME
from quantize.insert import FakeQuantised, Settings, insert
from train.model import SPPF, C2f, Concat, ConvBlock, Upsample

HW = (128, 128)


class SmallDetector(nn.Module):
    """Two levels, strides 8 and 16: [box_8, class_8, box_16, class_16]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBlock(3, 16, 3, 2), ConvBlock(16, 32, 3, 2), ConvBlock(32, 32, 3, 2))
        self.early, self.down, self.pool = C2f(32, 32, 1, True), ConvBlock(32, 32, 3, 2), SPPF(32, 32)
        self.up, self.join, self.mix = Upsample(), Concat(), C2f(64, 32, 1, False)
        self.box = nn.ModuleList([nn.Conv2d(32, 64, 1) for _ in range(2)])
        self.cls = nn.ModuleList([nn.Conv2d(32, 3, 1) for _ in range(2)])

    def forward(self, x: Tensor) -> list[Tensor]:
        early = self.early(self.stem(x))
        deep = self.pool(self.down(early))
        fine = self.mix(self.join(self.up(deep), early))
        return [head(level) for level, *heads in zip((fine, deep), self.box, self.cls, strict=True) for head in heads]


def smooth_images(count: int, seed: int) -> np.ndarray:
    """Return (n, 128, 128, 3) uint8 images with structure at every size, as photographs have."""
    rng = np.random.default_rng(seed)
    return np.stack([cv2.resize(rng.integers(0, 256, (13, 13, 3), dtype=np.uint8), HW[::-1]) for _ in range(count)])


def pixels_of(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


IMAGES = smooth_images(4, seed=5)


def learnt_network(model: nn.Module, settings: Settings | None = None) -> FakeQuantised:
    """Return a folded network with learnt ranges that are not those of an observer."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    seen = torch.from_numpy(pixels_of(smooth_images(8, seed=1)))
    with torch.no_grad():
        model.train()(seen)
        found = insert(model.eval(), settings).train()
        for module in found.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        found(seen)
        found.eval().fold_batch_norm()
        found.learn()
        for quantiser in found.quantisers().values():
            if not quantiser.fixed:
                quantiser.stretch += torch.rand(quantiser.stretch.shape) * 0.03
    return found


def run(model: onnx.ModelProto, pixels: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(1, exact=True), providers=["CPUExecutionProvider"]
    )
    outs = [session.run(None, {INPUT_NAME: x[None]}) for x in pixels]
    return [np.concatenate(parts) for parts in zip(*outs, strict=True)]
