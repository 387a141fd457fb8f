"""Pascal VOC: one XML file per image, corners in whole pixels counted from 1, both ends inside the box."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from .annotation_builder import (
    AnnotationBuilder,
    RawBox,
    find_by_stem,
    index_by_stem,
    read_name_list,
    require_folder,
)
from .annotations import AnnotationSet
from .images import EXTENSIONS, list_images


@dataclass
class _Node:
    """An XML element with the line it starts in."""

    tag: str
    line: int
    text: str = ""
    children: list[_Node] = field(default_factory=list)

    def child(self, tag: str) -> _Node | None:
        return next((node for node in self.children if node.tag == tag), None)

    def value(self, tag: str) -> str:
        node = self.child(tag)
        return node.text.strip() if node else ""


def read_voc(
    annotation_folder: Path, image_folder: Path, class_names: list[str] | None = None, list_file: Path | None = None
) -> AnnotationSet:
    """Read every XML file of a folder, or those that `list_file` names (as in ImageSets/Main: the first word a line).

    A VOC box counts pixels from 1 and includes both ends, so it covers xmin - 1 to xmax in image coordinates (VOC2012
    development kit, section 3.3). class_names: the classes to know, in order; without them, those that occur, sorted.

    Raises FileNotFoundError, or ValueError with file and line where XML is malformed.
    """
    require_folder(annotation_folder, "annotation")
    require_folder(image_folder, "image")
    builder = AnnotationBuilder(class_names)
    by_stem = index_by_stem(list_images(image_folder))
    for source, line, file in annotation_files(annotation_folder, ".xml", list_file):
        if source is not None and not file.is_file():
            builder.problem(
                source, line, "malformed", f"annotation file {file} is not there; restore it or mend the list"
            )
            continue
        _file(file, image_folder, by_stem, builder)
    return builder.finish()


def annotation_files(folder: Path, suffix: str, list_file: Path | None) -> list[tuple[Path | None, int, Path]]:
    """Return (list file, its line, annotation file): all of a folder, sorted, or those listed by name, in list order.

    Raises ValueError where the folder holds none.
    """
    if list_file is not None:
        names = ((line, Path(name.split()[0])) for line, name in read_name_list(list_file))
        # A VOC name has no extension but may hold dots; only an image's extension is cut off.
        stems = (
            (line, name.stem if name.suffix.lower() in (*EXTENSIONS, suffix) else name.name) for line, name in names
        )
        return [(list_file, line, folder / f"{stem}{suffix}") for line, stem in stems]
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == suffix and path.is_file())
    if not files:
        raise ValueError(f"{folder}: holds no {suffix} file; name the folder of the annotations")
    return [(None, 0, path) for path in files]


def _file(file: Path, image_folder: Path, by_stem: dict[str, Path], builder: AnnotationBuilder) -> None:
    root = _parse(file)
    path = same_stem = find_by_stem(image_folder, file.stem, by_stem)
    named, line = root.child("filename"), 0
    if named and named.text.strip():
        path, line = image_folder / named.text.strip(), named.line
        if not path.is_file() and same_stem.is_file():
            message = (
                f"filename {path.name} is not there; {same_stem.name}, called like this file, is taken; mend filename"
            )
            builder.problem(file, line, "wrong_name", message, fatal=False)
            path = same_stem
    size_hw = builder.open_image(path, file, line)
    if size_hw is None:
        return
    size = root.child("size")
    stated = (size.value("height"), size.value("width")) if size else ("", "")
    if size and stated != ("", "") and stated != (str(size_hw[0]), str(size_hw[1])):
        message = (
            f"the image is said to be {stated[1]}x{stated[0]}, {path.name} is {size_hw[1]}x{size_hw[0]} (upright); "
            "the file is taken, mend size"
        )
        builder.problem(file, size.line, "wrong_size", message, fatal=False)
    boxes = [box for node in root.children if node.tag == "object" if (box := _object(node, file, builder))]
    builder.add(path, size_hw, file, boxes)


def _object(node: _Node, file: Path, builder: AnnotationBuilder) -> RawBox | None:
    name, corners = node.value("name"), node.child("bndbox")
    if not name:
        builder.problem(file, node.line, "malformed", "an object needs a name; mend or remove it")
        return None
    if corners is None:
        builder.problem(file, node.line, "malformed", f"object {name} has no bndbox; mend or remove it")
        return None
    texts = [corners.value(tag) for tag in ("xmin", "ymin", "xmax", "ymax")]
    try:
        x1, y1, x2, y2 = (float(text) for text in texts)
    except ValueError:
        message = f"object {name}: bndbox needs the numbers xmin, ymin, xmax, ymax, got {texts}; mend or remove it"
        builder.problem(file, corners.line, "malformed", message)
        return None
    difficult = node.value("difficult")
    if difficult not in ("", "0", "1"):
        message = f"object {name}: difficult must be 0 or 1, got {difficult!r}; taken as difficult, mend it"
        builder.problem(file, node.line, "malformed", message, fatal=False)
    return RawBox(corners.line, (x1 - 1, y1 - 1, x2, y2), name, difficult not in ("", "0"), f"object {name}")


def _parse(file: Path) -> _Node:
    """Parse one XML file with the line of each element, which ElementTree does not keep."""
    parser = expat.ParserCreate()
    root = _Node("", 0)
    stack = [root]

    def start(tag: str, _attributes: dict[str, str]) -> None:
        node = _Node(tag, parser.CurrentLineNumber)
        stack[-1].children.append(node)
        stack.append(node)

    def end(_tag: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].text += data

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    try:
        parser.Parse(file.read_bytes(), True)
    except expat.ExpatError as error:
        reason = expat.errors.messages[error.code]
        raise ValueError(
            f"{file}:{error.lineno}: not valid XML: {reason} (column {error.offset}); mend that line"
        ) from error
    if root.children[0].tag != "annotation":
        raise ValueError(
            f"{file}:1: the root element must be annotation, got {root.children[0].tag}; is this a VOC file?"
        )
    return root.children[0]
