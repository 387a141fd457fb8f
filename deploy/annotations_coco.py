"""COCO: one JSON file of images, boxes (x, y, width, height in pixels) and categories."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

from .annotation_builder import AnnotationBuilder, RawBox, read_text, require_class_names, require_folder
from .annotations import AnnotationSet

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
_LOCATED = ("images", "annotations")

Located = list[tuple[int, Any]]


def read_coco(annotation_file: Path, image_folder: Path, class_names: list[str] | None = None) -> AnnotationSet:
    """Read a COCO detection file; `file_name` is relative to `image_folder`.

    class_names: must be the file's categories, in any order; their order gives the class ids. Without them the ids
    follow the sorted category ids. `iscrowd` 1 becomes difficult. The image's own header decides its size.

    Raises FileNotFoundError, or ValueError with file and line where the JSON or its top level is wrong.
    """
    require_folder(image_folder, "image")
    top = _load(annotation_file)
    names = _categories(top.get("categories"), annotation_file)
    ordered = [names[key] for key in sorted(names)]
    if class_names is not None:
        require_class_names(class_names)
        missing, extra = sorted(set(ordered) - set(class_names)), sorted(set(class_names) - set(ordered))
        if missing or extra:
            raise ValueError(
                f"class_names must be the categories of {annotation_file}: not named {missing or 'none'}, "
                f"not in the file {extra or 'none'}; mend class_names or leave it out"
            )
    builder = AnnotationBuilder(class_names or ordered)
    images = _images(top["images"], annotation_file, image_folder, builder)
    for line, entry in top["annotations"]:
        _annotation(line, entry, annotation_file, names, images, builder)
    for path, size_hw, boxes in images.values():
        if path is not None:
            builder.add(path, size_hw, annotation_file, boxes)
    return builder.finish()


def _images(
    located: Located, file: Path, folder: Path, builder: AnnotationBuilder
) -> dict[int | str, tuple[Path | None, tuple[int, int], list[RawBox]]]:
    """Return path, size and an empty list of boxes by image id; path None where the image was left out."""
    images: dict[int | str, tuple[Path | None, tuple[int, int], list[RawBox]]] = {}
    for line, entry in located:
        key, name = (entry.get("id"), entry.get("file_name")) if isinstance(entry, dict) else (None, None)
        if not _is_id(key) or not isinstance(name, str) or not name.strip():
            builder.problem(file, line, "malformed", f"image {_short(entry)} must have an id and a file_name; mend it")
            continue
        if key in images:
            message = f"image id {key!r} ({name}) is given twice; the first is kept, give each image its own id"
            builder.problem(file, line, "duplicate_image", message)
            continue
        path = folder / name
        size_hw = builder.open_image(path, file, line)
        images[key] = (path if size_hw else None, size_hw or (0, 0), [])
        stated = (entry.get("height"), entry.get("width"))
        if size_hw and stated != (None, None) and stated != size_hw:
            message = (
                f"image {name} (id {key!r}) is said to be {stated[1]}x{stated[0]}, the file is "
                f"{size_hw[1]}x{size_hw[0]} (upright); the file is taken, mend width and height"
            )
            builder.problem(file, line, "wrong_size", message, fatal=False)
    return images


def _annotation(
    line: int,
    entry: Any,
    file: Path,
    names: dict[int, str],
    images: dict[int | str, tuple[Path | None, tuple[int, int], list[RawBox]]],
    builder: AnnotationBuilder,
) -> None:
    if not isinstance(entry, dict):
        builder.problem(file, line, "malformed", f"annotation {_short(entry)} must be an object; mend or remove it")
        return
    label = f"annotation {entry.get('id', '(no id)')!r}"
    image, category, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
    if not _is_id(image) or image not in images:
        message = f"{label}: image_id {_short(image)} is not among the images; mend or remove it"
        builder.problem(file, line, "unknown_image", message)
        return
    if not isinstance(category, int) or isinstance(category, bool) or category not in names:
        message = f"{label}: category_id {_short(category)} is not one of {sorted(names)}; mend or remove it"
        builder.problem(file, line, "bad_class", message)
        return
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(side) for side in box):
        message = f"{label}: bbox must be [x, y, width, height] in pixels, got {_short(box)}; mend or remove it"
        builder.problem(file, line, "malformed", message)
        return
    x, y, w, h = (_as_float(side) for side in box)
    crowd = bool(entry.get("iscrowd", 0))
    images[image][2].append(RawBox(line, (x, y, x + w, y + h), names[category], crowd, label))


def _categories(value: Any, file: Path) -> dict[int, str]:
    """Return category names by id. Raises ValueError: without sound categories no box has a meaning."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{file}: categories must be a list of {{id, name}}, got {_short(value)}; add it")
    names: dict[int, str] = {}
    for entry in value:
        key, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if not isinstance(key, int) or isinstance(key, bool) or not isinstance(name, str) or not name.strip():
            raise ValueError(f"{file}: a category must have a whole number id and a name, got {_short(entry)}; mend it")
        if key in names or name in names.values():
            raise ValueError(
                f"{file}: category {key} ({name}) has an id or a name that another has too; make both unique"
            )
        names[key] = name
    return names


def _load(file: Path) -> dict[str, Any]:
    """Parse the file; entries of `images` and `annotations` come as (1-based line, value)."""
    text = read_text(file)
    try:
        top = _parse_top(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno}); mend that line"
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deeply; a whole number of thousands of digits
        raise ValueError(f"{file}: cannot be read as JSON ({error}); write the file again") from error
    for key in _LOCATED:
        if key not in top:
            raise ValueError(f"{file}: has no {key!r} list, so it is not a COCO detection file; check the path")
    return top


def _parse_top(text: str) -> dict[str, Any]:
    """Walk the top-level object by hand: the json module forgets where each entry stood."""
    top: dict[str, Any] = {}
    position = _expect(text, _skip(text, 0), "{")
    if text[position : position + 1] == "}":
        return top
    while True:
        key, position = _DECODER.raw_decode(text, position)
        if not isinstance(key, str):
            raise json.JSONDecodeError("a name in double quotes is expected", text, position)
        position = _expect(text, _skip(text, position), ":")
        if key in _LOCATED:
            top[key], position = _parse_entries(text, position, key)
        else:
            top[key], position = _DECODER.raw_decode(text, position)
        position = _skip(text, position)
        if text[position : position + 1] == "}":
            if _skip(text, position + 1) != len(text):
                raise json.JSONDecodeError("there is more behind the end", text, position + 1)
            return top
        position = _expect(text, position, ",")


def _parse_entries(text: str, position: int, key: str) -> tuple[Located, int]:
    if text[position : position + 1] != "[":
        raise json.JSONDecodeError(f"{key!r} must be a list", text, position)
    position = _skip(text, position + 1)
    entries: Located = []
    line, counted = text.count("\n", 0, position) + 1, position
    if text[position : position + 1] == "]":
        return entries, position + 1
    decode: Callable[[str, int], tuple[Any, int]] = _DECODER.raw_decode
    while True:
        line, counted = line + text.count("\n", counted, position), position
        value, position = decode(text, position)
        entries.append((line, value))
        position = _skip(text, position)
        if text[position : position + 1] == "]":
            return entries, position + 1
        position = _expect(text, position, ",")


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _expect(text: str, position: int, sign: str) -> int:
    """Step over `sign` and the white space behind it."""
    if text[position : position + 1] != sign:
        raise json.JSONDecodeError(f"{sign!r} is expected", text, position)
    return _skip(text, position + 1)


def _is_id(value: Any) -> TypeGuard[int | str]:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number beyond the range of floats
        return float("inf") if value > 0 else float("-inf")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
