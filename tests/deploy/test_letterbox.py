"""Letterbox: round trips, borders, and writing into a buffer."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.letterbox import Letterbox

SIDE = st.integers(1, 5000)
MODEL_SIDE = st.sampled_from([32, 320, 512, 640, 1024])


@settings(max_examples=300, deadline=None)
@given(h=SIDE, w=SIDE, mh=MODEL_SIDE, mw=MODEL_SIDE, data=st.data())
def test_boxes_survive_the_round_trip(h, w, mh, mw, data):
    box = Letterbox.fit((h, w), (mh, mw))
    unit = st.floats(0, 1, width=32)
    xyxy = np.array(data.draw(st.lists(st.tuples(unit, unit, unit, unit), max_size=5)), np.float32).reshape(-1, 4)
    xyxy *= np.array([w, h, w, h], np.float32)
    inside = box.to_model(xyxy)
    assert inside.dtype == np.float32
    assert (inside >= -1e-3).all()
    assert (inside <= np.array([mw, mh, mw, mh]) + 1e-3).all()
    np.testing.assert_allclose(box.to_image(inside), xyxy, atol=1e-2)


@settings(max_examples=300, deadline=None)
@given(h=SIDE, w=SIDE, mh=MODEL_SIDE, mw=MODEL_SIDE)
def test_image_fills_one_axis_and_is_centred(h, w, mh, mw):
    box = Letterbox.fit((h, w), (mh, mw))
    rh, rw = box.resized_hw
    assert rh == mh or rw == mw
    assert 1 <= rh <= mh
    assert 1 <= rw <= mw
    assert 0 <= (mh - rh) - 2 * box.pad_top <= 1
    assert 0 <= (mw - rw) - 2 * box.pad_left <= 1
    whole = box.to_model(np.array([[0, 0, w, h]], np.float32))[0]
    np.testing.assert_allclose(
        whole, [box.pad_left, box.pad_top, box.pad_left + rw, box.pad_top + rh], atol=1e-2, rtol=1e-5
    )


def test_boxes_outside_are_clipped_to_the_image():
    box = Letterbox.fit((100, 200), (512, 512))
    np.testing.assert_allclose(box.to_image(np.array([[-50, -50, 600, 600]])), [[0, 0, 200, 100]])


@pytest.mark.parametrize("source_hw", [(1, 1), (1, 3000), (3000, 1), (7, 5), (1024, 1024), (512, 512), (300, 1000)])
def test_apply_writes_into_the_buffer_it_was_given(source_hw):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*source_hw, 3), dtype=np.uint8)
    box = Letterbox.fit(source_hw, (512, 512))
    # A slot of a batch, full of what an earlier image left there.
    batch = np.full((3, 512, 512, 3), 7, np.uint8)
    result = box.apply(image, out=batch[1])
    assert np.shares_memory(result, batch)
    assert (batch[[0, 2]] == 7).all()
    np.testing.assert_array_equal(batch[1], box.apply(image))
    (rh, rw), top, left = box.resized_hw, box.pad_top, box.pad_left
    sh, sw = source_hw
    exact = sh % rh == 0 and sw % rw == 0 and sh // rh == sw // rw
    expected = cv2.resize(image, (rw, rh), interpolation=cv2.INTER_AREA if exact else cv2.INTER_LINEAR)
    inside = np.zeros((512, 512), bool)
    inside[top : top + rh, left : left + rw] = True
    np.testing.assert_array_equal(batch[1][inside].reshape(rh, rw, 3), expected)
    assert (batch[1][~inside] == 114).all()


def test_apply_takes_views_of_a_scene():
    scene = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    tile = scene[10:210, 50:350]
    box = Letterbox.fit((200, 300), (320, 320))
    np.testing.assert_array_equal(box.apply(tile), box.apply(tile.copy()))
    mirrored = scene[:, ::-1]
    box = Letterbox.fit((300, 400), (320, 320))
    np.testing.assert_array_equal(box.apply(mirrored), box.apply(mirrored.copy()))


def test_whole_factors_average_every_pixel():
    image = np.zeros((8, 8, 3), np.uint8)
    image[::2, ::2] = 200
    np.testing.assert_array_equal(Letterbox.fit((8, 8), (4, 4)).apply(image), 50)


def test_bad_input_is_named():
    box = Letterbox.fit((10, 20), (64, 64))
    with pytest.raises(ValueError, match="at least 1 pixel, got image 20x0"):
        Letterbox.fit((0, 20), (64, 64))
    with pytest.raises(ValueError, match=r"image must be uint8 with shape \(10, 20, 3\)"):
        box.apply(np.zeros((20, 10, 3), np.uint8))
    with pytest.raises(ValueError, match="got float32"):
        box.apply(np.zeros((10, 20, 3), np.float32))
    with pytest.raises(ValueError, match=r"out must be uint8 with shape \(64, 64, 3\)"):
        box.apply(np.zeros((10, 20, 3), np.uint8), out=np.zeros((64, 32, 3), np.uint8))
