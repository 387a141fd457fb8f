"""Where detections go: COCO-style JSON and overlay pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .detections import Detections
from .overlay import draw_boxes


class CocoSink:
    """Collect detections in COCO form and write them whole: a stopped run leaves a readable file of what it finished.

    File: {"images": [{id, file_name, width, height}], "categories": [{id, name}],
    "annotations": [{id, image_id, category_id, bbox: [x, y, w, h] in image pixels, area, score}]}; ids start at 1.
    """

    def __init__(self, path: Path, class_names: Sequence[str], info: dict[str, Any] | None = None) -> None:
        self.path = path
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories = [{"id": i, "name": name} for i, name in enumerate(class_names, 1)]
        self._info = info or {}

    @property
    def count(self) -> int:
        """Images taken so far."""
        return len(self._images)

    def add(self, file_name: str, size_hw: tuple[int, int], detections: Detections) -> None:
        """Take the detections of one image; boxes are in its pixels."""
        image_id = len(self._images) + 1
        self._images.append({"id": image_id, "file_name": file_name, "width": size_hw[1], "height": size_hw[0]})
        rows = zip(detections.xyxy.tolist(), detections.score.tolist(), detections.class_id.tolist(), strict=True)
        for (x1, y1, x2, y2), score, class_id in rows:
            w, h = x2 - x1, y2 - y1
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": image_id,
                    "category_id": class_id + 1,
                    "bbox": [round(v, 2) for v in (x1, y1, w, h)],
                    "area": round(w * h, 2),
                    "score": round(score, 5),
                    "iscrowd": 0,
                }
            )

    def close(self) -> None:
        """Write the file, whole or not at all. Raises OSError."""
        content = {
            "info": self._info,
            "images": self._images,
            "categories": self._categories,
            "annotations": self._annotations,
        }
        scratch = self.path.with_name(self.path.name + ".part")
        try:
            scratch.write_text(json.dumps(content) + "\n", encoding="utf-8")
            os.replace(scratch, self.path)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise OSError(error.errno, f"{self.path}: cannot be written ({error.strerror})") from error


def write_overlay(path: Path, image: np.ndarray, detections: Detections, class_names: Sequence[str]) -> None:
    """Write the image with its boxes drawn in. image: (h, w, 3) uint8 RGB. Raises OSError."""
    write_image(path, draw_boxes(image, detections, class_names))


def write_image(path: Path, image: np.ndarray) -> None:
    """Encode an RGB image by the path's extension and write it. Raises OSError, also where the disk is full."""
    fine, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    if not fine:
        raise OSError(f"{path}: OpenCV cannot encode {path.suffix} pictures; use .jpg or .png")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OSError(error.errno, f"{path}: cannot be written ({error.strerror})") from error


def unused_name(name: str, taken: set[str]) -> str:
    """Number a file name that is in `taken`, and add it there: images of one name may lie in several folders."""
    stem, dot, suffix = name.rpartition(".")
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{stem}_{number}{dot}{suffix}", number + 1
    taken.add(unique)
    return unique
