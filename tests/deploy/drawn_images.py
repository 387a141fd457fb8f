"""Drawn images for a process that must not import more than it says."""

from __future__ import annotations

import numpy as np


def images(count: int) -> list[np.ndarray]:
    """Return (256, 256, 3) uint8 images with objects of the shipped procedural bundle."""
    from deploy.procedural import draw_scene

    return [draw_scene(seed, (256, 256)).image for seed in range(count)]
