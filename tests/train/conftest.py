"""A few drawn pictures as annotated images: small enough to train on in a test."""

import cv2
import numpy as np
import pytest

from deploy.annotations import AnnotatedImage, AnnotationSet


def draw_pictures(folder, count, seed=0, side=64):
    """Write `count` PNG files of `side` pixels with one or two bright squares (class 0) or discs (class 1)."""
    rng = np.random.default_rng(seed)
    images = []
    for i in range(count):
        pixels = rng.integers(40, 90, (side, side, 3), dtype=np.uint8)
        boxes, ids = [], []
        for _ in range(int(rng.integers(1, 3))):
            size = int(rng.integers(side // 5, side // 3))
            x, y = (int(v) for v in rng.integers(0, side - size, 2))
            kind = int(rng.integers(0, 2))
            if kind:
                cv2.circle(pixels, (x + size // 2, y + size // 2), size // 2, (30, 220, 60), -1)
            else:
                pixels[y : y + size, x : x + size] = (230, 230, 40)
            boxes.append([x, y, x + size, y + size])
            ids.append(kind)
        path = folder / f"{i:03d}.png"
        cv2.imwrite(str(path), pixels[..., ::-1])
        images.append(
            AnnotatedImage(
                path, (side, side), np.array(boxes, np.float32), np.array(ids, np.int32), np.zeros(len(ids), bool)
            )
        )
    return AnnotationSet(images, ["square", "disc"])


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("pictures"), 8)
