"""Session: what the app works on and what the user has chosen. Knows no Qt; windows show it and hold nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploy.annotations import AnnotatedImage, AnnotationSet
from deploy.detections import Detections
from deploy.georeference import Georeference
from deploy.manifest import Manifest

from .sifting import Candidates, Filters, class_counts, passing, score_histogram, settle
from .truth import Comparison, compare, truth_of

if TYPE_CHECKING:
    from .scene_pyramid import ScenePyramid

# Filters that can be taken back; older ones are forgotten.
MOST_UNDO = 100
# A scene of so many candidates is settled in the background: it takes longer than a frame of the screen.
SETTLE_AT_ONCE = 4000


@dataclass(frozen=True, eq=False)
class Picture:
    """One image, video frame or scene with everything that was found in it.

    name: of the source it came from. pixels: (h, w, 3) uint8 RGB; None for a scene, which `pyramid` shows.
    frame_number, timestamp_s: of a video or stream. number: its place in the source.
    """

    name: str
    size_hw: tuple[int, int]
    candidates: Candidates
    pixels: np.ndarray | None = None
    pyramid: ScenePyramid | None = None
    georeference: Georeference | None = None
    frame_number: int | None = None
    timestamp_s: float | None = None
    number: int = 0


class Session:
    """One bundle, what it looks at, and the user's choices.

    bundle, manifest: None until a bundle is open. source: what was opened last, as typed. picture: the one that is
    looked at. found: boxes of it above the floor, suppressed at the present overlap; rows: those that pass the filters.
    selected: a row of `found`, or None. album: images of a folder by name, in order, without pixels. truth: annotations
    that were opened.
    """

    def __init__(self) -> None:
        self.bundle: Path | None = None
        self.manifest: Manifest | None = None
        self.source: str | None = None
        self.picture: Picture | None = None
        self.found = Detections.empty()
        self.rows = np.empty(0, np.intp)
        self.selected: int | None = None
        self.filters = Filters()
        self.album: dict[str, Picture] = {}
        self.failures: dict[str, str] = {}
        self.truth: AnnotationSet | None = None
        self.comparison: Comparison | None = None
        self._past: list[Filters] = []
        self._future: list[Filters] = []
        self._settled_at: float | None = None

    @property
    def class_names(self) -> list[str]:
        """Names that `class_id` points into; empty without a bundle."""
        return list(self.manifest.class_names) if self.manifest else []

    @property
    def shown(self) -> Detections:
        """The boxes that pass the filters, in pixels of the picture."""
        return self.found.select(self.rows)

    @property
    def true_boxes(self) -> AnnotatedImage | None:
        """Annotations of the present picture, or None."""
        if self.truth is None or self.picture is None:
            return None
        return truth_of(self.truth, self.picture.name)

    # What is open.

    def use_bundle(self, bundle: Path, manifest: Manifest) -> None:
        """Take another bundle: what the old one found, and annotations in its terms, are gone."""
        if self.manifest is None or list(self.manifest.class_names) != list(manifest.class_names):
            self.truth = None
            self.filters = replace(self.filters, hidden=frozenset())
            self._past.clear()
            self._future.clear()
        self.bundle, self.manifest = bundle, manifest
        self.forget()

    def use_source(self, source: str) -> None:
        """Take another source; filters stay."""
        self.source = source
        self.forget()

    def forget(self) -> None:
        """Drop the picture and everything found."""
        self.picture, self.album, self.failures = None, {}, {}
        self.found, self.rows, self.selected = Detections.empty(), np.empty(0, np.intp), None
        self.comparison, self._settled_at = None, None

    def remember(self, picture: Picture) -> None:
        """Keep what was found in an image of a folder, without its pixels."""
        self.album[picture.name] = replace(picture, pixels=None, pyramid=None)

    def show(self, picture: Picture, found: Detections | None = None, iou: float | None = None) -> None:
        """Look at a picture. found: its candidates settled at overlap `iou`, where somebody has done that.

        The selection is kept where the same box is still there (a scene that grows), else dropped.
        """
        before = None if self.selected is None else self.found.xyxy[self.selected].copy()
        same = picture is self.picture or (
            self.picture is not None and self.picture.name == picture.name and picture.frame_number is None
        )
        self.picture = picture
        self.found = settle(picture.candidates, self.filters.iou) if found is None else found
        self._settled_at = self.filters.iou if found is None or iou is None else iou
        self.selected = None
        if before is not None and same and len(self.found):
            equal = np.flatnonzero((self.found.xyxy == before).all(axis=1))
            self.selected = int(equal[0]) if len(equal) else None
        self._sift()

    # What the user chooses.

    def set_filters(self, filters: Filters, *, undoable: bool = True) -> None:
        """Show what passes `filters`. undoable: False while a slider is still being dragged."""
        if filters == self.filters:
            return
        if undoable:
            self._past = [*self._past, self.filters][-MOST_UNDO:]
            self._future.clear()
        self._apply(filters)

    def note_filters(self, before: Filters) -> None:
        """Make one step of a drag that began at `before`, so that undo goes back there."""
        if before != self.filters:
            self._past = [*self._past, before][-MOST_UNDO:]
            self._future.clear()

    def undo(self) -> bool:
        """Go back to the filters before; False where there are none."""
        if not self._past:
            return False
        self._future.append(self.filters)
        self._apply(self._past.pop())
        return True

    def redo(self) -> bool:
        """Take an undo back; False where there is none."""
        if not self._future:
            return False
        self._past.append(self.filters)
        self._apply(self._future.pop())
        return True

    def select(self, row: int | None) -> None:
        """Select one of `found` by its row. Raises IndexError for a row that is not there."""
        if row is not None and not 0 <= row < len(self.found):
            raise IndexError(f"row must be 0 to {len(self.found) - 1}, got {row}")
        self.selected = row

    def box_at(self, x: float, y: float, slack_px: float = 0.0) -> int | None:
        """Return the row of the smallest shown box around a point of the picture, or None. slack_px: around boxes."""
        if not len(self.rows):
            return None
        boxes = self.found.xyxy[self.rows]
        low, high = boxes[:, :2] - slack_px, boxes[:, 2:] + slack_px
        inside = np.flatnonzero(((low <= (x, y)) & (high >= (x, y))).all(axis=1))
        if not len(inside):
            return None
        area = (boxes[inside, 2:] - boxes[inside, :2]).prod(axis=1)
        return int(self.rows[inside[area.argmin()]])

    def use_truth(self, truth: AnnotationSet | None) -> None:
        """Lay annotations over the pictures, or take them away."""
        self.truth = truth
        self._compare()

    @property
    def needs_settling(self) -> bool:
        """Whether the overlap threshold was moved and `found` still is what another one gave."""
        return self.picture is not None and self._settled_at != self.filters.iou

    def settled(self, found: Detections, picture: Picture, iou: float) -> bool:
        """Take what somebody settled in the background; False where it is out of date."""
        if picture is not self.picture or iou != self.filters.iou:
            return False
        self.show(picture, found, iou)
        return True

    # What is shown beside the picture.

    def counts(self) -> np.ndarray:
        """Boxes of each class that reach the score, hidden classes too, (classes,) int."""
        return class_counts(self.found, len(self.class_names), self.filters.score)

    def histogram(self) -> np.ndarray:
        """Boxes of the wanted classes by score, from the floor to 1."""
        return score_histogram(self.found, self.filters.hidden)

    def exported_pictures(self) -> list[Picture]:
        """Return what an export takes: all images of a folder, else the present picture."""
        return list(self.album.values()) if len(self.album) > 1 else [self.picture] if self.picture else []

    def _apply(self, filters: Filters) -> None:
        self.filters = filters
        if self.needs_settling and self.picture is not None and len(self.picture.candidates) <= SETTLE_AT_ONCE:
            self.show(self.picture)
        else:
            self._sift()

    def _sift(self) -> None:
        self.rows = passing(self.found, self.filters)
        if self.selected is not None and self.selected not in self.rows:
            self.selected = None
        self._compare()

    def _compare(self) -> None:
        truth = self.true_boxes
        self.comparison = None if truth is None else compare(truth, self.shown)
