"""Truth: annotations of the present image beside what was found: hits, misses, false alarms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.annotations import AnnotatedImage, AnnotationSet, read_annotations
from deploy.annotations_yolo import labels_beside
from deploy.detections import Detections

HIT_IOU = 0.5


@dataclass(frozen=True, eq=False)
class Comparison:
    """Detections against the true boxes of one image, at one score.

    hit: (n,) bool, which detections are right. ignored: (n,) bool, those on difficult boxes, neither right nor wrong.
    missed: (m,) bool, which true boxes nobody found; difficult ones are never missed.
    """

    hit: np.ndarray
    ignored: np.ndarray
    missed: np.ndarray

    @property
    def counts(self) -> tuple[int, int, int]:
        """Hits, false alarms, misses."""
        return int(self.hit.sum()), int((~self.hit & ~self.ignored).sum()), int(self.missed.sum())

    @property
    def precision(self) -> float | None:
        """Share of counted detections that are right, None without any."""
        hits, false, _ = self.counts
        return hits / (hits + false) if hits + false else None

    @property
    def recall(self) -> float | None:
        """Share of true boxes that were found, None without any."""
        hits, _, missed = self.counts
        return hits / (hits + missed) if hits + missed else None


def compare(image: AnnotatedImage, found: Detections) -> Comparison:
    """Match as `deploy.metrics.match_counts` does, and say of each box what became of it.

    Best score first, a detection takes the free true box of its class that it overlaps most, from `HIT_IOU` up.
    """
    hit, ignored = np.zeros(len(found), bool), np.zeros(len(found), bool)
    free = ~image.difficult
    hard = image.difficult
    for i in np.argsort(-found.score, kind="stable").tolist():
        overlap = _iou(found.xyxy[i], image.xyxy)
        overlap[image.class_id != found.class_id[i]] = -1
        plain = np.where(free, overlap, -1)
        best = int(plain.argmax()) if len(plain) else -1
        if best >= 0 and plain[best] >= HIT_IOU:
            hit[i] = True
            free[best] = False
        else:
            ignored[i] = bool((overlap[hard] >= HIT_IOU).any())
    return Comparison(hit, ignored, free & ~hard)


def load_truth(path: Path, image: Path, class_names: list[str]) -> AnnotationSet:
    """Read annotations of any known format; which one is told by what `path` is.

    path: a COCO .json file, or a folder (or one file of it) of VOC .xml, YOLO .txt or DOTA .txt files. image: the
    present image; annotations of the images in its folder are read. class_names: of the bundle.

    Raises ValueError for a format that nobody knows, a file that cannot be parsed, class names that are not the
    bundle's, annotations that name none of the images, and such of which no box can be used; FileNotFoundError for
    what is missing.
    """
    kind, place = _format_of(path, image)
    images = image if image.is_dir() else image.parent
    names = class_names if kind in ("yolo", "dota") else None
    read = read_annotations(kind, annotations=place, images=images, class_names=names)
    unknown = [name for name in read.class_names if name not in class_names]
    if unknown and not set(read.class_names) & set(class_names):
        raise ValueError(
            f"{path}: its classes ({_listed(read.class_names)}) are not the bundle's ({_listed(class_names)}); "
            "open the bundle that was trained for them"
        )
    if not read.images:
        first = f" ({read.problems[0]})" if read.problems else ""
        raise ValueError(f"{path}: names no image of {images}{first}; choose the annotations of these images")
    if read.fatal and not any(len(entry.class_id) for entry in read.images):
        raise ValueError(
            f"{path}: none of its boxes can be used ({read.fatal[0]}); open the bundle that was trained for them"
        )
    return _in_terms_of(read, class_names)


def truth_of(truth: AnnotationSet, name: str) -> AnnotatedImage | None:
    """Return the annotations of an image by its path, or by its file name where the path is another; None: unknown."""
    path = Path(name)
    same = [entry for entry in truth.images if entry.path.name == path.name]
    exact = [entry for entry in same if entry.path.absolute() == path.absolute()]
    return next(iter(exact or same), None)


def _in_terms_of(read: AnnotationSet, class_names: list[str]) -> AnnotationSet:
    """Renumber classes as the bundle does; boxes of classes that it does not know are left out."""
    if read.class_names == class_names:
        return read
    place = np.array([class_names.index(n) if n in class_names else -1 for n in read.class_names], np.int32)
    images = []
    for entry in read.images:
        ids = place[entry.class_id] if len(entry.class_id) else entry.class_id
        known = ids >= 0
        images.append(AnnotatedImage(entry.path, entry.size_hw, entry.xyxy[known], ids[known], entry.difficult[known]))
    return AnnotationSet(images, class_names, read.problems)


def _format_of(path: Path, image: Path) -> tuple[str, Path]:
    if path.is_file() and path.suffix.lower() == ".json":
        return "coco", path
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder; choose annotations that exist")
    if any(folder.glob("*.json")) and not any(folder.glob("*.txt")) and not any(folder.glob("*.xml")):
        return "coco", min(folder.glob("*.json"))
    if any(folder.glob("*.xml")):
        return "voc", folder
    texts = [p for p in sorted(folder.glob("*.txt")) if p.name != "classes.txt"]
    if not texts and path.is_dir():
        beside = labels_beside(image if image.is_dir() else image.parent)
        texts = sorted(beside.glob("*.txt")) if beside.is_dir() else []
        folder = beside
    if not texts:
        raise ValueError(
            f"{path}: holds no annotations (.json of COCO, .xml of VOC, .txt of YOLO or DOTA); choose others"
        )
    return ("dota" if _is_dota(texts) else "yolo"), folder


def _is_dota(texts: list[Path]) -> bool:
    """Whether a line of eight corners and a class name, or DOTA's own header, comes before any YOLO row."""
    for text in texts[:50]:
        for line in text.read_text("utf-8", errors="replace").splitlines():
            if line.startswith(("imagesource:", "gsd:")):
                return True
            if line.strip():
                return len(line.split()) >= 9
    return False


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the overlap of one box (4,) with others (m, 4), (m,) float64."""
    a, b = box.astype(float), others.astype(float).reshape(-1, 4)
    size = np.clip(np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2]), 0, None)
    shared = size.prod(axis=1)
    total = (a[2:] - a[:2]).prod() + (b[:, 2:] - b[:, :2]).prod(axis=1) - shared
    return np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
