"""The true boxes of real pictures and videos, found beside them and told in a bundle's classes.

Three forms are known. Pictures: a COCO file in the same folder that lists them, or YOLO txt beside each picture with
the class names in a file `*.names` or `classes.txt`. Videos: `NAME*.json` beside NAME.mp4 with "frames" (how many) and
"annotations", each with `frame` (from 0), `category` and `bbox` (x, y, width, height in pixels).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.annotations import AnnotatedImage, AnnotationSet, read_annotations
from deploy.images import EXTENSIONS
from deploy.sources import VIDEO_EXTENSIONS

_LISTS_OF_NAMES = ("*.names", "classes.txt")


@dataclass(frozen=True, eq=False)
class Annotated:
    """A picture, or a video, with its true boxes. class_id points into the bundle's classes.

    truth: one entry for a picture, one per frame for a video (`size_hw` (0, 0): a video's frames tell their size).
    judged: the classes that its annotators drew; nothing is known about other classes in it.
    """

    path: Path
    truth: tuple[AnnotatedImage, ...]
    judged: frozenset[int]
    is_video: bool

    @property
    def boxes(self) -> int:
        """How many true boxes there are."""
        return sum(len(one.xyxy) for one in self.truth)


def mapping_of(words: Iterable[str]) -> dict[str, str]:
    """Return {annotated name: the bundle's name, "" to leave it out} of options `car=vehicle`. Raises ValueError."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, target = word.partition("=")
        if not equals or not name.strip():
            raise ValueError(
                f"--map must be ANNOTATED=BUNDLE, such as car=vehicle, or car= to leave it out; got {word!r}"
            )
        found[_plain(name)] = target.strip()
    return found


def read_annotated(path: Path, class_names: Sequence[str], mapping: Mapping[str, str]) -> list[Annotated]:
    """Return the annotated pictures and videos at a path: a folder's, or a single file.

    class_names: of the bundle. mapping: see `mapping_of`; names that are equal but for case, blanks and underscores
    need none. Raises FileNotFoundError for a missing path, ValueError for a folder without annotations, an annotation
    that cannot be used, and a class that is neither the bundle's nor mapped.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check --scenes")
    folder = path if path.is_dir() else path.parent
    wanted = {one for one in sorted(folder.iterdir()) if path.is_dir() or one == path}
    found = [_video(one, class_names, mapping) for one in sorted(wanted) if one.suffix.lower() in VIDEO_EXTENSIONS]
    pictures = {one.resolve() for one in wanted if one.suffix.lower() in EXTENSIONS}
    if pictures:
        found += _pictures(folder, pictures, class_names, mapping)
    if not found:
        raise ValueError(
            f"{path}: holds no picture or video with true boxes beside it; see `benchmarks.real_annotations`"
        )
    return found


def _pictures(
    folder: Path, wanted: set[Path], class_names: Sequence[str], mapping: Mapping[str, str]
) -> list[Annotated]:
    """Return those of the wanted pictures that an annotation file of their folder knows."""
    found = []
    for one in _annotation_sets(folder):
        names = one.class_names
        for image in one.images:
            if image.path.resolve() not in wanted or not len(image.xyxy):
                continue
            target = _targets((names[k] for k in np.unique(image.class_id)), class_names, mapping, image.path)
            ids = np.array([target[names[k]] for k in image.class_id], np.int32)
            kept = ids >= 0
            truth = AnnotatedImage(image.path, image.size_hw, image.xyxy[kept], ids[kept], image.difficult[kept])
            found.append(Annotated(image.path, (truth,), frozenset(ids[kept].tolist()), False))
    if not found:
        told = f"a COCO file, or YOLO txt with class names in {' or '.join(_LISTS_OF_NAMES)}"
        raise ValueError(f"{folder}: no true boxes beside its pictures; put {told} there")
    return found


def _annotation_sets(folder: Path) -> Iterable[AnnotationSet]:
    for file in sorted(folder.glob("*.json")):
        if _looks_like(file, "categories"):
            yield _checked(read_annotations("coco", annotations=file, images=folder), folder)
    for pattern in _LISTS_OF_NAMES:
        for file in sorted(folder.glob(pattern)):
            names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            yield _checked(read_annotations("yolo", annotations=folder, images=folder, class_names=names), folder)
            return


def _checked(found: AnnotationSet, folder: Path) -> AnnotationSet:
    """Return a set whose boxes could all be used: with one missing a recall would be of other boxes than it says."""
    bad = [problem for problem in found.fatal if not problem.kind.endswith("_image")]
    if bad:
        raise ValueError(f"{bad[0]}; {len(bad)} annotations in {folder.name} cannot be used, mend or remove them")
    return found


def _video(path: Path, class_names: Sequence[str], mapping: Mapping[str, str]) -> Annotated:
    files = [file for file in sorted(path.parent.glob(f"{path.stem}*.json")) if _looks_like(file, "frames")]
    if not files:
        raise ValueError(f"{path}: no true boxes beside it; put {path.stem}.json with frames and annotations there")
    raw = json.loads(files[0].read_text(encoding="utf-8"))
    rows: list[tuple[int, str, list[float]]] = []
    count = raw["frames"]
    for number, entry in enumerate(raw.get("annotations", [])):
        try:
            frame, name, box = int(entry["frame"]), str(entry["category"]), [float(v) for v in entry["bbox"]]
        except (KeyError, TypeError, ValueError):
            frame, name, box = -1, "", []
        if not 0 <= frame < count or len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
            raise ValueError(
                f"{files[0]}: annotation {number} must have frame (0 to {count - 1}), category and bbox (x, y, width, "
                f"height above 0), got {json.dumps(entry)[:80]}; mend it"
            )
        rows.append((frame, name, box))
    target = _targets({name for _, name, _ in rows}, class_names, mapping, path)
    kept = [(frame, target[name], box) for frame, name, box in rows if target[name] >= 0]
    truth = []
    for frame in range(count):
        own = [(k, box) for at, k, box in kept if at == frame]
        boxes = np.array([(x, y, x + w, y + h) for _, (x, y, w, h) in own], np.float32).reshape(-1, 4)
        ids = np.array([k for k, _ in own], np.int32)
        truth.append(AnnotatedImage(path, (0, 0), boxes, ids, np.zeros(len(own), bool)))
    return Annotated(path, tuple(truth), frozenset(k for _, k, _ in kept), True)


def _looks_like(file: Path, key: str) -> bool:
    try:
        raw: Any = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{file}: is not valid JSON ({str(error).splitlines()[0]}); mend or move it") from error
    if not isinstance(raw, dict) or key not in raw:
        return False
    if key == "frames" and (not isinstance(raw[key], int) or raw[key] < 1 or isinstance(raw[key], bool)):
        raise ValueError(f"{file}: frames must be the number of frames, 1 or more, got {raw[key]!r}; mend it")
    return True


def _targets(
    names: Iterable[str], class_names: Sequence[str], mapping: Mapping[str, str], where: Path
) -> dict[str, int]:
    """Return the bundle's class id of each annotated name, -1 for those that are left out on purpose."""
    known = {_plain(name): i for i, name in enumerate(class_names)}
    found = {}
    for name in names:
        wanted = mapping.get(_plain(name), name)
        if wanted and _plain(wanted) not in known:
            raise ValueError(
                f"{where}: class {wanted!r} is none of the bundle's ({', '.join(class_names)}); give --map "
                f"'{name}=CLASS', or --map '{name}=' to leave it out"
            )
        found[name] = known[_plain(wanted)] if wanted else -1
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()
