"""Augmentation properties: boxes follow the pixels, whatever is drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.augment import Sample, affine, clip_boxes, colour, mosaic, random_matrix, warp_boxes, warp_image
from train.recipe import Augment

SIZE = 96


def picture(box, hw=(60, 80)):
    """Draw one bright box on black: its true extent can be read off the pixels again."""
    image = np.zeros((*hw, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return Sample(image, np.array([box], np.float32), np.array([0], np.int32))


def extent(image):
    # The pad colour is 114, a bright pixel is at least half inside the box.
    ys, xs = np.nonzero(image[..., 0] > 184)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32)


boxes = st.tuples(st.integers(0, 40), st.integers(0, 30), st.integers(14, 39), st.integers(14, 29)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@settings(max_examples=60, deadline=None)
@given(boxes, st.integers(0, 10_000))
def test_the_box_follows_its_pixels_through_any_affine_change(box, seed):
    sample = picture(box)
    out = affine(np.random.default_rng(seed), sample, Augment(scale=0.3, translate=0.2), SIZE, SIZE / 80)
    if len(out.xyxy):
        np.testing.assert_allclose(out.xyxy[0], extent(out.image), atol=1.01)


@settings(max_examples=60, deadline=None)
@given(boxes, st.integers(0, 10_000))
def test_turned_boxes_contain_their_pixels(box, seed):
    out = affine(
        np.random.default_rng(seed), picture(box), Augment(degrees=45, shear=10, scale=0.1, translate=0), SIZE, 0.7
    )
    if len(out.xyxy):
        found = extent(out.image)
        assert (out.xyxy[0, :2] <= found[:2] + 1).all()
        assert (out.xyxy[0, 2:] >= found[2:] - 1).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_boxes_stay_inside_and_keep_their_class(seed):
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(4):
        n = int(rng.integers(0, 5))
        xy = rng.uniform(0, 60, (n, 2))
        parts.append(
            Sample(
                rng.integers(0, 255, (70, 96, 3), dtype=np.uint8),
                np.concatenate((xy, xy + rng.uniform(3, 30, (n, 2))), 1).astype(np.float32).reshape(-1, 4),
                rng.integers(0, 5, n).astype(np.int32),
            )
        )
    out = affine(rng, mosaic(rng, parts, SIZE), Augment(), SIZE, 1.0)
    assert out.image.shape == (SIZE, SIZE, 3)
    assert len(out.xyxy) == len(out.class_id) <= sum(len(p.xyxy) for p in parts)
    assert (out.xyxy >= 0).all()
    assert (out.xyxy <= SIZE).all()
    assert ((out.xyxy[:, 2:] - out.xyxy[:, :2]) >= 2).all()


def test_mosaic_shows_each_part_at_its_box():
    parts = [picture((10, 10, 30, 25)) for _ in range(4)]
    out = mosaic(np.random.default_rng(0), parts, SIZE)
    assert len(out.xyxy) == 4
    for x1, y1, x2, y2 in out.xyxy.astype(int):
        assert (out.image[y1:y2, x1:x2] == 255).all()


def test_all_eight_symmetries_are_drawn_equally():
    rng, seen = np.random.default_rng(0), {}
    plain = Augment(scale=0, translate=0)
    for _ in range(4000):
        m = random_matrix(rng, plain, (64, 64), 64, 1.0)
        key = tuple(np.round(m[:2, :2]).astype(int).flatten())
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 8
    assert min(seen.values()) > 400


def test_identity_changes_nothing():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(warp_image(image, np.eye(3), 32), image)
    box = np.array([[1, 2, 3, 4.5]], np.float32)
    np.testing.assert_array_equal(warp_boxes(box, np.eye(3)), box)


def test_no_boxes_pass_through():
    empty = Sample(np.zeros((20, 30, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int32))
    out = affine(np.random.default_rng(0), empty, Augment(), 32, 1.0)
    assert out.xyxy.shape == (0, 4)
    assert clip_boxes(empty.xyxy, 32)[1].shape == (0,)


def test_mostly_hidden_boxes_are_dropped():
    boxes = np.array([[-90, 0, 10, 50], [-10, 0, 90, 50], [0, 0, 1, 50]], np.float32)
    assert clip_boxes(boxes, 100)[1].tolist() == [False, True, False]


@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_colour_keeps_shape_and_can_be_off(grey):
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    out = colour(np.random.default_rng(1), image, Augment(grey=grey))
    assert out.shape == image.shape
    assert out.dtype == np.uint8
    if grey:
        assert (out[..., 0] == out[..., 2]).all()
    off = colour(np.random.default_rng(1), image, Augment(hue=0, saturation=0, value=0))
    np.testing.assert_array_equal(off, image)
