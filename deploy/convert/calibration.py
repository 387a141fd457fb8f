"""Calibration images: which ones, letterboxed as at inference, and written as the converter wants them.

The toolkit reads a text file of paths. It takes image files or `.npy`; an `.npy` must hold one batch in NCHW order
(uint8 is fine: mean and std are applied to it as to an image file), and then quantises exactly as from the same pixels
in a lossless PNG. We use `.npy`: no codec, no channel order to get wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..images import read_image
from ..letterbox import PAD_VALUE, Letterbox

# 64 images: on a YOLOv8n at 512 calibration takes about 18 s and 1.1 GiB, and both grow linearly.
DEFAULT_COUNT = 64


def choose_calibration(class_ids_per_image: Sequence[np.ndarray], count: int, seed: int) -> list[int]:
    """Draw images evenly over the classes that appear on them.

    class_ids_per_image: for each image the class_id of each of its objects (may be empty). count: images wanted.
    Classes take turns, the rarest (fewest images) first; each turn draws one image that was not drawn yet. When all
    images with objects are used up, empty ones follow; when those are too, all `len(class_ids_per_image)` are returned.
    The same seed gives the same list.
    """
    if count < 1:
        raise ValueError(f"calibration count must be at least 1, got {count}")
    if not class_ids_per_image:
        raise ValueError("calibration needs images, got none; check the recipe's train split")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(class_ids_per_image))
    holders: dict[int, list[int]] = {}
    for image in order:
        for class_id in np.unique(np.asarray(class_ids_per_image[image], np.int64)):
            holders.setdefault(int(class_id), []).append(int(image))
    # Lists are drawn from their end; sorted() is stable, so ties go by class_id.
    turns = sorted(sorted(holders), key=lambda class_id: len(holders[class_id]))
    chosen: dict[int, None] = {}
    while len(chosen) < count and any(holders[class_id] for class_id in turns):
        for class_id in turns:
            queue = holders[class_id]
            while queue and queue[-1] in chosen:
                queue.pop()
            if queue and len(chosen) < count:
                chosen[queue.pop()] = None
    for image in order:
        if len(chosen) >= count:
            break
        chosen.setdefault(int(image), None)
    return list(chosen)


def letterbox_images(paths: Sequence[Path], input_hw: tuple[int, int], pad_value: int = PAD_VALUE) -> np.ndarray:
    """Read images and letterbox them exactly as inference does; returns (n, h, w, 3) uint8 RGB."""
    out = np.empty((len(paths), *input_hw, 3), np.uint8)
    for slot, path in zip(out, paths, strict=True):
        image = read_image(path)
        Letterbox.fit((image.shape[0], image.shape[1]), input_hw, pad_value).apply(image, slot)
    return out


def write_dataset(images: Iterable[np.ndarray], folder: Path, input_hw: tuple[int, int]) -> tuple[Path, int]:
    """Write images (h, w, 3) uint8 as the toolkit's calibration set: `folder`/NNNNN.npy in NCHW, and dataset.txt.

    Returns the text file's path and the number of images. Raises ValueError on another shape or type, or on none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    for image in images:
        check_model_image(image, input_hw, "calibration image")
        name = f"{len(names):05d}.npy"
        np.save(folder / name, np.ascontiguousarray(image.transpose(2, 0, 1))[None])
        names.append(name)
    if not names:
        raise ValueError("INT8 conversion needs calibration images, got none; 32 to 128 from the train split are usual")
    listing = folder / "dataset.txt"
    # Relative names: the toolkit resolves them against the text file's folder, and splits lines at blanks.
    listing.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return listing, len(names)


def check_model_image(image: np.ndarray, input_hw: tuple[int, int], what: str) -> None:
    """Raise ValueError unless `image` is uint8 with shape (h, w, 3) of the model's input."""
    if image.shape != (*input_hw, 3) or image.dtype != np.uint8:
        raise ValueError(
            f"{what} must be uint8 with shape {(*input_hw, 3)}, got {image.dtype} {image.shape}; letterbox it first"
        )
