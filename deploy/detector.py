"""Detector: letterbox, infer, post-process, with a clock on each stage."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from .detections import Detections
from .head_layout import HeadLayout
from .letterbox import Letterbox
from .manifest import Manifest, load_manifest
from .postprocess import PostProcessor

if TYPE_CHECKING:
    from .backends.protocol import Backend

STAGES = ("preprocess_ms", "infer_ms", "postprocess_ms", "total_ms")


class Detector:
    """Find objects in images with one backend. Belongs to one thread, as the backend's context does.

    backend: takes uint8 RGB batches (b, h, w, 3) of the manifest's input size; normalisation and channel order are its
    business. It gets at most its `batch_size` images a call; None means any number.
    options: `score_threshold`, `iou_threshold`, `max_detections`, ... of `PostProcessor`.

    preprocess_ms, infer_ms, postprocess_ms, total_ms: wall-clock milliseconds of the last `detect`, all of its images
    together. timings: the sums of these over all calls, and "images" and "calls".
    """

    def __init__(self, backend: Backend, manifest: Manifest, **options: Any) -> None:
        if backend.batch_size is not None and backend.batch_size < 1:
            raise ValueError(f"the backend's batch_size must be None or at least 1, got {backend.batch_size}")
        self.backend = backend
        self.manifest = manifest
        self.postprocessor = PostProcessor(HeadLayout.from_manifest(manifest), **options)
        self.preprocess_ms = self.infer_ms = self.postprocess_ms = self.total_ms = 0.0
        self.timings: dict[str, float] = dict.fromkeys((*STAGES, "images", "calls"), 0)
        self._buffer = np.empty((0, *manifest.input_hw, 3), np.uint8)

    @property
    def class_names(self) -> list[str]:
        """The names that `class_id` of the results points into."""
        return self.manifest.class_names

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Find objects in RGB uint8 images (h, w, 3), each of any size; one Detections each, in image pixels.

        Raises ValueError for images of another shape or dtype, before anything is inferred, and for heads that do not
        fit the manifest.
        """
        for i, image in enumerate(images):
            if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                came = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
                raise ValueError(f"images[{i}] must be an RGB uint8 array (h, w, 3), got {came}")
        begin = time.perf_counter()
        spent = dict.fromkeys(STAGES[:3], 0.0)
        size = self.backend.batch_size or max(1, len(images))
        results: list[Detections] = []
        for start in range(0, len(images), size):
            results += self._detect_batch(images[start : start + size], spent)
        self.preprocess_ms, self.infer_ms, self.postprocess_ms = (spent[stage] for stage in STAGES[:3])
        self.total_ms = (time.perf_counter() - begin) * 1e3
        for stage in STAGES:
            self.timings[stage] += getattr(self, stage)
        self.timings["images"] += len(images)
        self.timings["calls"] += 1
        return results

    def _detect_batch(self, images: Sequence[np.ndarray], spent: dict[str, float]) -> list[Detections]:
        """Run one batch through the three stages and add their milliseconds to `spent`."""
        clock = [time.perf_counter()]
        manifest = self.manifest
        if len(self._buffer) < len(images):
            self._buffer = np.empty((len(images), *manifest.input_hw, 3), np.uint8)
        batch = self._buffer[: len(images)]
        letterboxes = []
        for image, slot in zip(images, batch, strict=True):
            letterbox = Letterbox.fit((image.shape[0], image.shape[1]), manifest.input_hw, manifest.pad_value)
            letterbox.apply(image, out=slot)
            letterboxes.append(letterbox)
        clock.append(time.perf_counter())
        heads = self.backend.infer(batch)
        clock.append(time.perf_counter())
        results = self.postprocessor(heads, letterboxes)
        clock.append(time.perf_counter())
        for i, stage in enumerate(STAGES[:3]):
            spent[stage] += (clock[i + 1] - clock[i]) * 1e3
        return results

    def close(self) -> None:
        """Free the backend; the detector cannot be used afterwards."""
        self.backend.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_detector(bundle: Path, backend: str = "auto", **options: Any) -> Detector:
    """Open a bundle on the backend named ("auto" takes the best that this machine has); options as of `Detector`.

    Raises ValueError, FileNotFoundError or OSError with the file, the rule and the cure.
    """
    from .backends.opening import open_backend

    manifest = load_manifest(bundle)
    opened = open_backend(bundle, manifest, backend)
    try:
        return Detector(opened, manifest, **options)
    except ValueError:
        opened.close()
        raise
