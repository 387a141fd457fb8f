"""Which images calibrate, and what the converter is given."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.convert.calibration import choose_calibration, letterbox_images, write_dataset
from deploy.letterbox import Letterbox

class_lists = st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(classes=class_lists, count=st.integers(1, 40), seed=st.integers(0, 5))
def test_no_repeats_right_count_and_objects_first(classes: list[list[int]], count: int, seed: int) -> None:
    images = [np.array(ids, np.int32) for ids in classes]
    chosen = choose_calibration(images, count, seed)
    assert len(chosen) == len(set(chosen)) == min(count, len(images))
    assert chosen == choose_calibration(images, count, seed)
    empty = [not classes[index] for index in chosen]
    assert empty == sorted(empty), "images without objects come last"


@settings(max_examples=60, deadline=None)
@given(classes=class_lists, seed=st.integers(0, 5))
def test_every_class_has_a_turn(classes: list[list[int]], seed: int) -> None:
    present = {class_id for ids in classes for class_id in ids}
    if present:
        chosen = choose_calibration([np.array(ids, np.int32) for ids in classes], len(present), seed)
        # One turn each: an image that shows a class counts for it, so with as many images as classes none is left out,
        # unless all its images were drawn in the turns of others.
        assert {class_id for index in chosen for class_id in classes[index]} == present


def test_rare_classes_are_drawn_as_often_as_common_ones() -> None:
    images = [np.array([0])] * 90 + [np.array([1])] * 5 + [np.array([2])] * 5
    chosen = choose_calibration(images, 15, seed=3)
    assert [sum(int(images[index][0]) == class_id for index in chosen) for class_id in range(3)] == [5, 5, 5]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        choose_calibration([np.array([0])], 0, 0)
    with pytest.raises(ValueError, match="needs images"):
        choose_calibration([], 4, 0)


def test_images_are_letterboxed_as_at_inference(tmp_path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((50, 90), (128, 64), (1, 1))]
    paths = []
    for number, image in enumerate(images):
        paths.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(paths[-1]), image[..., ::-1])
    out = letterbox_images(paths, (64, 64), 7)
    assert out.shape == (3, 64, 64, 3)
    assert out.dtype == np.uint8
    for got, image in zip(out, images, strict=True):
        np.testing.assert_array_equal(got, Letterbox.fit(image.shape[:2], (64, 64), 7).apply(image))


def test_dataset_holds_planes_and_relative_names(tmp_path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 64, 3), dtype=np.uint8)
    listing, count = write_dataset(iter(images), tmp_path / "set", (32, 64))
    names = listing.read_text().split()
    assert count == len(names) == 3
    for name, image in zip(names, images, strict=True):
        stored = np.load(listing.parent / name)
        assert stored.dtype == np.uint8
        np.testing.assert_array_equal(stored[0].transpose(1, 2, 0), image)


def test_wrong_or_no_images_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="must be uint8 with shape"):
        write_dataset([np.zeros((32, 32, 3), np.float32)], tmp_path, (32, 32))
    with pytest.raises(ValueError, match="got none"):
        write_dataset([], tmp_path, (32, 32))
