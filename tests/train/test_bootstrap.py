"""Bootstrap figures against the COCO library on really repeated images, and intervals against known spreads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.annotations import AnnotatedImage
from deploy.detections import Detections
from deploy.metrics import score_detections
from train.bootstrap import (
    SIZES,
    average_precision,
    class_precision,
    draw_images,
    match_images,
    paired_bootstrap,
)

NAMES = ["plane", "ship", "tank", "never there"]


def draw(seed, images=8, difficult=0.0, per_image=12, steps=None):
    """Draw truth of all sizes and detections that follow it loosely; some images without the one or the other.

    steps: round scores to so many steps, so that many are equal.
    """
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for i in range(images):
        n = 0 if i % 4 == 1 else int(rng.integers(1, per_image))
        corner, size = rng.uniform(0, 300, (n, 2)), np.exp(rng.uniform(2, 5, (n, 2)))
        boxes = np.concatenate([corner, corner + size], axis=1)
        classes = rng.integers(0, 3, n)
        truth.append(
            AnnotatedImage(
                Path(f"{i}.jpg"),
                (400, 600),
                boxes.astype(np.float32),
                classes.astype(np.int32),
                rng.random(n) < difficult,
            )
        )
        near = np.repeat(boxes + rng.normal(0, 0.06, boxes.shape) * np.tile(size, 2), 2, axis=0)
        corner = rng.uniform(0, 300, (3, 2))
        stray = np.concatenate([corner, corner + rng.uniform(8, 90, (3, 2))], axis=1)
        rows = np.concatenate([near, stray]) if i % 4 != 2 else np.empty((0, 4))
        ids = np.concatenate([np.where(rng.random(2 * n) < 0.85, classes.repeat(2), 0), rng.integers(0, 3, 3)])
        scores = rng.uniform(0, 1, len(rows))
        if steps:
            scores = np.ceil(scores * steps) / steps
        found.append(Detections(rows, scores, ids[: len(rows)]))
    return truth, found


def library(truth, found, **options):
    """Return the library's (mAP50, mAP50-95), and by size mAP50-95 with NaN where there is nothing to find."""
    accuracy = score_detections(truth, found, NAMES, **options)
    sizes = {name: getattr(accuracy, name) for name in ("small", "medium", "large")}
    return (accuracy.map50, accuracy.map50_95), sizes, accuracy


@pytest.mark.parametrize("difficult", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_weights_of_one_equal_the_library(seed, difficult):
    truth, found = draw(seed, difficult=difficult)
    matches = match_images(truth, found, len(NAMES))
    ones = np.ones((1, len(truth)), int)
    expected, sizes, accuracy = library(truth, found)
    np.testing.assert_allclose(average_precision(matches, ones)[0], expected, atol=1e-9)
    for size, value in sizes.items():
        np.testing.assert_allclose(average_precision(matches, ones, size)[0, 1], value or 0.0, atol=1e-9)
    by_class = class_precision(matches, ones)[0]
    for k, name in enumerate(NAMES):
        figures = [accuracy.per_class[name][key] for key in ("map50", "map50_95")]
        ours = [by_class[0, k], by_class[:, k].mean()]
        np.testing.assert_allclose(ours, [np.nan if f is None else f for f in figures], atol=1e-9)
    assert 0.05 < expected[1] < expected[0] < 1


def test_equal_scores_keep_the_librarys_order():
    truth, found = draw(7, images=12, difficult=0.2, steps=4)
    expected, _, _ = library(truth, found)
    ours = average_precision(match_images(truth, found, len(NAMES)), np.ones((1, 12)))
    np.testing.assert_allclose(ours[0], expected, atol=1e-9)


def test_overlaps_that_are_exactly_equal_or_at_the_threshold():
    """Two true boxes in the same place, a detection of IoU exactly 0.5 and 0.75, a crowd below both."""
    boxes = np.array([[0, 0, 40, 40], [0, 0, 40, 40], [100, 100, 140, 140], [0, 0, 60, 60]], np.float32)
    truth = [AnnotatedImage(Path("a"), (200, 200), boxes, np.zeros(4, np.int32), np.array([0, 0, 0, 1], bool))]
    rows = np.array([[0, 0, 40, 20], [0, 0, 40, 30], [0, 0, 40, 40], [100, 100, 140, 130], [5, 5, 9, 9]])
    found = [Detections(rows, np.array([0.9, 0.8, 0.7, 0.6, 0.95]), np.zeros(5))]
    expected, sizes, _ = library(truth, found)
    matches = match_images(truth, found, len(NAMES))
    np.testing.assert_allclose(average_precision(matches, [[1]])[0], expected, atol=1e-9)
    np.testing.assert_allclose(average_precision(matches, [[1]], "medium")[0, 1], sizes["medium"], atol=1e-9)


@pytest.mark.parametrize("limit", [1, 5])
def test_the_limit_of_detections_per_image_and_class(limit):
    truth, found = draw(3)
    expected, _, _ = library(truth, found, max_detections=limit)
    ours = average_precision(match_images(truth, found, len(NAMES), limit), np.ones((1, 8)))
    np.testing.assert_allclose(ours[0], expected, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), weights=st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_a_weight_is_a_repeated_image(seed, weights):
    truth, found = draw(seed, difficult=0.15, per_image=6)
    # Copies stand side by side, as equal scores are taken in the order of the images.
    repeated = [i for i, w in enumerate(weights) for _ in range(w)]
    expected, sizes, _ = library([truth[i] for i in repeated], [found[i] for i in repeated])
    matches = match_images(truth, found, len(NAMES))
    np.testing.assert_allclose(average_precision(matches, [weights])[0], expected, atol=1e-9)
    for size, value in sizes.items():
        np.testing.assert_allclose(average_precision(matches, [weights], size)[0, 1], value or 0.0, atol=1e-9)


def test_many_resamples_equal_one_by_one(monkeypatch):
    truth, found = draw(4, difficult=0.2)
    matches = match_images(truth, found, len(NAMES))
    weights = draw_images(8, 30)
    one_by_one = np.concatenate([average_precision(matches, w[None]) for w in weights])
    np.testing.assert_allclose(average_precision(matches, weights), one_by_one, atol=1e-12)
    monkeypatch.setattr("train.bootstrap._CHUNK_VALUES", 500)
    np.testing.assert_allclose(average_precision(matches, weights), one_by_one, atol=1e-12)
    np.testing.assert_allclose(average_precision(matches, weights * 0.5), one_by_one, atol=1e-12)


def test_nothing_to_find_and_nothing_found():
    truth, found = draw(0)
    nothing = [Detections.empty()] * 8
    ones = np.ones((2, 8))
    assert (average_precision(match_images(truth, nothing, len(NAMES)), ones) == 0).all()
    empty = [AnnotatedImage(t.path, t.size_hw, t.xyxy[:0], t.class_id[:0], t.difficult[:0]) for t in truth]
    matches = match_images(empty, found, len(NAMES))
    assert (average_precision(matches, ones) == 0).all()
    assert np.isnan(class_precision(matches, ones)).all()
    # Image 1 has no true box: a data set of it alone leaves no class to take the mean of.
    alone = np.eye(8)[[1]]
    assert (average_precision(match_images(truth, found, len(NAMES)), alone) == 0).all()


def test_what_match_images_keeps():
    truth, found = draw(2, difficult=0.3)
    matches = match_images(truth, found, len(NAMES))
    assert matches.images == 8
    assert sum(len(c.score) for c in matches.classes) == sum(len(f) for f in found)
    for k, each in enumerate(matches.classes):
        assert (np.diff(each.score) <= 0).all()
        assert each.tp.shape == each.ignored.shape == (len(SIZES), 10, len(each.score))
        assert not (each.tp & each.ignored).any()
        counted = [int(((t.class_id == k) & ~t.difficult).sum()) for t in truth]
        assert each.boxes[0].tolist() == counted
        assert (each.tp[0].sum(axis=1) <= sum(counted)).all()


def test_draws_are_whole_data_sets_and_repeatable():
    weights = draw_images(50, 2000, seed=3)
    assert (weights.sum(axis=1) == 50).all()
    # A binomial count of 50 draws at 1/50: mean 1, variance 0.98.
    assert weights.mean() == 1
    assert weights.var() == pytest.approx(0.98, rel=0.02)
    np.testing.assert_array_equal(weights, draw_images(50, 2000, seed=3))


def test_interval_of_a_mean_is_the_textbook_one():
    """With a mean in the place of mAP the interval must be mean ± 1.96 standard errors."""
    rng = np.random.default_rng(1)
    values = rng.normal(0.3, 2, 400)
    resampled = (draw_images(400, 4000) @ values / 400)[None, :, None]
    (found,) = paired_bootstrap(resampled, np.zeros_like(resampled), [[values.mean()]], [[0]])
    error = values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)
    from scipy.stats import norm

    assert found.p == pytest.approx(2 * norm.sf(abs(values.mean()) / error), abs=0.02)
    assert found.covers == "images"


def test_seeds_widen_the_interval():
    rng = np.random.default_rng(0)
    seeds = np.array([-3.0, -1.0, 1.0, 3.0, 5.0])
    a = (rng.normal(0, 0.01, (1, 5000)) + seeds[:, None])[..., None]
    (found,) = paired_bootstrap(a, np.zeros_like(a), seeds[:, None], np.zeros((5, 1)))
    # The mean of 5 draws of the 5 seeds, whose population variance is 8: standard error sqrt(8 / 5).
    assert (found.value, found.covers) == (1, "images and seeds")
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.sqrt(8 / 5), rel=0.06)
    # Paired: what a seed does to both sides cancels.
    (same,) = paired_bootstrap(a + 0.5, a, seeds[:, None] + 0.5, seeds[:, None])
    assert (same.low, same.high) == pytest.approx((0.5, 0.5))


def test_p_is_never_zero_and_never_above_one():
    ahead = np.ones((1, 99, 2))
    assert [d.p for d in paired_bootstrap(ahead, ahead * 0, [[1, 1]], [[0, 0]])] == [0.02, 0.02]
    assert [d.p for d in paired_bootstrap(ahead, ahead, [[1, 1]], [[1, 1]])] == [1, 1]
    one, other = (paired_bootstrap(s * ahead, ahead * 0, [[s, s]], [[0, 0]])[0] for s in (1, -1))
    assert (one.p, one.low, one.high) == (other.p, -other.high, -other.low)


def test_what_does_not_fit_is_refused():
    truth, found = draw(0)
    matches = match_images(truth, found, len(NAMES))
    with pytest.raises(ValueError, match="one per annotated image, got 7 for 8"):
        match_images(truth, found[:7], len(NAMES))
    with pytest.raises(ValueError, match="class_id must be 0 to 1, got 0 to 2"):
        match_images(truth, found, 2)
    with pytest.raises(ValueError, match=r"weights must have shape \(resamples, 8\), got \(8,\)"):
        average_precision(matches, np.ones(8))
    with pytest.raises(ValueError, match="weights must be 0 or more, got -1"):
        average_precision(matches, -np.ones((1, 8)))
    with pytest.raises(ValueError, match="size must be one of all, small, medium, large, got 'tiny'"):
        average_precision(matches, np.ones((1, 8)), "tiny")
    with pytest.raises(ValueError, match="got 0 images"):
        draw_images(0, 10)
    with pytest.raises(ValueError, match="same shape"):
        paired_bootstrap(np.ones((2, 9, 2)), np.ones((3, 9, 2)), np.ones((2, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"observed figures must have shape \(2, 2\), got \(3, 2\)"):
        paired_bootstrap(np.ones((2, 9, 2)), np.ones((2, 9, 2)), np.ones((3, 2)), np.ones((3, 2)))
