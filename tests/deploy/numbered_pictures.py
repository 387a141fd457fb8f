"""Pictures that carry a number in sixteen black or white blocks, so that a test knows which frame it got."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

BLOCKS = 16
SIZE_HW = (64, 256)


def draw_number(number: int) -> np.ndarray:
    """Return (64, 256, 3) uint8: block i is white where bit i of `number` is set."""
    bits = [255 * (number >> i & 1) for i in range(BLOCKS)]
    return np.repeat(np.tile(np.repeat(np.uint8(bits), SIZE_HW[1] // BLOCKS), (SIZE_HW[0], 1))[..., None], 3, axis=2)


def number_of(image: np.ndarray) -> int:
    """Read the number back, the rims of the blocks left out."""
    blocks = image[8:-8, :, 1].reshape(SIZE_HW[0] - 16, BLOCKS, -1)[:, :, 4:-4].mean(axis=(0, 2))
    return sum(1 << i for i, value in enumerate(blocks) if value > 128)


def write_video(path: Path, frames: int, fourcc: str = "mp4v", fps: float = 20.0) -> Path:
    """Write a video whose frame n shows n."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*fourcc), fps, SIZE_HW[::-1])
    assert writer.isOpened(), f"this OpenCV writes no {fourcc} into {path.suffix}"
    for number in range(frames):
        writer.write(draw_number(number))
    writer.release()
    return path
