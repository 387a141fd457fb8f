"""A few drawn pictures as annotated images, and a recipe of drawn scenes: small enough to train on in a test."""

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


def write_recipe(folder, size, counts, train="", more=""):
    """Write `small.toml`: one epoch on drawn scenes of the given counts (train, val), and a bundle. Returns its path.

    size: of the model input in pixels. train: further lines of [train]. more: further sections.
    """
    path = folder / "small.toml"
    path.write_text(
        f"""
        [data]
        format = "procedural"
        root = "{folder / "scenes"}"
        workers = 0
        train.count = {counts[0]}
        val.count = {counts[1]}
        [export]
        calibration_images = 6
        [train]
        image_size = {size}
        epochs = 1
        batch = 4
        {train}
        {more}
        """
    )
    return path
