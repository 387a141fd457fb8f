"""Random changes of (image, boxes): mosaic, affine, flips, 90 degree turns, colour.

One warp does it all: the geometric changes are multiplied into a single matrix, so each pixel is resampled once.
Own code because albumentations is unmaintained and its successor AGPL. Aerial images have no up, so all eight
symmetries of the square are drawn with equal chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .recipe import Augment

PAD = (114, 114, 114)
MIN_SIDE_PX = 2.0
MIN_VISIBLE = 0.2


@dataclass(frozen=True, eq=False)
class Sample:
    """An image with boxes. image: (h, w, 3) uint8 RGB. xyxy: (n, 4) float32, pixels of it. class_id: (n,) int32."""

    image: np.ndarray
    xyxy: np.ndarray
    class_id: np.ndarray


def warp_boxes(xyxy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map boxes by an affine matrix and take the axis-aligned hull of the four corners.

    xyxy: (n, 4) pixels where 0 is the left edge of the first pixel. matrix: (3, 3), new = matrix @ old.
    """
    if not len(xyxy):
        return np.zeros((0, 4), np.float32)
    corners = xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    moved = corners @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate((moved.min(1), moved.max(1)), 1).astype(np.float32)


def warp_image(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Resample an image into (size, size, 3) with the same convention as `warp_boxes`; outside is grey 114."""
    # OpenCV counts from pixel centres, boxes from pixel edges: shift by half a pixel before and after.
    centre = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    by_centres = np.linalg.inv(centre) @ matrix @ centre
    return cv2.warpAffine(image, by_centres[:2], (size, size), flags=cv2.INTER_LINEAR, borderValue=PAD)


def clip_boxes(xyxy: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes to the square and say which are worth keeping.

    Returns (n, 4) float32 and (n,) bool: at least 2 pixels on both sides and 20 % of the area still visible.
    """
    clipped = np.clip(xyxy, 0, size)
    side = clipped[:, 2:] - clipped[:, :2]
    before = np.prod(np.maximum(xyxy[:, 2:] - xyxy[:, :2], 1e-6), 1)
    keep = (side.min(1, initial=np.inf) >= MIN_SIDE_PX) & (np.prod(side, 1) >= MIN_VISIBLE * before)
    return clipped.astype(np.float32), keep


def random_matrix(
    rng: np.random.Generator, config: Augment, source_hw: tuple[int, int], size: int, fit: float
) -> np.ndarray:
    """Draw one affine matrix from an image of `source_hw` pixels to a square of `size` pixels.

    fit: scale at which the image fills the square before the random zoom. Order: centre, zoom and turn, shear, flip
    and quarter turn, back to the centre plus a shift.
    """
    height, width = source_hw
    zoom = fit * rng.uniform(1 - config.scale, 1 + config.scale)
    angle = np.deg2rad(rng.uniform(-config.degrees, config.degrees))
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    sx, sy = np.tan(np.deg2rad(rng.uniform(-config.shear, config.shear, 2)))
    shear = np.array([[1, sx, 0], [sy, 1, 0], [0, 0, 1]])
    symmetry = np.eye(3)
    if rng.random() < config.flip:
        symmetry[0, 0] = -1
    if rng.random() < config.flip:
        symmetry[1, 1] = -1
    if config.quarter_turns and rng.random() < 0.5:
        symmetry = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]) @ symmetry
    dx, dy = (0.5 + rng.uniform(-config.translate, config.translate, 2)) * size
    to_centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1.0]])
    return np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1.0]]) @ symmetry @ shear @ turn @ to_centre


def mosaic(rng: np.random.Generator, parts: list[Sample], size: int) -> Sample:
    """Lay four images around a random crossing on a canvas of twice the size (YOLOv4, arXiv:2004.10934, section 3.4).

    Each part touches the crossing with one corner; what passes the canvas is cut off.
    """
    canvas = np.full((2 * size, 2 * size, 3), PAD[0], np.uint8)
    cx, cy = (int(v) for v in rng.uniform(0.5 * size, 1.5 * size, 2))
    boxes, classes = [], []
    for place, part in enumerate(parts):
        h, w = part.image.shape[:2]
        left = cx - w if place % 2 == 0 else cx
        top = cy - h if place < 2 else cy
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + w, 2 * size), min(top + h, 2 * size)
        canvas[y1:y2, x1:x2] = part.image[y1 - top : y2 - top, x1 - left : x2 - left]
        moved = part.xyxy + np.array([left, top, left, top], np.float32)
        clipped, keep = clip_boxes(moved, 2 * size)
        boxes.append(clipped[keep])
        classes.append(part.class_id[keep])
    return Sample(canvas, np.concatenate(boxes), np.concatenate(classes))


def affine(rng: np.random.Generator, sample: Sample, config: Augment, size: int, fit: float) -> Sample:
    """Apply one random affine change and drop the boxes that left the picture."""
    matrix = random_matrix(rng, config, sample.image.shape[:2], size, fit)
    boxes, keep = clip_boxes(warp_boxes(sample.xyxy, matrix), size)
    return Sample(warp_image(sample.image, matrix, size), boxes[keep], sample.class_id[keep])


def colour(rng: np.random.Generator, image: np.ndarray, config: Augment) -> np.ndarray:
    """Vary hue, saturation and value by look-up tables; sometimes drop the colour. (h, w, 3) uint8 RGB in and out."""
    if config.grey and rng.random() < config.grey:
        return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if not (config.hue or config.saturation or config.value):
        return image
    gain = 1 + rng.uniform(-1, 1, 3) * (config.hue, config.saturation, config.value)
    steps = np.arange(256)
    hue = ((steps * gain[0]) % 180).astype(np.uint8)
    table = np.stack((hue, *(np.clip(steps * g, 0, 255).astype(np.uint8) for g in gain[1:])), -1)[:, None]
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2RGB)
