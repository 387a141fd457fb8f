"""Pictures of what is distilled: regions and weights, attention of teacher and student, relations between objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy.annotations import AnnotatedImage
from deploy.images import read_image
from deploy.letterbox import Letterbox

from .dataset import pad_targets
from .distill import MethodDistillation, Regions, relations_of, spatial_attention
from .loss import Targets
from .model import STRIDES, Yolov8
from .plots import STYLE
from .teacher_student import Outputs, run_network

SHOWN = 3
# Ticks of a heat map of relations would overlap beyond this many objects.
NAMED_OBJECTS = 24


@torch.no_grad()
def draw_distillation(
    student: Yolov8,
    teacher: Yolov8,
    method: MethodDistillation,
    images: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    size: int,
    folder: Path,
) -> list[Path]:
    """Write masks.png, attention.png and relations.png for up to three images; returns the files written.

    method: carries the switches and the student's trained adapters. size: of the model's input, pixels.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    chosen = pick_varied(images)
    pixels, targets = _batch(chosen, size)
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    method, student, teacher = method.cpu().eval(), student.cpu().eval(), teacher.cpu().eval()
    theirs = run_network(teacher, x)
    ours = Outputs(method.adapters(run_network(student, x).maps), [])
    regions = {
        stride: method.regions(targets, stride, theirs.maps[stride], level) for level, stride in enumerate(STRIDES, 1)
    }
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figures = {
            "masks": _masks(plt, pixels, targets, regions),
            "attention": _attention(plt, pixels, theirs, ours),
            "relations": _relations(plt, targets, theirs, ours, regions, class_names),
        }
        written = []
        for name, figure in figures.items():
            if figure is not None:
                written.append(folder / f"distill_{name}.png")
                figure.savefig(written[-1])
                plt.close(figure)
    return written


def pick_varied(images: Sequence[AnnotatedImage], count: int = SHOWN) -> list[AnnotatedImage]:
    """Choose images whose objects differ most in size, with few enough of them to be told apart."""

    def spread(image: AnnotatedImage) -> float:
        wh = image.xyxy[:, 2:] - image.xyxy[:, :2]
        area = np.clip(wh.prod(1), 1, None)
        return float(area.max() / area.min()) if 2 <= len(area) <= 30 else 0.0

    return sorted(images, key=spread, reverse=True)[:count]


def _batch(chosen: Sequence[AnnotatedImage], size: int) -> tuple[list[np.ndarray], Targets]:
    """Letterbox the images and their boxes into the model's frame."""
    pixels, boxes = [], []
    for entry in chosen:
        image = read_image(entry.path)
        fit = Letterbox.fit(image.shape[:2], (size, size))
        pixels.append(fit.apply(image))
        boxes.append(fit.to_model(entry.xyxy[~entry.difficult]))
    return pixels, pad_targets(boxes, [e.class_id[~e.difficult] for e in chosen])


def _masks(plt: Any, pixels: list[np.ndarray], targets: Targets, regions: dict[int, Regions]) -> Any:
    """One row per image: the image with its boxes, then foreground weights and background on each level."""
    figure, axes = _grid(plt, len(pixels), 1 + len(STRIDES))
    largest = max(float(r.weight.max()) for r in regions.values()) or 1.0
    shown = None
    for row, image in enumerate(pixels):
        axes[row][0].imshow(image)
        for box in targets.xyxy[row][targets.valid[row]].tolist():
            axes[row][0].add_patch(
                plt.Rectangle(box[:2], box[2] - box[0], box[3] - box[1], fill=False, color="#F0E442", linewidth=1.2)
            )
        for column, (stride, region) in enumerate(regions.items(), 1):
            axis = axes[row][column]
            background = region.background[row].numpy()
            axis.imshow(np.where(background, 0.85, 0.45), cmap="gray", vmin=0, vmax=1)
            weight = np.ma.masked_equal(region.weight[row].numpy(), 0)
            shown = axis.imshow(weight, cmap="viridis", norm=plt.matplotlib.colors.LogNorm(0.05, max(largest, 1.0)))
            if not row:
                axis.set_title(f"stride {stride}")
    axes[0][0].set_title("image and boxes")
    figure.colorbar(shown, ax=[axis for row in axes for axis in row], shrink=0.7, label="weight of an object's cells")
    figure.suptitle("Foreground weights (colour), background (light), objects of other levels (dark)")
    return figure


def _attention(plt: Any, pixels: list[np.ndarray], theirs: Outputs, ours: Outputs) -> Any:
    """One row per image: teacher and student side by side on each level."""
    figure, axes = _grid(plt, len(pixels), 1 + 2 * len(STRIDES))
    for row, image in enumerate(pixels):
        axes[row][0].imshow(image)
        for level, stride in enumerate(STRIDES):
            pair = [spatial_attention(side.maps[stride])[row, 0].numpy() for side in (theirs, ours)]
            low, high = min(p.min() for p in pair), max(p.max() for p in pair)
            for side, (who, values) in enumerate(zip(("teacher", "student"), pair, strict=True)):
                axis = axes[row][1 + 2 * level + side]
                axis.imshow(values, cmap="magma", vmin=low, vmax=high)
                if not row:
                    axis.set_title(f"{who}, stride {stride}")
    axes[0][0].set_title("image")
    figure.suptitle("Spatial attention; each pair shares one scale")
    return figure


def _relations(
    plt: Any,
    targets: Targets,
    theirs: Outputs,
    ours: Outputs,
    regions: dict[int, Regions],
    class_names: Sequence[str],
) -> Any:
    """The cosines between the objects of the level that holds most of them: teacher, student, difference."""
    stride = max(regions, key=lambda s: int(regions[s].member.sum()))
    region = regions[stride]
    matrices = [relations_of(side.maps[stride], region)[0].numpy() for side in (theirs, ours)]
    if len(matrices[0]) < 2:
        return None
    labels = [class_names[int(c)].replace("_", " ") for c in targets.class_id[region.member]]
    order = np.argsort(labels, kind="stable")
    labels = [labels[i] for i in order]
    figure, axes = plt.subplots(1, 3, figsize=(14, 5.2), layout="constrained")
    gap = matrices[1] - matrices[0]
    for axis, (title, values) in zip(
        axes, (("teacher", matrices[0]), ("student", matrices[1]), ("student - teacher", gap)), strict=True
    ):
        shown = axis.imshow(values[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_title(title)
        if len(labels) <= NAMED_OBJECTS:
            axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
            axis.set_yticks(range(len(labels)), labels, fontsize=7)
        else:
            starts = [i for i, name in enumerate(labels) if not i or labels[i - 1] != name]
            axis.set_xticks(starts, [labels[i] for i in starts], rotation=90, fontsize=8)
            axis.set_yticks(starts, [labels[i] for i in starts], fontsize=8)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="cosine")
    rms = float(np.sqrt(np.mean(gap**2)))
    figure.suptitle(
        f"Relations between the {len(labels)} objects at stride {stride}, by class; root mean square gap {rms:.2f}"
    )
    return figure


def _grid(plt: Any, rows: int, columns: int) -> tuple[Any, Any]:
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.3 * columns + 0.8, 2.4 * rows + 0.5), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        for side in axis.spines.values():
            side.set_visible(False)
    return figure, axes
