"""Score a model with the board's own post-processing and metrics: torch, ONNX Runtime or the vendor's simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from deploy.annotations import AnnotatedImage
from deploy.detections import Detections
from deploy.head_layout import HeadLayout
from deploy.images import read_image
from deploy.letterbox import Letterbox
from deploy.metrics import Accuracy, score_detections
from deploy.postprocess import PostProcessor

# Customary for mAP: keep nearly everything, let the metric rank it.
SCORE_THRESHOLD = 0.001
IOU_THRESHOLD = 0.7

Heads = list[np.ndarray]
Infer = Callable[[np.ndarray], Heads]


def letterboxed(images: Sequence[AnnotatedImage], input_hw: tuple[int, int]) -> Iterator[tuple[np.ndarray, Letterbox]]:
    """Read images and fit them into the model input: (h, w, 3) uint8 RGB and its letterbox, in order."""
    for entry in images:
        pixels = read_image(entry.path)
        box = Letterbox.fit(pixels.shape[:2], input_hw)
        yield box.apply(pixels), box


class LetterboxCache:
    """Hold the letterboxed images of a split, so that scoring in each epoch does not read files again."""

    def __init__(self, images: Sequence[AnnotatedImage], input_hw: tuple[int, int], limit_mb: float) -> None:
        self.images, self.input_hw = list(images), input_hw
        fits = len(images) * input_hw[0] * input_hw[1] * 3 <= limit_mb * 1e6
        self._kept = list(letterboxed(images, input_hw)) if fits else None

    def __iter__(self) -> Iterator[tuple[np.ndarray, Letterbox]]:
        return iter(self._kept) if self._kept is not None else letterboxed(self.images, self.input_hw)


def torch_infer(model: nn.Module, device: torch.device) -> Infer:
    """Return a function from (b, h, w, 3) uint8 RGB to six float32 head arrays."""

    @torch.inference_mode()
    def infer(batch: np.ndarray) -> Heads:
        x = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float() / 255
        return [h.float().cpu().numpy() for h in model(x.contiguous(memory_format=torch.channels_last))]

    return infer


def score(
    infer: Infer,
    images: Sequence[AnnotatedImage],
    inputs: Iterator[tuple[np.ndarray, Letterbox]] | LetterboxCache,
    class_names: Sequence[str],
    layout: HeadLayout,
    *,
    batch: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Accuracy:
    """Run every image and score what was found against its annotations; the arguments are those of `find_all`."""
    found = find_all(infer, inputs, len(images), layout, batch=batch, progress=progress)
    return score_detections(images, found, class_names)


def find_all(
    infer: Infer,
    inputs: Iterator[tuple[np.ndarray, Letterbox]] | LetterboxCache,
    images: int,
    layout: HeadLayout,
    *,
    batch: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> list[Detections]:
    """Return what is found on each of `images` letterboxed inputs, with the low threshold that mAP wants.

    batch: images per call of `infer`.
    """
    post = PostProcessor(layout, score_threshold=SCORE_THRESHOLD, iou_threshold=IOU_THRESHOLD, multi_label=True)
    found = []
    waiting: list[tuple[np.ndarray, Letterbox]] = []
    for count, item in enumerate(inputs, 1):
        waiting.append(item)
        if len(waiting) == batch or count == images:
            found += post(infer(np.stack([pixels for pixels, _ in waiting])), [box for _, box in waiting])
            waiting = []
            if progress:
                progress(count, images)
    return found


def layout_for(size: int, class_count: int) -> HeadLayout:
    """Return the layout of the float heads of `Yolov8` at a square input of `size` pixels."""
    return HeadLayout(input_hw=(size, size), class_count=class_count)
