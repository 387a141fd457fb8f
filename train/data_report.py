"""What annotations hold: counts, sizes, levels and problems, as figures, as tables and as a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.annotations import AnnotatedImage, AnnotationSet, Problem
from deploy.images import read_image
from deploy.letterbox import Letterbox
from deploy.overlay import draw_boxes
from deploy.palette import class_colour
from deploy.sinks import write_image

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
COCO_AREAS_PX = (32**2, 96**2)  # up to these a box is small, medium; COCO counts in pixels of the image
LISTED_PROBLEMS = 20

_CELL_HW = (360, 480)
_COLUMNS = 4
_GAP = 6
_BACKGROUND = 24


@dataclass(frozen=True)
class DataSummary:
    """The figures of one AnnotationSet.

    sizes are the square root of a box's area: in pixels of its image, and in model pixels after the letterbox to
    `image_size`; both by percentile (PERCENTILES), empty without boxes. boxes_per_level: by stride, the level that
    `box_levels` gives. coco_sizes: small, medium, large by area in image pixels. smallest_wh, largest_wh: the smallest
    and the largest width and height of any image. problems: how often each kind occurs.
    """

    images: int
    empty_images: int
    boxes: int
    difficult: int
    boxes_per_class: dict[str, int]
    images_per_class: dict[str, int]
    image_size: int
    smallest_wh: tuple[int, int]
    largest_wh: tuple[int, int]
    size_image_px: dict[int, float]
    size_model_px: dict[int, float]
    boxes_per_level: dict[int, int]
    coco_sizes: dict[str, int]
    outside: int
    clipped: int
    duplicates: int
    problems: dict[str, int]
    fatal_problems: int

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        return asdict(self)


def box_levels(wh: np.ndarray, model_wh: tuple[int, int], levels: int) -> np.ndarray:
    """Return the feature level of each box, 1 (finest) to `levels`: clamp(floor(L + log2(sqrt(w h / (W H)))), 1, L).

    wh: (n, 2) widths and heights in model pixels, above 0. Returns (n,) int64. The rule that feature pyramids use to
    share out boxes (Lin et al., CVPR 2017, equation 1), with the whole input on the coarsest level.
    """
    share = wh.astype(np.float64).prod(axis=1) / (model_wh[0] * model_wh[1])
    return np.clip(np.floor(levels + 0.5 * np.log2(share)), 1, levels).astype(np.int64)


def summarise(found: AnnotationSet, image_size: int, strides: Sequence[int] = (8, 16, 32)) -> DataSummary:
    """Count what an annotation set holds; `image_size` is the side of the model input in pixels."""
    if image_size < 1 or not strides:
        raise ValueError(f"image_size must be at least 1 and strides not empty, got {image_size} and {list(strides)}")
    names = found.class_names
    ids = np.concatenate([np.empty(0, np.int32), *(entry.class_id for entry in found.images)])
    empty = np.empty((0, 2))
    image_wh = np.concatenate([empty, *(_wh(entry.xyxy) for entry in found.images)])
    model_wh = np.concatenate([empty, *(_model_wh(entry, image_size) for entry in found.images)])
    level = box_levels(model_wh, (image_size, image_size), len(strides))
    coco = np.digitize(image_wh.prod(axis=1), COCO_AREAS_PX, right=True)
    size_hw = np.array([entry.size_hw for entry in found.images] or [(0, 0)])
    present = Counter(int(c) for entry in found.images for c in np.unique(entry.class_id))
    kinds = Counter(problem.kind for problem in found.problems)
    return DataSummary(
        images=len(found.images),
        empty_images=sum(len(entry.xyxy) == 0 for entry in found.images),
        boxes=len(ids),
        difficult=sum(int(entry.difficult.sum()) for entry in found.images),
        boxes_per_class={name: int((ids == i).sum()) for i, name in enumerate(names)},
        images_per_class={name: present[i] for i, name in enumerate(names)},
        image_size=image_size,
        smallest_wh=(int(size_hw[:, 1].min()), int(size_hw[:, 0].min())),
        largest_wh=(int(size_hw[:, 1].max()), int(size_hw[:, 0].max())),
        size_image_px=_percentiles(image_wh),
        size_model_px=_percentiles(model_wh),
        boxes_per_level={stride: int((level == i).sum()) for i, stride in enumerate(strides, 1)},
        coco_sizes={name: int((coco == i).sum()) for i, name in enumerate(("small", "medium", "large"))},
        outside=kinds["outside"],
        clipped=kinds["clipped"],
        duplicates=kinds["duplicate"],
        problems=dict(sorted(kinds.items())),
        fatal_problems=len(found.fatal),
    )


def print_summary(summary: DataSummary, problems: Sequence[Problem], console: Console) -> None:
    """Print the figures as tables; of the problems the first LISTED_PROBLEMS, those that cost data first."""
    s = summary
    console.print(_facts(s))
    classes = Table("class", title="boxes per class", title_justify="left", box=None, pad_edge=False)
    for header in ("boxes", "images", ""):
        classes.add_column(header, justify="left" if not header else "right")
    most = max([1, *s.boxes_per_class.values()])
    for class_id, (name, count) in enumerate(s.boxes_per_class.items()):
        red, green, blue = class_colour(class_id)
        bar = f"[rgb({red},{green},{blue})]{'━' * round(36 * count / most)}[/]"
        classes.add_row(escape(name), str(count), str(s.images_per_class[name]), bar)
    console.print(classes)
    if s.boxes:
        console.print(_sizes(s))
    _print_problems(s, problems, console)


def _facts(s: DataSummary) -> Table:
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column()
    facts.add_row("images", f"{s.images}, of them {s.empty_images} without a box")
    if s.images:
        (sw, sh), (lw, lh) = s.smallest_wh, s.largest_wh
        facts.add_row("image size", f"{sw} to {lw} pixels wide, {sh} to {lh} high")
    facts.add_row("boxes", f"{s.boxes}, of them {s.difficult} difficult (kept out of training and scoring)")
    facts.add_row("left out", f"{s.outside} outside their image, {s.duplicates} exact duplicates")
    facts.add_row("clipped", f"{s.clipped} reach over the image's edge")
    levels = ", ".join(f"{count} at stride {stride}" for stride, count in s.boxes_per_level.items())
    facts.add_row("feature level", f"{levels} (input {s.image_size}x{s.image_size})")
    facts.add_row("COCO sizes", ", ".join(f"{count} {name}" for name, count in s.coco_sizes.items()))
    return facts


def _sizes(s: DataSummary) -> Table:
    sizes = Table("box size in pixels", title="square root of the area, by percentile", title_justify="left", box=None)
    sizes.pad_edge = False
    for percentile in PERCENTILES:
        header = {0: "smallest", 50: "median", 100: "largest"}.get(percentile, f"{percentile} %")
        sizes.add_column(header, justify="right")
    sizes.add_row("of the image", *(f"{value:.1f}" for value in s.size_image_px.values()))
    sizes.add_row(f"of the model ({s.image_size})", *(f"{value:.1f}" for value in s.size_model_px.values()))
    return sizes


def _print_problems(s: DataSummary, problems: Sequence[Problem], console: Console) -> None:
    if not problems:
        console.print("[green]no problems[/green]")
        return
    console.print(f"[bold]{len(problems)} problems[/bold], {s.fatal_problems} of them cost a box or an image")
    for problem in sorted(problems, key=lambda p: not p.fatal)[:LISTED_PROBLEMS]:
        # Not wrapped: the first word must stay one file:line that a terminal can open.
        style = "red" if problem.fatal else "yellow"
        console.print(f"  {problem}", style=style, markup=False, highlight=False, soft_wrap=True)
    if len(problems) > LISTED_PROBLEMS:
        console.print(f"  ... and {len(problems) - LISTED_PROBLEMS} more", style="dim", highlight=False)
    by_kind = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in s.problems.items())
    console.print(f"by kind: {by_kind}", highlight=False)


def draw_samples(found: AnnotationSet, path: Path, count: int = 12, seed: int = 0) -> None:
    """Write a contact sheet of up to `count` images with their boxes, spread over the classes, rare ones first.

    Raises ValueError where the set has no image, OSError where the file cannot be written.
    """
    if not found.images:
        raise ValueError("no image to draw: every image was left out; see the problems")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    chosen = pick_samples(found, count, seed)
    rows = -(-len(chosen) // _COLUMNS)
    columns = min(_COLUMNS, len(chosen))
    h, w = _CELL_HW
    sheet_hw = (rows * (h + _GAP) + _GAP, columns * (w + _GAP) + _GAP)
    sheet = np.full((*sheet_hw, 3), _BACKGROUND, np.uint8)
    for index, entry in enumerate(chosen):
        top, left = (
            _GAP + position * (side + _GAP) for position, side in zip(divmod(index, columns), _CELL_HW, strict=True)
        )
        sheet[top : top + h, left : left + w] = _cell(entry, found.class_names)
    write_image(path, sheet)


def pick_samples(found: AnnotationSet, count: int, seed: int) -> list[AnnotatedImage]:
    """Pick up to `count` different images: in turn one for the class that has been shown least, then any."""
    order = np.random.default_rng(seed).permutation(len(found.images)).tolist()
    by_class: dict[int, list[int]] = {}
    for i in order:
        for class_id in np.unique(found.images[i].class_id).tolist():
            by_class.setdefault(class_id, []).append(i)
    shown: Counter[int] = Counter()
    chosen: list[int] = []
    while len(chosen) < min(count, len(order)):
        open_classes = {c: left for c, images in by_class.items() if (left := [i for i in images if i not in chosen])}
        if open_classes:
            rarest = min(open_classes, key=lambda c: (shown[c], len(by_class[c]), c))
            pick = open_classes[rarest][0]
        else:
            pick = next(i for i in order if i not in chosen)
        chosen.append(pick)
        shown.update(np.unique(found.images[pick].class_id).tolist())
    return [found.images[i] for i in chosen]


def _cell(entry: AnnotatedImage, class_names: Sequence[str]) -> np.ndarray:
    """Fit one image into a cell, then draw: lines and letters keep one size over the whole sheet."""
    fit = Letterbox.fit(entry.size_hw, _CELL_HW, _BACKGROUND)
    small = fit.apply(read_image(entry.path))
    boxes = AnnotatedImage(entry.path, _CELL_HW, fit.to_model(entry.xyxy), entry.class_id, entry.difficult)
    return draw_boxes(small, boxes, class_names)


def _wh(xyxy: np.ndarray) -> np.ndarray:
    return (xyxy[:, 2:] - xyxy[:, :2]).astype(np.float64)


def _model_wh(entry: AnnotatedImage, image_size: int) -> np.ndarray:
    return _wh(Letterbox.fit(entry.size_hw, (image_size, image_size)).to_model(entry.xyxy))


def _percentiles(wh: np.ndarray) -> dict[int, float]:
    if not len(wh):
        return {}
    values = np.percentile(np.sqrt(wh.prod(axis=1)), PERCENTILES)
    return {p: round(float(value), 2) for p, value in zip(PERCENTILES, values, strict=True)}
