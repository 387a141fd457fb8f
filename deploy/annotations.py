"""COCO, YOLO, Pascal VOC and DOTA annotations into one AnnotatedImage."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

FORMATS = ("coco", "yolo", "voc", "dota")


@dataclass(frozen=True)
class Problem:
    """Something wrong in an annotation file. line: 1-based, 0 where the whole file is meant.

    kind: "missing_image", "unreadable_image", "duplicate_image", "unknown_image", "wrong_size", "wrong_name" about
    images; "bad_box" (not finite), "empty_box" (no area), "outside", "clipped", "duplicate", "bad_class" about boxes;
    "malformed", "no_labels" about the file.
    fatal: the annotation could not be used (the box or image was left out).
    """

    file: Path
    line: int
    kind: str
    message: str
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """One image file and the objects on it.

    path: the image. size_hw: (height, width) in pixels, after EXIF rotation.
    xyxy: (n, 4) float32, corners in image pixels, inside the image. class_id: (n,) int32, zero-based.
    difficult: (n,) bool, kept out of training and ignored in scoring.
    """

    path: Path
    size_hw: tuple[int, int]
    xyxy: np.ndarray
    class_id: np.ndarray
    difficult: np.ndarray


@dataclass(frozen=True, eq=False)
class AnnotationSet:
    """What one reader returns: images in file order, class names by class_id, and what was wrong."""

    images: list[AnnotatedImage]
    class_names: list[str]
    problems: list[Problem] = field(default_factory=list)

    @property
    def fatal(self) -> list[Problem]:
        """The problems that cost a box or an image; the caller decides whether to go on without them."""
        return [problem for problem in self.problems if problem.fatal]


def read_annotations(
    format: str,
    *,
    annotations: Path,
    images: Path,
    class_names: list[str] | None = None,
    list_file: Path | None = None,
) -> AnnotationSet:
    """Read annotations of any format in FORMATS.

    annotations: the COCO file, or the folder of YOLO, VOC or DOTA files. images: the folder of the images.
    class_names: in the order of the class ids; YOLO needs them, the other formats bring names of their own.
    list_file: one image name a line (YOLO: also paths), to read only a part; not for COCO.

    Raises ValueError for an unknown format or a file that cannot be parsed, FileNotFoundError for one that is missing.
    Single bad boxes and images are kept in `problems` instead.
    """
    # Imported here because each reader needs the dataclasses above.
    from .annotations_coco import read_coco
    from .annotations_dota import read_dota
    from .annotations_voc import read_voc
    from .annotations_yolo import read_yolo

    if format == "coco":
        if list_file is not None:
            raise ValueError(f"list_file {list_file}: a COCO file names its images itself; leave list_file out")
        return read_coco(annotations, images, class_names)
    if format == "yolo":
        return read_yolo(images, annotations, class_names=class_names, list_file=list_file)
    if format == "voc":
        return read_voc(annotations, images, class_names, list_file)
    if format == "dota":
        return read_dota(annotations, images, class_names, list_file)
    raise ValueError(f"annotation format must be one of {', '.join(FORMATS)}, got {format!r}; mend data.format")
