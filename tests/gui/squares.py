"""A quick detector that finds plain squares without a network, and pictures and videos of such squares."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from deploy.detections import Detections
from deploy.detector import Detector
from deploy.manifest import load_manifest

# What `Squares` draws: each class has a colour of its own.
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255))


# x, y, side, class: the picture of the fixture `picture`.
SQUARES = [(20, 30, 60, 0), (150, 40, 30, 1), (200, 150, 20, 2), (40, 180, 12, 2)]


class Blind:
    """A backend that computes nothing; what is found comes from `Squares`."""

    name, batch_size = "blind", 1

    def __init__(self, latency_s: float = 0.0) -> None:
        self.latency_s = latency_s

    def infer(self, batch: np.ndarray) -> list[np.ndarray]:
        if self.latency_s:
            time.sleep(self.latency_s)
        return [batch]

    def close(self) -> None:
        pass


class Squares:
    """Finds plain squares in the colours of `COLOURS`, by thresholding; scores fall with the size of the square.

    Every square is found twice: the second box is shifted by a quarter, overlaps by 0.6 and scores 0.1 less.
    """

    def __call__(self, heads: list[np.ndarray], letterboxes: list[Any]) -> list[Detections]:
        return [self._find(image, box) for image, box in zip(heads[0], letterboxes, strict=True)]

    def _find(self, image: np.ndarray, letterbox: Any) -> Detections:
        rows = []
        for class_id, colour in enumerate(COLOURS):
            low, high = (tuple(np.clip(np.array(colour) + shift, 0, 255).tolist()) for shift in (-60, 60))
            mask = cv2.inRange(image, low, high)
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
            for x, y, w, h, area in stats[1:].tolist():
                if area >= 16:
                    score = min(0.95, 0.2 + max(w, h) / letterbox.scale / 100)
                    rows.append((x, y, x + w, y + h, score, class_id))
                    rows.append((x + w / 4, y, x + w * 1.25, y + h, max(0.06, score - 0.1), class_id))
        found = np.array(rows, np.float64).reshape(-1, 6)
        found = found[np.argsort(-found[:, 4], kind="stable")]
        xyxy = letterbox.to_image(found[:, :4].astype(np.float32))
        return Detections(xyxy, found[:, 4], found[:, 5])


def quick_detector(bundle: Path, latency_s: float = 0.0) -> Detector:
    detector = Detector(
        Blind(latency_s), load_manifest(bundle), open_backend=lambda core: Blind(latency_s), cores=(0, 1)
    )
    detector.postprocessor = Squares()
    return detector


def draw(size_hw: tuple[int, int], squares: list[tuple[int, int, int, int]]) -> np.ndarray:
    """Return a grey picture with squares (x, y, side, class)."""
    image = np.full((*size_hw, 3), 90, np.uint8)
    for x, y, side, class_id in squares:
        image[y : y + side, x : x + side] = COLOURS[class_id]
    return image


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return path


def save_video(path: Path, frames: int, size_hw: tuple[int, int] = (240, 320), fps: float = 25.0) -> Path:
    """Write a video in which a square of 40 pixels walks to the right, 2 pixels a frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, size_hw[::-1])
    for i in range(frames):
        image = draw(size_hw, [(2 * i % (size_hw[1] - 60), 100, 40, 2)])
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def coco(
    picture: Path, boxes: list[list[float]], categories: list[int], names: tuple[str, ...] = ("airplane", "ship")
) -> Path:
    h, w = cv2.imread(str(picture)).shape[:2]
    content = {
        "images": [{"id": 1, "file_name": picture.name, "width": w, "height": h}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (box, c) in enumerate(zip(boxes, categories, strict=True), 1)
        ],
    }
    path = picture.parent.parent / "truth.json"
    path.write_text(json.dumps(content))
    return path
