"""Records for tests of the output files: random boxes, a few of them over scenes that lie somewhere on the earth."""

from __future__ import annotations

import numpy as np

from deploy.detections import Detections
from deploy.frames import Record
from deploy.georeference import Georeference

NAMES = ["ship", "storage tank", 'a "quoted", comma']
# North up in degrees, turned by 30 degrees in UTM, mirrored in UTM.
TRANSFORMS = [
    ("EPSG:4326", (2e-6, 0.0, 13.4, 0.0, -2e-6, 52.5)),
    ("EPSG:32633", (0.26, 0.15, 391000.0, 0.15, -0.26, 5820000.0)),
    ("EPSG:32633", (-0.3, 0.0, 391000.0, 0.0, -0.3, 5820000.0)),
]


def boxes(seed: int, n: int, size: int = 400) -> Detections:
    """Return n boxes inside size x size pixels."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, size - 60, (n, 2))
    return Detections(
        np.concatenate([corner, corner + rng.uniform(4, 60, (n, 2))], axis=1),
        rng.uniform(0.25, 1, n),
        rng.integers(0, len(NAMES), n),
    )


def record(i: int, *, with_image: bool = True) -> Record:
    """Return the i-th record: every fourth one is not georeferenced, every fifth has no box."""
    where = None if i % 4 == 3 else Georeference(*TRANSFORMS[i % 4])
    image = np.full((40, 60, 3), 7 * i % 256, np.uint8) if with_image else None
    return Record(f"scenes/{i:03}.tif", (400, 400), boxes(i, 0 if i % 5 == 4 else 1 + i % 7), where, image=image)


def frame(number: int, name: str = "clips/boat.mp4", hw: tuple[int, int] = (48, 64)) -> Record:
    """Return one frame of a video at 10 frames a second."""
    image = np.full((*hw, 3), number * 5 % 256, np.uint8)
    return Record(name, hw, boxes(number, number % 3, 61), None, number, number / 10, image)
