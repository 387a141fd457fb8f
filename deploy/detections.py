"""Detections: the result type that every folder shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Detections:
    """Hold the boxes found in one image as parallel arrays, best score first where it matters to the producer.

    xyxy: (n, 4) float32, corners in pixels of the image that they came from.
    score: (n,) float32, 0 to 1.
    class_id: (n,) int32, zero-based index into the bundle's class names.

    Raises ValueError where shapes disagree. Arrays of another dtype are converted.
    """

    xyxy: np.ndarray
    score: np.ndarray
    class_id: np.ndarray

    def __post_init__(self) -> None:
        xyxy = np.asarray(self.xyxy, dtype=np.float32)
        score = np.asarray(self.score, dtype=np.float32)
        class_id = np.asarray(self.class_id, dtype=np.int32)
        if xyxy.ndim != 2 or xyxy.shape[1] != 4:
            raise ValueError(f"xyxy must have shape (n, 4), got {xyxy.shape}")
        n = len(xyxy)
        if score.shape != (n,):
            raise ValueError(f"score must have shape ({n},) like xyxy, got {score.shape}")
        if class_id.shape != (n,):
            raise ValueError(f"class_id must have shape ({n},) like xyxy, got {class_id.shape}")
        object.__setattr__(self, "xyxy", xyxy)
        object.__setattr__(self, "score", score)
        object.__setattr__(self, "class_id", class_id)

    def __len__(self) -> int:
        return len(self.score)

    @classmethod
    def empty(cls) -> Detections:
        """Return a result without any box."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))

    def select(self, index: np.ndarray | slice) -> Detections:
        """Return the rows that `index` (a boolean mask, integers or a slice) picks."""
        return Detections(self.xyxy[index], self.score[index], self.class_id[index])

    def shift(self, dx: float, dy: float) -> Detections:
        """Return the same boxes moved by (dx, dy) pixels, as from a tile into its scene."""
        return Detections(self.xyxy + np.array([dx, dy, dx, dy], np.float32), self.score, self.class_id)

    @classmethod
    def concat(cls, parts: Sequence[Detections]) -> Detections:
        """Join several results of the same frame of coordinates, in the order given."""
        if not parts:
            return cls.empty()
        return cls(
            np.concatenate([p.xyxy for p in parts]),
            np.concatenate([p.score for p in parts]),
            np.concatenate([p.class_id for p in parts]),
        )
