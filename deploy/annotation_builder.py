"""Build an AnnotationSet: the checks that every annotation format shares, each failure kept with file and line."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .annotations import AnnotatedImage, AnnotationSet, Problem
from .images import image_size_hw

# Six decimals of a normalised coordinate are up to 0.015 px on a 20000 px scene: an overhang below this is rounding.
ROUNDING_PX = 0.1


@dataclass(frozen=True)
class RawBox:
    """One box as a file has it, before any check.

    line: 1-based. xyxy: corners in image pixels, any floats. label: how the file names it, for instance "annotation 7".
    """

    line: int
    xyxy: tuple[float, float, float, float]
    class_name: str
    difficult: bool = False
    label: str = "box"


class AnnotationBuilder:
    """Collect the images and raw boxes of one reader; `finish` checks the boxes and gives each class its number.

    class_names: the caller's, in their order; None takes the names that occur, sorted.
    """

    def __init__(self, class_names: list[str] | None) -> None:
        if class_names is not None:
            require_class_names(class_names)
        self._class_names = class_names
        self._pending: list[tuple[Path, tuple[int, int], Path, list[RawBox]]] = []
        self._first_entry: dict[Path, str] = {}
        self.problems: list[Problem] = []

    def problem(self, file: Path, line: int, kind: str, message: str, *, fatal: bool = True) -> None:
        """Keep a problem; `fatal` where the box or image it is about is left out."""
        self.problems.append(Problem(file, line, kind, message, fatal))

    def open_image(self, path: Path, file: Path, line: int) -> tuple[int, int] | None:
        """Return the image's (height, width) from its own header, or None with a problem where it cannot be used.

        file, line: the place in the annotations that names the image.
        """
        if path in self._first_entry:
            first = self._first_entry[path]
            self.problem(file, line, "duplicate_image", f"image {path} was named before ({first}); keep one of the two")
            return None
        try:
            size_hw = image_size_hw(path)
        except FileNotFoundError:
            self.problem(
                file, line, "missing_image", f"image {path} is not there; restore it or remove its annotations"
            )
            return None
        except (ValueError, OSError) as error:
            reason = str(error).removeprefix(f"{path}: ")
            self.problem(file, line, "unreadable_image", reason if file == path else f"image {path}: {reason}")
            return None
        self._first_entry[path] = f"{file}:{line}" if line else str(file)
        return size_hw

    def read_labels(self, file: Path) -> str | None:
        """Return the text of one image's label file, or None with a problem where it is not UTF-8."""
        data = file.read_bytes()
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            message = "not UTF-8 text, its image is left out; save the file as UTF-8"
            self.problem(file, _line_of(data, error.start), "malformed", message)
            return None

    def add(self, path: Path, size_hw: tuple[int, int], file: Path, boxes: list[RawBox]) -> None:
        """Take an image that `open_image` accepted, with its raw boxes from the annotation file `file`."""
        self._pending.append((path, size_hw, file, boxes))

    def finish(self) -> AnnotationSet:
        """Check every box and return the images in the order they were added, problems by file and line."""
        names = self._class_names
        if names is None:
            names = sorted({box.class_name for _, _, _, boxes in self._pending for box in boxes})
        class_ids = {name: index for index, name in enumerate(names)}
        images = [self._checked(*entry, class_ids) for entry in self._pending]
        self.problems.sort(key=lambda problem: (str(problem.file), problem.line))
        return AnnotationSet(images, list(names), self.problems)

    def _checked(
        self, path: Path, size_hw: tuple[int, int], file: Path, boxes: list[RawBox], class_ids: dict[str, int]
    ) -> AnnotatedImage:
        names = list(class_ids)
        rows: list[list[float]] = []
        ids: list[int] = []
        difficult: list[bool] = []
        seen: dict[tuple[float, ...], RawBox] = {}
        for box in boxes:
            if box.class_name not in class_ids:
                near = difflib.get_close_matches(box.class_name, names, 1)
                hint = f" (did you mean {near[0]!r}?)" if near else f" ({', '.join(names[:5])} ...)"
                message = f"{box.label}: class {box.class_name!r} is not among the {len(names)} classes{hint}; mend it"
                self.problem(file, box.line, "bad_class", message)
                continue
            corners = self._clipped(box, size_hw, file, path)
            if corners is None:
                continue
            key = (*corners, class_ids[box.class_name])
            if key in seen:
                first = seen[key]
                message = (
                    f"{box.label}: the same {box.class_name} box stands in line {first.line} ({first.label}); kept once"
                )
                self.problem(file, box.line, "duplicate", message, fatal=False)
                continue
            seen[key] = box
            rows.append(corners)
            ids.append(class_ids[box.class_name])
            difficult.append(box.difficult)
        xyxy = np.array(rows, np.float32).reshape(-1, 4)
        return AnnotatedImage(path, size_hw, xyxy, np.array(ids, np.int32), np.array(difficult, bool))

    def _clipped(self, box: RawBox, size_hw: tuple[int, int], file: Path, path: Path) -> list[float] | None:
        """Return the corners inside the image, rounded to float32, or None with a problem."""
        x1, y1, x2, y2 = box.xyxy
        h, w = size_hw
        shown = f"({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        if not all(math.isfinite(side) for side in box.xyxy):
            self.problem(
                file, box.line, "bad_box", f"{box.label}: corners {shown} must be finite numbers; mend or remove it"
            )
            return None
        if x2 <= x1 or y2 <= y1:
            message = f"{box.label}: {x2 - x1:g} wide and {y2 - y1:g} high, both must be above 0; mend or remove it"
            self.problem(file, box.line, "empty_box", message)
            return None
        inside = [max(x1, 0.0), max(y1, 0.0), min(x2, float(w)), min(y2, float(h))]
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            message = f"{box.label}: corners {shown} lie outside {path.name} ({w}x{h}); mend or remove it"
            self.problem(file, box.line, "outside", message)
            return None
        corners = [float(side) for side in np.array(inside, np.float32)]
        if corners[2] <= corners[0] or corners[3] <= corners[1]:
            message = (
                f"{box.label}: {x2 - x1:g} wide and {y2 - y1:g} high, too thin for a pixel grid; mend or remove it"
            )
            self.problem(file, box.line, "empty_box", message)
            return None
        overhang = max(-x1, -y1, x2 - w, y2 - h)
        if overhang > ROUNDING_PX:
            message = f"{box.label}: corners {shown} reach {overhang:g} px outside {path.name} ({w}x{h}); clipped"
            self.problem(file, box.line, "clipped", message, fatal=False)
        return corners


def require_class_names(class_names: list[str]) -> None:
    """Raise ValueError unless every class has a name of its own."""
    if not class_names:
        raise ValueError("class_names is empty; name at least one class")
    for index, name in enumerate(class_names):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"class_names[{index}] must be a name, got {name!r}; give each class one")
        if name in class_names[:index]:
            raise ValueError(f"class_names has {name!r} twice; each class needs a name of its own")


def require_folder(path: Path, what: str) -> None:
    """Raise FileNotFoundError or ValueError unless `path` is a folder."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such {what} folder; check the path")
    if not path.is_dir():
        raise ValueError(f"{path}: the {what} path must be a folder, it is a file; name the folder that holds it")


def read_text(path: Path) -> str:
    """Read UTF-8 text, with or without byte order mark. Raises FileNotFoundError, ValueError with file and line."""
    if path.is_dir():
        raise ValueError(f"{path}: a file is needed, this is a folder; name the file")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}:{_line_of(data, error.start)}: not UTF-8 text; save the file as UTF-8") from error


def _line_of(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def read_name_list(path: Path) -> list[tuple[int, str]]:
    """Read a list file: one image name a line, as (1-based line, name); empty lines and # comments are skipped.

    Raises FileNotFoundError, or ValueError where it names nothing.
    """
    lines = [(number, line.strip()) for number, line in enumerate(read_text(path).splitlines(), 1)]
    names = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not names:
        raise ValueError(f"{path}: names no image; write one name a line")
    return names


def find_by_stem(folder: Path, stem: str, index: dict[str, Path]) -> Path:
    """Return the image called `stem` from an index of `index_by_stem`, or where it should have been."""
    return index.get(stem, folder / f"{stem}.*")


def index_by_stem(images: list[Path]) -> dict[str, Path]:
    """Index images by file name without extension; the first of several wins."""
    index: dict[str, Path] = {}
    for path in images:
        index.setdefault(path.stem, path)
    return index
