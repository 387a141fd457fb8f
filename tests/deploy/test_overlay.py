"""Drawn boxes: labels that stay inside, colours on the edge, any box without a failure."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.annotations import AnnotatedImage
from deploy.detections import Detections
from deploy.overlay import draw_boxes
from deploy.palette import class_colour, text_colour

NAMES = ["ship", "[plane]", "tank"]


def annotated(path, size_hw, rows):
    """rows: (x1, y1, x2, y2, class_id, difficult)."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return AnnotatedImage(path, size_hw, table[:, :4], table[:, 4].astype(np.int32), table[:, 5].astype(bool))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.lists(st.tuples(*[st.floats(-50, 110)] * 4), max_size=12))
def test_drawing_never_fails_and_leaves_the_image_alone(h, w, rows):
    image = np.full((h, w, 3), 90, np.uint8)
    boxes = annotated(Path("a"), (h, w), [(*row, i % 5, 0) for i, row in enumerate(rows)])
    drawn = draw_boxes(image, boxes, NAMES)
    assert drawn.shape == image.shape
    assert (image == 90).all()
    if not rows:
        np.testing.assert_array_equal(drawn, image)


def test_drawn_boxes_have_the_colour_of_their_class_on_their_edge():
    image = np.zeros((300, 400, 3), np.uint8)
    drawn = draw_boxes(image, annotated(Path("a"), (300, 400), [(100, 120, 220, 240, 2, 0)]), NAMES)
    rows = np.flatnonzero((drawn[180] == class_colour(2)).all(axis=1))
    assert rows.size
    assert all(min(abs(x + 0.5 - 100), abs(x + 0.5 - 220)) <= 2 for x in rows)
    assert not drawn[160:200, 140:200].any()


def test_drawing_refuses_what_does_not_fit():
    boxes = annotated(Path("a"), (9, 9), [(0, 0, 5, 5, 0, 0)])
    with pytest.raises(ValueError, match="image must be"):
        draw_boxes(np.zeros((9, 9)), boxes, NAMES)
    with pytest.raises(ValueError, match="one value per box"):
        draw_boxes(np.zeros((9, 9, 3), np.uint8), boxes, NAMES, np.ones(2))


def test_colours_are_distinct_and_stable():
    colours = [class_colour(i) for i in range(60)]
    assert len(set(colours)) == 60
    assert colours[0] == (230, 159, 0)
    assert all(0 <= c <= 255 for colour in colours for c in colour)
    with pytest.raises(ValueError, match="0 or above"):
        class_colour(-1)


@pytest.mark.parametrize("corner", [(0, 0), (380, 0), (0, 280), (380, 280), (190, 140)])
def test_labels_stay_inside_the_image_and_off_other_boxes(corner):
    image = np.zeros((300, 400, 3), np.uint8)
    x, y = corner
    box = np.array([[x, y, x + 20, y + 20]], np.float32)
    bare = draw_boxes(image, Detections(box, np.ones(1), np.zeros(1)), [""])
    named = draw_boxes(image, Detections(box, np.ones(1), np.zeros(1)), ["ship"])
    chip = np.argwhere((bare != named).any(axis=2))
    assert len(chip)
    height, width = chip.max(0) - chip.min(0) + 1
    assert width > 3 * 8  # "ship 100" is whole, not cut off by the edge
    assert 8 < height < 40
    inside = named[max(y, 0) + 4 : y + 16, x + 4 : x + 16]
    assert not inside.any()  # the object itself can be seen


def test_detections_show_their_score_and_unknown_classes_their_number():
    image = np.zeros((200, 300, 3), np.uint8)
    box = np.array([[50, 60, 120, 150]], np.float32)
    half = draw_boxes(image, Detections(box, [0.5], [0]), NAMES)
    assert (half != draw_boxes(image, Detections(box, [0.9], [0]), NAMES)).any()
    np.testing.assert_array_equal(half, draw_boxes(image, Detections(box, [0.9], [0]), NAMES, np.array([0.5])))
    draw_boxes(image, Detections(box, [0.5], [77]), NAMES)


def test_letters_can_be_read_on_every_colour():
    """WCAG 2.1 asks a contrast of 4.5 for small letters; near-black instead of black costs a little of it."""

    def luminance(colour):
        c = np.asarray(colour) / 255
        return float(np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))

    for class_id in range(100):
        dark, light = sorted((luminance(class_colour(class_id)), luminance(text_colour(class_colour(class_id)))))
        assert (light + 0.05) / (dark + 0.05) >= 4.0


def test_a_smaller_pen_leaves_small_boxes_open():
    """On a picture of 4000 pixels a box of 16 is filled by its line, unless the pen is that of a smaller picture."""
    image = np.zeros((400, 4000, 3), np.uint8)
    box = Detections([[2000, 200, 2016, 216]], [0.5], [0])
    inside = (slice(204, 212), slice(2004, 2012))
    assert draw_boxes(image, box, [""])[inside].any()
    thin = draw_boxes(image, box, [""], pen_side=640)
    assert not thin[inside].any()
    assert (thin[208, 1997:2003] == class_colour(0)).all(axis=1).any()
    same = draw_boxes(image, box, ["ship"], pen_side=4000)
    np.testing.assert_array_equal(same, draw_boxes(image, box, ["ship"]))
