"""Sifting: choose among what was found by score, overlap and class, without asking the network again.

The detector runs at a low floor and hands over every candidate above it, none suppressed. So each overlap threshold can
be tried afterwards, with exactly the boxes that a run at that threshold would have given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deploy.detections import Detections
from deploy.nms import nms
from deploy.tiling import Tile, merge

# No box below this score is ever kept; the slider begins here.
FLOOR_SCORE = 0.05
# What the app asks of `open_detector`. Nothing overlaps by more than 1, so nothing is suppressed.
CANDIDATES = {"score_threshold": FLOOR_SCORE, "iou_threshold": 1.0, "max_detections": 3000}
DEFAULT_SCORE, DEFAULT_IOU = 0.25, 0.7
# Boxes that one image keeps after suppression, as `rsedge detect` does.
MOST_BOXES = 300


@dataclass(frozen=True)
class Filters:
    """What of the findings is shown. score, iou: 0 to 1. hidden: class ids that are not wanted."""

    score: float = DEFAULT_SCORE
    iou: float = DEFAULT_IOU
    hidden: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for name in ("score", "iou"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")


@dataclass(frozen=True, eq=False)
class Candidates:
    """Everything that the network proposed above the floor, before suppression.

    parts: the candidates of each tile in the tile's own pixels, or of the one image. tiles: where they lie; empty for a
    single image. size_hw: of the whole image or scene.
    """

    parts: tuple[Detections, ...]
    size_hw: tuple[int, int]
    tiles: tuple[Tile, ...] = ()

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)


def suppress(candidates: Detections, iou: float) -> Detections:
    """Return what greedy suppression keeps of one image's candidates, best score first, at most `MOST_BOXES`."""
    if not len(candidates):
        return candidates
    return candidates.select(nms(candidates.xyxy, candidates.score, candidates.class_id, iou, MOST_BOXES))


def settle(candidates: Candidates, iou: float) -> Detections:
    """Suppress at `iou` within each tile and merge over the tiles; boxes in pixels of the whole, best score first."""
    if not candidates.tiles:
        return suppress(Detections.concat(candidates.parts), iou)
    kept = [suppress(part, iou) for part in candidates.parts]
    return merge(kept, candidates.tiles, candidates.size_hw)


def passing(found: Detections, filters: Filters) -> np.ndarray:
    """Return the rows that reach the score and whose class is wanted, ascending, (n,) intp."""
    keep = found.score >= np.float32(filters.score)
    if filters.hidden:
        keep &= ~np.isin(found.class_id, sorted(filters.hidden))
    return np.flatnonzero(keep)


def class_counts(found: Detections, class_count: int, score: float) -> np.ndarray:
    """Return how many boxes of each class reach the score, hidden classes too, (class_count,) int."""
    ids = found.class_id[found.score >= np.float32(score)]
    return np.bincount(ids[ids < class_count], minlength=class_count)


def score_histogram(found: Detections, hidden: frozenset[int], bins: int = 38) -> np.ndarray:
    """Return how many boxes of the wanted classes fall in each of `bins` equal steps from the floor to 1."""
    wanted = found.score[~np.isin(found.class_id, sorted(hidden))] if hidden else found.score
    return np.histogram(wanted, bins=bins, range=(FLOOR_SCORE, 1.0))[0]
