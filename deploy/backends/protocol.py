"""The protocol that every backend fulfils: uint8 images in, raw heads out, nothing decoded."""

from __future__ import annotations

from typing import Protocol

import numpy as np

# A core of the NPU, several that share the work of each image, or None: the driver chooses one for each image.
Core = int | tuple[int, ...] | None


class Backend(Protocol):
    """One loaded model on one runtime.

    name: what a report calls it ("onnx", "rknn-sim", ...). batch_size: the number of images that one call handles best;
    `infer` takes any number from 1.
    """

    @property
    def name(self) -> str: ...

    @property
    def batch_size(self) -> int: ...

    def infer(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run the network.

        batch: (b, h, w, 3) uint8 RGB, letterboxed to the manifest's `input_hw`. Returns (b, channels, h / stride,
        w / stride) arrays in the manifest's order, box and class output of the first head, of the second, and so on:
        all float32, or all int8 in the manifest's scales. Raises ValueError on a batch of another shape or type.
        """
        ...

    def close(self) -> None:
        """Give back what the runtime holds; further calls of `infer` are errors."""
        ...


def check_batch(batch: np.ndarray, input_hw: tuple[int, int]) -> None:
    """Raise ValueError unless `batch` is uint8 with shape (b, h, w, 3) of the model's input and b is at least 1."""
    if batch.ndim != 4 or batch.shape[1:] != (*input_hw, 3) or batch.dtype != np.uint8 or not len(batch):
        raise ValueError(
            f"batch must be uint8 with shape (b, {input_hw[0]}, {input_hw[1]}, 3), got {batch.dtype} {batch.shape}; "
            "letterbox the images to the manifest's input_hw first"
        )


def core_mask(core: Core) -> int:
    """Return the vendor's mask for NPU cores of the RK3588, 0 (any) for None.

    Known are each core alone, (0, 1) and (0, 1, 2) together, as in rknn_api.h. Raises ValueError for others.
    """
    if core is None:
        return 0
    cores = core if isinstance(core, tuple) else (core,)
    if cores not in ((0,), (1,), (2,), (0, 1), (0, 1, 2)):
        raise ValueError(
            f"core must be 0, 1 or 2, or None for any, got {core}; cores that share each image are (0, 1) or (0, 1, 2)"
        )
    return sum(1 << int(one) for one in cores)
