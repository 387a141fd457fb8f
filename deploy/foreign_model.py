"""Find the layout of a model that others exported, from the shapes of its outputs; names decide nothing.

Three layouts are known, with nc classes:

- heads: per level a box output (4 x reg_max channels) and a class output (nc channels); six outputs for three levels;
- heads with score sums: the vendor zoo's nine outputs, where each level has a third output of one channel. It is not
  read: it is there to skip cells early, which the maximum over the classes, exact and 0.02 ms for an image, does as
  well, and in INT8 it is rounded on its own, so it can drop a cell whose best class is above the threshold;
- one output, 1 x (4 + nc) x N or transposed: boxes that the model decoded itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from .model_signature import REG_MAX, Output, Signature

_LEVELS = (4, 8, 16, 32, 64)
# Of segmentation models, whose boxes have so many mask coefficients more.
_MASKS = 32
_KNOWN = (
    "one output of 1 x (4 + classes) x boxes, or per level a box output of 4 x reg_max channels and a class output, "
    "with or without a score sum of 1 channel"
)


@dataclass(frozen=True)
class Level:
    """The outputs of one level. score_sum: there in nine-output models, not read."""

    stride: int
    box: Output
    classes: Output
    score_sum: Output | None = None


@dataclass(frozen=True)
class FoundLayout:
    """What the outputs are: `levels` by ascending stride, or `decoded`.

    reg_max: bins per side. transposed, boxes: of `decoded`. strides: those whose cells are so many boxes, if any.
    maybe_suppressed: the shapes fit a decoded output of two classes and one after suppression. notes: what was decided
    by more than shapes, for people to read.
    """

    levels: tuple[Level, ...] = ()
    decoded: Output | None = None
    reg_max: int = REG_MAX
    transposed: bool = False
    boxes: int = 0
    strides: tuple[int, ...] = ()
    maybe_suppressed: bool = False
    notes: tuple[str, ...] = ()

    @property
    def has_sums(self) -> bool:
        """Whether the levels have score sums."""
        return any(level.score_sum is not None for level in self.levels)

    def __str__(self) -> str:
        if self.decoded is not None:
            form = "boxes x (4 + classes)" if self.transposed else "(4 + classes) x boxes"
            at = f", the cells of strides {_list(self.strides)}" if self.strides else ""
            return f"one decoded output, {form}: {self.boxes} boxes{at}"
        count = len(self.levels) * (3 if self.has_sums else 2)
        sums = " and score sum (not read)" if self.has_sums else ""
        return f"{count} outputs: box, class{sums} at strides {_list(self.strides)}, {self.reg_max} bins a side"


def find_layout(signature: Signature, class_count: int, classes_file: str) -> FoundLayout:
    """Find out which output is what.

    classes_file: what the class count was read from, for messages. Raises ValueError that says what does not fit: the
    class count with both numbers, strides, kinds of models that rsedge does not read.
    """
    outputs, told = signature.outputs, str(signature.path)
    for output in outputs:
        if not output.shape or output.shape[0] != 1:
            raise ValueError(f"{told}: output {output} must have batch 1; export with batch=1")
    flat = [output for output in outputs if len(output.shape) == 3]
    maps = [output for output in outputs if len(output.shape) == 4]
    if flat and any(output.shape[1] == _MASKS for output in maps):
        raise ValueError(
            f"{told}: outputs {_list(outputs)} are those of a segmentation model (boxes and mask prototypes), rsedge "
            "reads detection models; export one without masks"
        )
    if len(outputs) == 1 and flat:
        return _decoded(signature, flat[0], class_count, classes_file)
    if maps and len(maps) == len(outputs):
        return _heads(signature, class_count, classes_file)
    raise ValueError(f"{told}: no known layout fits its outputs {_list(outputs)}; known: {_KNOWN}")


def _decoded(signature: Signature, output: Output, class_count: int, classes_file: str) -> FoundLayout:
    told, (_, rows, columns) = f"{signature.path}: output {output}", output.shape
    cells = {
        sum(signature.input_hw[0] // s * (signature.input_hw[1] // s) for s in strides): strides
        for strides in _stride_sets(signature.input_hw)
    }
    for boxes in (rows, columns):
        if boxes % 3 == 0 and boxes // 3 in cells and boxes not in cells:
            raise ValueError(
                f"{told} holds three boxes a cell, as models with anchor boxes and an objectness score have (YOLOv5, "
                "YOLOv7); rsedge reads models without anchor boxes, as YOLOv8 and later are"
            )
    if 4 + class_count in (rows, columns):
        transposed = rows != 4 + class_count
        boxes = rows if transposed else columns
        unsure = class_count == 2 and transposed and boxes not in cells
        return FoundLayout(
            decoded=output,
            transposed=transposed,
            boxes=boxes,
            strides=cells.get(boxes, ()),
            maybe_suppressed=unsure,
        )
    boxes, channels = (rows, columns) if rows in cells or (columns not in cells and rows > columns) else (columns, rows)
    if channels == 6 and boxes == rows and boxes not in cells:
        raise ValueError(
            f"{told} is what is left after suppression inside the model (corners, score, class), which the NPU cannot "
            "compute and rsedge does itself; export without it (nms=False, end2end=False)"
        )
    hint = ""
    if channels == 4 + class_count + 1:
        hint = " (one more than fits: an oriented-box model, whose angle rsedge does not read?)"
    elif channels == 4 + class_count + _MASKS:
        hint = f" ({_MASKS} more than fit: a segmentation model, which rsedge does not read?)"
    raise ValueError(
        f"{told} has 4 + {channels - 4} channels, so {channels - 4} classes, {classes_file} names {class_count}{hint}; "
        "give the names that the model was trained with"
    )


def _heads(signature: Signature, class_count: int, classes_file: str) -> FoundLayout:
    told, (height, width) = str(signature.path), signature.input_hw
    grids: dict[tuple[int, int], list[Output]] = defaultdict(list)
    for output in signature.outputs:
        grids[output.shape[2], output.shape[3]].append(output)
    levels: list[Level] = []
    notes: list[str] = []
    bins: dict[int, int] = {}
    for (rows, columns), outputs in sorted(grids.items(), reverse=True):
        if not rows or not columns or height % rows or width % columns or height // rows != width // columns:
            raise ValueError(
                f"{told}: output {outputs[0]} has {rows} x {columns} cells, the input of {height} x {width} pixels is "
                "no whole multiple of that, the same for height and width; export with NCHW outputs and an input size "
                "that is a multiple of every stride"
            )
        if len(outputs) not in (2, 3):
            joined = len(outputs) == 1 and outputs[0].shape[1] == 4 * REG_MAX + class_count
            hint = " (box and class joined: cut the model before the Concat)" if joined else ""
            raise ValueError(f"{told}: no known layout fits its outputs {_list(outputs)}{hint}; known: {_KNOWN}")
        level = _level(signature, height // rows, outputs, class_count, classes_file, notes)
        levels.append(level)
        bins[level.stride] = level.box.shape[1] // 4
    if len({level.score_sum is None for level in levels}) > 1:
        raise ValueError(f"{told}: each level must have a score sum or none, got {_list(signature.outputs)}")
    if len(set(bins.values())) > 1:
        raise ValueError(f"{told}: box outputs must have the same channels on each level, got 4 x {bins} by stride")
    return FoundLayout(
        levels=tuple(levels),
        reg_max=levels[0].box.shape[1] // 4,
        strides=tuple(level.stride for level in levels),
        notes=tuple(dict.fromkeys(notes)),
    )


def _level(
    signature: Signature, stride: int, outputs: list[Output], class_count: int, classes_file: str, notes: list[str]
) -> Level:
    """Tell box, class and score sum of one level apart by their channels."""
    told = f"{signature.path}: outputs {_list(outputs)}"
    rest, score_sum = list(outputs), None
    if len(outputs) == 3:
        single = [output for output in outputs if output.shape[1] == 1]
        if not single:
            raise ValueError(
                f"{told} have three per level, but none of them 1 channel as a score sum has; known: {_KNOWN}"
            )
        score_sum = single[-1]
        if len(single) == 2:  # of one class: the sum is that class's score, computed from it
            graph = signature.graph
            if graph is not None and graph.reaches(single[1].name, single[0].name):
                score_sum = single[0]
            notes.append("class and score sum both have 1 channel: the one computed from the other is the sum")
        rest.remove(score_sum)
    fits = [
        (box, classes)
        for box, classes in (rest, rest[::-1])
        if classes.shape[1] == class_count and box.shape[1] % 4 == 0 and 8 <= box.shape[1] <= 256
    ]
    if not fits:
        _refuse_level(told, rest, class_count, classes_file)
    if len(fits) == 2:
        notes.append(f"box and class both have {class_count} channels: the first of a level is taken as box")
    box, classes = fits[0]
    return Level(stride, box, classes, score_sum)


def _refuse_level(told: str, outputs: list[Output], class_count: int, classes_file: str) -> None:
    channels = [output.shape[1] for output in outputs]
    if sorted(channels) == sorted((4, class_count)):
        raise ValueError(
            f"{told} have a box output of 4 channels, distances without a distribution; rsedge reads 4 x reg_max "
            "channels with reg_max from 2, as YOLOv8 has"
        )
    if 4 * REG_MAX in channels:
        found = channels[1 - channels.index(4 * REG_MAX)]
        raise ValueError(
            f"{told} have a class output of {found} channels, so {found} classes, {classes_file} names {class_count}; "
            "give the names that the model was trained with"
        )
    raise ValueError(
        f"{told} must be a box output of 4 x reg_max channels and a class output of {class_count} channels, one for "
        f"each name in {classes_file}, got {channels[0]} and {channels[1]} channels"
    )


def _stride_sets(input_hw: tuple[int, int]) -> list[tuple[int, ...]]:
    """Return the sets of neighbouring strides that an input size allows, the usual (8, 16, 32) last."""
    sets = [_LEVELS[first:last] for first, last in combinations(range(len(_LEVELS) + 1), 2) if last - first > 1]
    fitting = [strides for strides in sets if not any(side % s for s in strides for side in input_hw)]
    return sorted(fitting, key=lambda strides: strides == (8, 16, 32))


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
