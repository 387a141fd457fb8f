"""Contestants: they agree on the boxes, take turns, and the gain points the right way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import ablation
from benchmarks.ablation import of_contexts, of_post_processing, of_release, queue_filled
from benchmarks.course import Course
from benchmarks.field import against_onnx_runtime, against_post_processing, dequantised, matched, opencv_detections
from benchmarks.in_turns import duel, timed_in_turns
from benchmarks.per_box_reference import per_box_detections
from benchmarks.postprocess_speed import draw_heads, quantise_heads
from benchmarks.throughput import Pace, due_times
from deploy.detections import Detections
from deploy.head_layout import HeadLayout
from deploy.letterbox import Letterbox
from deploy.postprocess import PostProcessor
from tests.benchmarks.emulated import HW, emulated_subject, manifest_of


@pytest.mark.parametrize("objects", [0, 1, 20])
@pytest.mark.parametrize("integers", [True, False])
def test_opencv_finds_what_the_plain_loop_finds(objects, integers):
    layout = HeadLayout.from_manifest(manifest_of())
    heads = draw_heads(layout, objects, 1, np.random.default_rng(objects))
    heads = quantise_heads(heads) if integers else heads
    box = Letterbox.fit((480, 640), HW)
    found, expected = opencv_detections(heads, layout, box), per_box_detections(heads, layout, box)
    order, wanted = np.lexsort(found.xyxy.T), np.lexsort(expected.xyxy.T)
    assert found.class_id[order].tolist() == expected.class_id[wanted].tolist()
    np.testing.assert_allclose(found.xyxy[order], expected.xyxy[wanted], atol=0.01)
    np.testing.assert_allclose(found.score[order], expected.score[wanted], atol=1e-5)


def test_dequantised_heads_decode_to_the_same_boxes():
    layout = HeadLayout.from_manifest(manifest_of())
    heads = quantise_heads(draw_heads(layout, 10, 1, np.random.default_rng(3)))
    decode = PostProcessor(layout)
    a, b = decode(heads)[0], decode(dequantised(heads, layout))[0]
    assert len(a) > 0
    np.testing.assert_allclose(a.xyxy, b.xyxy, atol=1e-3)


def test_matched_asks_for_place_and_class():
    def boxes(rows, classes):
        return Detections(np.array(rows, np.float32), np.ones(len(rows), np.float32), np.array(classes, np.int32))

    ours = boxes([[0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]], [0, 1, 2])
    other = boxes([[20, 20, 30, 30.5], [0, 0, 10, 10], [50, 50, 56, 60]], [1, 1, 2])
    assert matched(ours, other).tolist() == [False, True, False]
    assert matched(ours, Detections.empty()).tolist() == [False] * 3


def test_turns_are_whole_rounds_in_a_turning_order():
    calls: list[str] = []
    contestants = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    with Course() as course:
        times = timed_in_turns(contestants, course, rounds=3, seconds=10)
        assert calls == [*"abc", *"abc", *"bca", *"cab"]
        assert [len(values) for values in times.values()] == [3, 3, 3]
        course.stopped = True
        assert len(timed_in_turns(contestants, course, rounds=9, seconds=10)["a"]) == 1


def test_a_gain_is_of_one_round_and_larger_is_better():
    """A machine that slows down tenfold half-way changes no ratio."""
    pairs = [(1.0 * slow, 4.0 * slow) for slow in (1, 10) for _ in range(5)]
    less = duel("m", "ours", "other", "ms", pairs, less_is_better=True)
    assert (less.gain.value, less.gain.low, less.gain.high) == (4.0, 4.0, 4.0)
    assert duel("m", "ours", "other", "images/s", pairs, less_is_better=False).gain.value == 0.25
    assert duel("m", "ours", "other", "ms", pairs[:2], less_is_better=True).gain.low is None
    with pytest.raises(ValueError, match="no round was finished"):
        duel("m", "ours", "other", "ms", [], less_is_better=True)


def test_post_processing_rows(tmp_path):
    subject = emulated_subject(tmp_path)
    with Course() as course:
        rows = of_post_processing(subject, course, rounds=4, seconds=5)
        field = against_post_processing(subject, course, rounds=4, seconds=5)
    names = ["vectorised post-processing", "integer-domain threshold", "batched post-processing"]
    assert [row.measure for row in rows] == names
    # Thousands of cells in a Python loop: no machine is busy enough to hide that.
    assert rows[0].gain.value > 3
    assert [row.rounds for row in rows] == [4, 4, 4]
    assert len(field) == 2
    total = sum(len(PostProcessor(HeadLayout.from_manifest(subject.manifest))(h)[0]) for h in subject.heads)
    assert all(row.note.startswith(f"{total} of our {total} boxes") for row in field)


def test_contexts_use_the_cores(tmp_path):
    subject = emulated_subject(tmp_path, latency_ms=10.0)
    with Course() as course:
        rows = {row.measure: row for row in of_contexts(subject, course, rounds=1, seconds=0.2)}
        assert against_onnx_runtime(subject, course, rounds=1, seconds=1) == []
    assert 1.2 < rows["several threads"].gain.value < 4
    assert rows["two contexts per core"].other == "one context per core"


def test_a_filled_queue_gives_every_result_in_order_and_late(tmp_path):
    """A result leaves only when as many frames came after it as there are contexts: one of six at 50/s waits 100 ms."""
    subject = emulated_subject(tmp_path, latency_ms=3.0)
    with Course() as course:
        pace = Pace(subject.pictures.images, due_times(100, 12, "regular"), course)
        given = []
        numbers = []
        for result in queue_filled(subject, pace, subject.usual):
            numbers.append(result.frame.number)
            given.append(pace.given)
        assert numbers == list(range(12))
        assert given[:7] == [6, 7, 8, 9, 10, 11, 12]
        assert subject.npu.load.overlaps == 0
        row = of_release(subject, course, rounds=1, seconds=0.3, capacity_per_s=100)[0]
    assert row.other_value.value > 120
    assert row.gain.value > 2


def test_a_model_that_decodes_itself_has_no_rows(tmp_path):
    subject = replace(emulated_subject(tmp_path), heads=())
    with Course() as course:
        assert of_post_processing(subject, course, rounds=1, seconds=1) == []
        assert against_post_processing(subject, course, rounds=1, seconds=1) == []


@pytest.mark.parametrize("after", [4, 5, 6])
def test_a_stop_keeps_the_whole_rounds(tmp_path, monkeypatch, after):
    """Ctrl-C in the second round of three setups: the first round is reported, the second is none."""
    subject = emulated_subject(tmp_path, latency_ms=2.0)
    calls = 0

    def saturated(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == after:
            course.stopped = True
            raise KeyboardInterrupt
        return original(*arguments, **options)

    original = ablation.saturate
    monkeypatch.setattr(ablation, "saturate", saturated)
    with Course() as course:
        rows = of_contexts(subject, course, rounds=9, seconds=0.03)
    assert [row.rounds for row in rows] == [1, 1]
    assert calls == after


def test_a_stop_in_the_first_round_of_releases_compares_nothing(tmp_path, monkeypatch):
    subject = emulated_subject(tmp_path, latency_ms=2.0)

    def stopped(*arguments, **options):
        course.stopped = True
        raise KeyboardInterrupt

    monkeypatch.setattr(ablation, "timed_from_due", stopped)
    with Course() as course:
        assert of_release(subject, course, rounds=3, seconds=0.05, capacity_per_s=500) == []
