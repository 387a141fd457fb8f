"""The vendor's simulator as a backend: it replays the heads that were simulated while the model was built.

The simulator cannot run an `.rknn` file; it runs only a model that was built in the same process. So the images are
scored during the build (`deploy.convert.rknn_build`, in child processes), and what comes back is kept here. A live
connection to a building process was rejected: it would make the two children of a build wait for their callers, and
for the same images the values are the same. Heads are found by the image's content, so callers may ask in any order
and batch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from ..manifest import Manifest, TensorScale
from .protocol import check_batch


def image_key(image: np.ndarray) -> bytes:
    """Return a digest of an image's pixels."""
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()


@dataclass(frozen=True, eq=False)
class SimulatedHeads:
    """Raw heads of n images.

    arrays: by output name (n, channels, h, w): int8 where `scales` holds the name, else float32. May be memory mapped.
    keys: `image_key` of each image. scales: by output name.
    """

    arrays: dict[str, np.ndarray]
    keys: tuple[bytes, ...]
    scales: dict[str, TensorScale]

    def __len__(self) -> int:
        return len(self.keys)

    def heads(self, indices: list[int]) -> list[np.ndarray]:
        """Return the heads of the images at `indices` as float32 (b, channels, h, w), in the order of the outputs."""
        return [self._real(name, stored[indices]) for name, stored in self.arrays.items()]

    def _real(self, name: str, stored: np.ndarray) -> np.ndarray:
        scale = self.scales.get(name)
        if scale is None:
            return np.asarray(stored, np.float32)
        return (stored.astype(np.float32) - np.float32(scale.zero_point)) * np.float32(scale.scale)


class RknnSimulatorBackend:
    """Answer `infer` from simulated heads. Raises ValueError for an image that was not simulated during the build."""

    name = "rknn-sim"

    def __init__(self, simulated: SimulatedHeads, manifest: Manifest) -> None:
        wanted = [name for head in manifest.heads for name in (head.box_output, head.class_output)]
        if list(simulated.arrays) != wanted:
            raise ValueError(f"simulated outputs must be {wanted} as in the manifest, got {list(simulated.arrays)}")
        self._simulated = simulated
        self._input_hw = manifest.input_hw
        self._index = {key: index for index, key in enumerate(simulated.keys)}

    @property
    def batch_size(self) -> int:
        """Any number of images costs the same here."""
        return 8

    def infer(self, batch: np.ndarray) -> list[np.ndarray]:
        """Return the simulated heads of (b, h, w, 3) uint8 RGB images, see `Backend`."""
        check_batch(batch, self._input_hw)
        indices = []
        for image in batch:
            index = self._index.get(image_key(image))
            if index is None:
                raise ValueError(
                    f"image was not simulated: the simulator only runs inside the build, and this one ran on "
                    f"{len(self._simulated)} other images; give build_rknn(evaluate=...) the same letterboxed images"
                )
            indices.append(index)
        return self._simulated.heads(indices)

    def close(self) -> None:
        """Forget the heads."""
        self._index = {}
