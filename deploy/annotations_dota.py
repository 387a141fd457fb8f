"""DOTA: one text file per image, each line four corners, a class name and a difficult flag."""

from __future__ import annotations

from pathlib import Path

from .annotation_builder import (
    AnnotationBuilder,
    RawBox,
    find_by_stem,
    index_by_stem,
    require_folder,
)
from .annotations import AnnotationSet
from .annotations_voc import annotation_files
from .images import list_images

_HEADER = ("imagesource:", "gsd:")


def read_dota(
    label_folder: Path, image_folder: Path, class_names: list[str] | None = None, list_file: Path | None = None
) -> AnnotationSet:
    """Read every label file of a folder, or those that `list_file` names; NAME.txt belongs to NAME.png (or .jpg ...).

    A row is `x1 y1 x2 y2 x3 y3 x4 y4 class [difficult]` in image pixels. Of the quadrilateral only the box around it
    is kept. Difficult above 0 means difficult. class_names: as for read_voc.

    Raises FileNotFoundError, or ValueError where a folder holds no labels.
    """
    require_folder(label_folder, "label")
    require_folder(image_folder, "image")
    builder = AnnotationBuilder(class_names)
    by_stem = index_by_stem(list_images(image_folder))
    for source, line, file in annotation_files(label_folder, ".txt", list_file):
        if source is not None and not file.is_file():
            builder.problem(source, line, "malformed", f"label file {file} is not there; restore it or mend the list")
            continue
        path = find_by_stem(image_folder, file.stem, by_stem)
        size_hw = builder.open_image(path, file, 0)
        if size_hw is not None and (text := builder.read_labels(file)) is not None:
            builder.add(path, size_hw, file, _rows(text, file, builder))
    return builder.finish()


def _rows(text: str, file: Path, builder: AnnotationBuilder) -> list[RawBox]:
    boxes: list[RawBox] = []
    for line, row in enumerate(text.splitlines(), 1):
        columns = row.split()
        if not columns or row.strip().lower().startswith(_HEADER):
            continue
        if len(columns) not in (9, 10):
            message = f"a row has 9 or 10 columns (x1 y1 ... y4 class difficult), got {len(columns)}; mend or remove it"
            builder.problem(file, line, "malformed", message)
            continue
        try:
            corners = [float(column) for column in columns[:8]]
            difficult = int(columns[9]) if len(columns) == 10 else 0
        except ValueError:
            message = f"a row is eight numbers, a class and a whole number, got {row.strip()[:60]!r}; mend or remove it"
            builder.problem(file, line, "malformed", message)
            continue
        xs, ys = corners[0::2], corners[1::2]
        # min() and max() would lose a NaN that does not come first; the sum keeps it for the shared check.
        lost = sum(corners) * 0.0
        box = (min(xs) + lost, min(ys) + lost, max(xs) + lost, max(ys) + lost)
        boxes.append(RawBox(line, box, columns[8], difficult != 0, f"{columns[8]} box"))
    return boxes
