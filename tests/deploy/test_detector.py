"""Detector: stages in the right order, batches that fit the backend, clocks, errors."""

from __future__ import annotations

import hashlib
import sys
import types

import numpy as np
import pytest

from deploy.detector import Detector, open_detector
from deploy.head_layout import HeadLayout
from deploy.letterbox import Letterbox
from deploy.manifest import Head, Manifest, ModelFile
from deploy.postprocess import PostProcessor

MANIFEST = Manifest(
    name="fake",
    class_names=["bright", "dark"],
    input_hw=(64, 96),
    pad_value=80,
    heads=[Head(stride=s, box_output=f"b{s}", class_output=f"c{s}") for s in (8, 16, 32)],
    precision="fp32",
    files={"onnx": ModelFile(name="model.onnx", sha256=hashlib.sha256(b"model").hexdigest())},
)


class BrightSpots:
    """A backend that finds a box of 2 x 2 cells around every cell of stride 8 whose mean is above 200."""

    name = "fake"

    def __init__(self, batch_size=None):
        self.batch_size = batch_size
        self.seen: list[np.ndarray] = []
        self.closed = False

    def infer(self, batch):
        assert batch.dtype == np.uint8
        self.seen.append(batch.copy())
        b = len(batch)
        heads = []
        for stride in (8, 16, 32):
            h, w = 64 // stride, 96 // stride
            box = np.zeros((b, 4, 16, h, w), np.float32)
            box[:, :, 1] = 40  # one cell to every side
            cls = np.full((b, 2, h, w), -9, np.float32)
            if stride == 8:
                mean = batch.reshape(b, h, 8, w, 8, 3).mean(axis=(2, 4, 5))
                cls[:, 0] = np.where(mean > 200, 3, -9)
            heads += [box.reshape(b, 64, h, w), cls]
        return heads

    def close(self):
        self.closed = True


def spot(h, w, y, x, size):
    image = np.zeros((h, w, 3), np.uint8)
    image[y : y + size, x : x + size] = 255
    return image


def test_boxes_come_back_in_image_pixels():
    backend = BrightSpots()
    # 128 x 192 is halved: the bright 16 x 16 pixels are one cell, the box reaches one cell from its centre.
    found = Detector(backend, MANIFEST).detect([spot(128, 192, 32, 48, 16)])[0]
    np.testing.assert_allclose(found.xyxy, [[40, 24, 72, 56]], atol=1e-3)
    np.testing.assert_allclose(found.score, 1 / (1 + np.exp(-3)), rtol=1e-6)
    assert found.class_id.tolist() == [0]


@pytest.mark.parametrize(("batch_size", "calls"), [(None, [5]), (1, [1] * 5), (2, [2, 2, 1]), (8, [5])])
def test_batches_fit_the_backend_and_results_do_not_depend_on_it(batch_size, calls):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((64, 96), (1, 1), (200, 40), (33, 500))]
    images.append(spot(128, 192, 0, 0, 64))
    backend = BrightSpots(batch_size)
    detector = Detector(backend, MANIFEST, score_threshold=0.5, iou_threshold=0.6)
    for _ in range(2):  # a second time, with what the first left in the buffer
        backend.seen.clear()
        found = detector.detect(images)
        assert [len(batch) for batch in backend.seen] == calls
        letterboxes = [Letterbox.fit(image.shape[:2], (64, 96), 80) for image in images]
        batch = np.concatenate(backend.seen)
        for image, letterbox, model_input in zip(images, letterboxes, batch, strict=True):
            np.testing.assert_array_equal(model_input, letterbox.apply(image))
        process = PostProcessor(HeadLayout.from_manifest(MANIFEST), score_threshold=0.5, iou_threshold=0.6)
        for a, b in zip(found, process(BrightSpots().infer(batch), letterboxes), strict=True):
            np.testing.assert_array_equal(a.xyxy, b.xyxy)
            np.testing.assert_array_equal(a.score, b.score)
        assert len(found[-1]) > 0


def test_no_images():
    backend = BrightSpots()
    assert Detector(backend, MANIFEST).detect([]) == []
    assert backend.seen == []


def test_clocks():
    detector = Detector(BrightSpots(1), MANIFEST)
    assert detector.timings["total_ms"] == detector.total_ms == 0
    totals = []
    for _ in range(3):
        detector.detect([spot(64, 96, 8, 8, 8)] * 2)
        stages = detector.preprocess_ms, detector.infer_ms, detector.postprocess_ms
        assert min(stages) > 0
        assert sum(stages) <= detector.total_ms
        totals.append(detector.total_ms)
    assert detector.timings["total_ms"] == pytest.approx(sum(totals))
    assert (detector.timings["images"], detector.timings["calls"]) == (6, 3)


@pytest.mark.parametrize(
    ("image", "came"),
    [
        (np.zeros((5, 5), np.uint8), r"uint8 \(5, 5\)"),
        (np.zeros((5, 5, 4), np.uint8), r"uint8 \(5, 5, 4\)"),
        (np.zeros((5, 5, 3), np.uint16), r"uint16 \(5, 5, 3\)"),
        ("image.jpg", "str"),
    ],
)
def test_bad_images_are_named_before_anything_runs(image, came):
    backend = BrightSpots(1)
    with pytest.raises(ValueError, match=rf"images\[1\] must be an RGB uint8 array \(h, w, 3\), got {came}"):
        Detector(backend, MANIFEST).detect([spot(9, 9, 0, 0, 1), image])
    assert backend.seen == []


def test_empty_image_is_refused():
    with pytest.raises(ValueError, match="at least 1 pixel"):
        Detector(BrightSpots(), MANIFEST).detect([np.zeros((0, 5, 3), np.uint8)])


def test_context_closes_the_backend():
    backend = BrightSpots()
    with Detector(backend, MANIFEST) as detector:
        assert detector.class_names == ["bright", "dark"]
    assert backend.closed


def test_open_detector(tmp_path, monkeypatch):
    MANIFEST.save(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"model")
    backend = BrightSpots()
    asked = []

    def open_backend(bundle, manifest, kind):
        asked.append((bundle, manifest.name, kind))
        return backend

    opening = types.ModuleType("deploy.backends.opening")
    opening.open_backend = open_backend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deploy.backends.opening", opening)
    detector = open_detector(tmp_path, "onnx", score_threshold=0.4)
    assert asked == [(tmp_path, "fake", "onnx")]
    assert detector.postprocessor.score_threshold == 0.4
    with pytest.raises(ValueError, match="score_threshold"):
        open_detector(tmp_path, score_threshold=4)
    assert backend.closed
    with pytest.raises(FileNotFoundError, match="not a bundle"):
        open_detector(tmp_path / "nowhere")
