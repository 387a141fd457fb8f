"""The session without any window: filters and their undo, selection, counts, truth."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.annotations import AnnotatedImage, AnnotationSet
from deploy.detections import Detections
from deploy.manifest import load_manifest
from deploy.metrics import match_counts
from gui.opening import PROCEDURAL
from gui.session import Picture, Session
from gui.sifting import Candidates, Filters
from gui.truth import compare

FOUND = Detections(
    np.array([[0, 0, 40, 40], [10, 10, 20, 20], [100, 100, 140, 150], [102, 101, 141, 149]]),
    np.array([0.9, 0.6, 0.5, 0.3]),
    np.array([0, 1, 2, 2]),
)


@pytest.fixture
def session() -> Session:
    session = Session()
    session.use_bundle(PROCEDURAL, load_manifest(PROCEDURAL))
    session.use_source("a.png")
    session.show(Picture("a.png", (200, 200), Candidates((FOUND,), (200, 200))))
    return session


def test_it_knows_no_qt() -> None:
    code = "import sys, gui.session, gui.running, gui.exporting, gui.truth; sys.exit('PyQt5' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_overlap_suppresses_and_score_sifts(session: Session) -> None:
    assert len(session.found) == 3  # the two last overlap by more than 0.7
    session.set_filters(Filters(iou=1.0))
    assert len(session.rows) == 4
    session.set_filters(Filters(score=0.55, iou=1.0))
    assert session.shown.score.tolist() == pytest.approx([0.9, 0.6])
    assert session.counts().tolist() == [1, 1, 0, 0, 0]


def test_undo_and_redo_walk_through_filters(session: Session) -> None:
    steps = [Filters(score=0.3), Filters(score=0.3, hidden=frozenset({0})), Filters(score=0.8, iou=0.5)]
    for step in steps:
        session.set_filters(step)
    for step in (steps[1], steps[0], Filters()):
        assert session.undo()
        assert session.filters == step
    assert not session.undo()
    assert session.redo()
    assert session.filters == steps[0]
    session.set_filters(Filters(score=0.9))  # a new step forgets what was taken back
    assert not session.redo()


def test_a_whole_drag_is_one_step(session: Session) -> None:
    before = session.filters
    for score in (0.3, 0.4, 0.5):
        session.set_filters(replace(before, score=score), undoable=False)
    session.note_filters(before)
    assert session.undo()
    assert session.filters == before
    assert not session.undo()


def test_a_click_takes_the_smallest_box_there(session: Session) -> None:
    assert session.box_at(15, 15) == 1
    assert session.box_at(5, 5) == 0
    assert session.box_at(60, 60) is None
    assert session.box_at(42, 5, slack_px=3) == 0
    session.set_filters(Filters(hidden=frozenset({1})))
    assert session.box_at(15, 15) == 0


def test_a_selected_box_that_is_filtered_out_is_no_longer_selected(session: Session) -> None:
    session.select(2)
    session.set_filters(Filters(score=0.45))
    assert session.selected == 2
    session.set_filters(Filters(score=0.55))
    assert session.selected is None
    with pytest.raises(IndexError):
        session.select(99)


def test_the_selection_follows_its_box_when_a_scene_grows(session: Session) -> None:
    session.select(1)
    more = Detections.concat([Detections(np.array([[50, 50, 60, 60]]), np.array([0.99]), np.array([3])), FOUND])
    session.show(Picture("a.png", (200, 200), Candidates((more,), (200, 200))))
    assert session.selected is not None
    assert session.found.xyxy[session.selected].tolist() == [10, 10, 20, 20]


def test_a_bundle_with_other_classes_drops_hidden_classes_and_truth(session: Session) -> None:
    session.set_filters(Filters(score=0.4, hidden=frozenset({0})))
    manifest = session.manifest
    assert manifest is not None
    session.use_bundle(PROCEDURAL, manifest)
    assert session.filters.hidden == {0}
    session.use_bundle(PROCEDURAL, manifest.model_copy(update={"class_names": ["a", "b"]}))
    assert session.filters == Filters(score=0.4)
    assert session.picture is None


def test_hits_and_misses_agree_with_the_metrics(session: Session) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        n, m = rng.integers(0, 12, 2)
        corner = rng.uniform(0, 60, (n + m, 2))
        boxes = np.hstack([corner, corner + rng.uniform(20, 40, (n + m, 2))])
        found = Detections(boxes[:n], rng.uniform(0.1, 1, n), rng.integers(0, 2, n))
        truth = AnnotatedImage(
            Path("a"),
            (100, 100),
            boxes[n:].astype(np.float32),
            rng.integers(0, 2, m).astype(np.int32),
            rng.random(m) < 0.3,
        )
        wanted = match_counts([truth], [found], 0.0).per_image[0]
        hits, false, missed = compare(truth, found).counts
        assert (hits, false, missed) == wanted


def test_truth_is_compared_at_the_present_threshold(session: Session) -> None:
    truth = AnnotatedImage(
        Path("/x/a.png"), (200, 200),
        np.array([[1, 1, 40, 40], [100, 100, 140, 150], [170, 170, 190, 190]], np.float32),
        np.array([0, 2, 0], np.int32), np.zeros(3, bool),
    )  # fmt: skip
    session.use_truth(AnnotationSet([truth], session.class_names))
    assert session.comparison is not None
    assert session.comparison.counts == (2, 1, 1)
    assert session.comparison.precision == pytest.approx(2 / 3)
    session.set_filters(Filters(score=0.8))
    assert session.comparison.counts == (1, 0, 2)
    session.use_truth(None)
    assert session.comparison is None
