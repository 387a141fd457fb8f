"""COCO sink: detections in the layout that evaluation tools and annotation editors read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .frames import Record
from .growing_file import GrowingDocument
from .sink_geojson import readable


class CocoSink:
    """Write one JSON document of all detections.

    File: {"info": ..., "images": [{id, file_name, width, height}], "categories": [{id, name}],
    "annotations": [{id, image_id, category_id, bbox: [x, y, w, h] in image pixels, area, score, iscrowd}]}; ids start
    at 1. Frames of a video also have frame_number and timestamp (seconds), scenes that are done in part
    "complete": false.
    """

    def __init__(self, path: Path, class_names: Sequence[str], info: dict[str, Any]) -> None:
        self.path = path
        categories = json.dumps([{"id": i, "name": name} for i, name in enumerate(class_names, 1)])
        self._document = GrowingDocument(
            path,
            (
                f'{{"info": {json.dumps(info)},\n"images": [\n',
                f'\n],\n"categories": {categories},\n"annotations": [\n',
                "\n]}\n",
            ),
        )
        self._images = self._annotations = 0

    def add(self, record: Record) -> None:
        """Take the detections of one image."""
        images, annotations = self._items([record])
        self._images += 1
        self._annotations += len(annotations)
        self._document.append(images, annotations)

    def show(self, records: Sequence[Record]) -> None:
        """Show scenes that are done in part behind all others, until the next ones are shown or a record comes."""
        self._document.show(*self._items(records))

    def _items(self, records: Sequence[Record]) -> tuple[list[str], list[str]]:
        """Return the images and annotations of records that come next."""
        images: list[str] = []
        annotations: list[str] = []
        for number, record in enumerate(records, self._images + 1):
            image, boxes = _item(record, number, self._annotations + len(annotations))
            images.append(image)
            annotations += boxes
        return images, annotations

    def spill(self) -> None:
        """Keep memory small while many records come at once. Raises OSError."""
        self._document.spill()

    def publish(self) -> None:
        """Bring the file up to date, whole or not at all. Raises OSError."""
        self._document.publish()

    def close(self) -> None:
        """Let go of the file."""
        self._document.close()


def _item(record: Record, number: int, before: int) -> tuple[str, list[str]]:
    """Return the image of a record and its annotations. number: its id. before: annotations that came before."""
    h, w = record.size_hw
    image: dict[str, Any] = {"id": number, "file_name": readable(record.name), "width": int(w), "height": int(h)}
    if record.frame_number is not None:
        image["frame_number"] = record.frame_number
    if record.timestamp_s is not None:
        image["timestamp"] = round(record.timestamp_s, 6)
    if not record.complete:
        image["complete"] = False
    found = record.detections
    xywh = found.xyxy.astype(np.float64)
    xywh[:, 2:] -= xywh[:, :2]
    columns = (
        xywh.round(2).tolist(),
        xywh[:, 2:].prod(axis=1).round(2).tolist(),
        found.score.astype(np.float64).round(5).tolist(),
        (found.class_id + 1).tolist(),
    )
    # Only numbers: written out they are the same JSON as json.dumps gives, in a third of the time.
    items = [
        f'{{"id": {i}, "image_id": {number}, "category_id": {category}, "bbox": {bbox}, "area": {area}, '
        f'"score": {score}, "iscrowd": 0}}'
        for i, (bbox, area, score, category) in enumerate(zip(*columns, strict=True), before + 1)
    ]
    return json.dumps(image), items
