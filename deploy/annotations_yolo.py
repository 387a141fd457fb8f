"""YOLO: one text file per image, each line `class cx cy w h` in fractions of the image."""

from __future__ import annotations

from pathlib import Path

from .annotation_builder import (
    AnnotationBuilder,
    RawBox,
    read_name_list,
    require_class_names,
    require_folder,
)
from .annotations import AnnotationSet
from .images import list_images

# Files that labelling tools leave beside the labels.
_NOT_LABELS = ("classes.txt", "readme.txt")


def read_yolo(
    image_folder: Path,
    label_folder: Path | None = None,
    *,
    class_names: list[str] | None = None,
    list_file: Path | None = None,
) -> AnnotationSet:
    """Read the YOLO labels of every image below `image_folder`, or of those that `list_file` names.

    label_folder: holds NAME.txt for NAME.jpg, subfolders alike. Without it the last folder called "images" in the path
    becomes "labels", the usual layout. image_folder may itself be a list file. A listed path is looked up in
    image_folder, else beside the list file. An image without a label file counts as empty, with a note in `problems`.

    Raises ValueError without class_names (the files hold numbers only) or where not one label file is found.
    """
    if class_names is None:
        raise ValueError("class_names must be given for YOLO labels, they hold numbers only; set data.class_names")
    require_class_names(class_names)
    if image_folder.is_file():
        image_folder, list_file = image_folder.parent, image_folder
    require_folder(image_folder, "image")
    if label_folder is not None:
        require_folder(label_folder, "label")
    labels = label_folder or labels_beside(image_folder)
    builder = AnnotationBuilder(class_names)
    found = 0
    expected: set[Path] = set()
    for source, line, path in _listed(image_folder, list_file):
        label = _label_of(path, image_folder, label_folder)
        expected.add(label)
        size_hw = builder.open_image(path, source or path, line)
        has_label = label.is_file()
        found += has_label
        if size_hw is None:
            continue
        boxes: list[RawBox] = []
        if has_label:
            text = builder.read_labels(label)
            if text is None:
                continue
            boxes = _rows(text, label, size_hw, class_names, builder)
        else:
            message = f"image {path} has no label file; it counts as empty, an empty file says so on purpose"
            builder.problem(label, 0, "no_labels", message, fatal=False)
        builder.add(path, size_hw, label, boxes)
    if not found:
        raise ValueError(f"{labels}: not one label file for the images in {image_folder}; check the label folder")
    if list_file is None and labels != image_folder and labels.is_dir():
        for stray in sorted(set(labels.rglob("*.txt")) - expected):
            if stray.name.lower() not in _NOT_LABELS:
                message = "no image of this name is there; restore the image or remove the file"
                builder.problem(stray, 0, "missing_image", message)
    return builder.finish()


def labels_beside(image_folder: Path) -> Path:
    """Return the folder of labels by convention: the last part called "images" becomes "labels", or the same folder."""
    parts = list(image_folder.parts)
    for index in range(len(parts) - 1, -1, -1):
        if parts[index].lower() == "images":
            return Path(*parts[:index], "labels", *parts[index + 1 :])
    return image_folder


def _listed(folder: Path, list_file: Path | None) -> list[tuple[Path | None, int, Path]]:
    """Return (list file, its line, image path) for every image to read."""
    if list_file is None:
        return [(None, 0, path) for path in list_images(folder, recursive=True)]
    listed: list[tuple[Path | None, int, Path]] = []
    for line, name in read_name_list(list_file):
        path = folder / name
        if not path.is_file() and (list_file.parent / name).is_file():
            path = list_file.parent / name
        listed.append((list_file, line, path))
    return listed


def _label_of(path: Path, image_folder: Path, label_folder: Path | None) -> Path:
    if label_folder is None:
        return labels_beside(path.parent) / f"{path.stem}.txt"
    if path.is_relative_to(image_folder):
        return label_folder / path.relative_to(image_folder).with_suffix(".txt")
    return label_folder / f"{path.stem}.txt"


def _rows(
    text: str, file: Path, size_hw: tuple[int, int], class_names: list[str], builder: AnnotationBuilder
) -> list[RawBox]:
    h, w = size_hw
    boxes: list[RawBox] = []
    for line, row in enumerate(text.splitlines(), 1):
        columns = row.split()
        if not columns:
            continue
        if len(columns) != 5:
            message = f"a row has 5 columns (class cx cy w h), this one has {len(columns)}; mend or remove it"
            builder.problem(file, line, "malformed", message)
            continue
        try:
            number, cx, cy, bw, bh = (float(column) for column in columns)
        except ValueError:
            message = f"a row is five numbers (class cx cy w h), got {row.strip()[:60]!r}; mend or remove it"
            builder.problem(file, line, "malformed", message)
            continue
        if not number.is_integer() or not 0 <= number < len(class_names):
            message = f"class {columns[0]} must be a whole number from 0 to {len(class_names) - 1}; mend or remove it"
            builder.problem(file, line, "bad_class", message)
            continue
        if max(abs(cx), abs(cy), bw, bh) > 2:  # a box that starts inside the image is at most 2 images away
            message = (
                f"cx cy w h must be fractions (0 to 1), got {' '.join(columns[1:])}; divide pixels by the image size"
            )
            builder.problem(file, line, "bad_box", message)
            continue
        corners = ((cx - bw / 2) * w, (cy - bh / 2) * h, (cx + bw / 2) * w, (cy + bh / 2) * h)
        boxes.append(RawBox(line, corners, class_names[int(number)]))
    return boxes
