"""Others' ways of doing the same: post-processing around OpenCV's suppression, and ONNX Runtime alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from deploy.detections import Detections
from deploy.detector import Detector
from deploy.head_layout import HeadLayout
from deploy.letterbox import Letterbox
from deploy.postprocess import PostProcessor

from .course import Course
from .in_turns import Duel, duel, timed_in_turns
from .per_box_reference import per_box_detections
from .subject import Subject

SCORE, IOU, MOST = 0.25, 0.7, 300
# Boxes of two ways to decode are the same object where they overlap so much.
SAME = 0.9
# Threads of an ONNX Runtime session wait for more work by spinning, a few milliseconds at most.
SPINNING_S = 0.02


def dequantised(heads: Sequence[np.ndarray], layout: HeadLayout) -> list[np.ndarray]:
    """Return heads as float32: int8 by their scales, floats as they are."""
    if heads[0].dtype != np.int8:
        return list(heads)
    assert layout.box_scales is not None
    assert layout.class_scales is not None
    scales = [scale for pair in zip(layout.box_scales, layout.class_scales, strict=True) for scale in pair]
    return [
        (head.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
        for head, (scale, zero_point) in zip(heads, scales, strict=True)
    ]


def opencv_detections(heads: Sequence[np.ndarray], layout: HeadLayout, letterbox: Letterbox) -> Detections:
    """Decode one image as deployment samples do it: NumPy over every cell, then `cv2.dnn.NMSBoxesBatched`.

    heads: as `PostProcessor` takes them, a batch of one. Nothing is slowed down on purpose: everything is vectorised,
    classes are suppressed apart by OpenCV itself, and only what passes the threshold goes to it.
    """
    boxes, scores = [], []
    bins = np.arange(layout.reg_max, dtype=np.float32)
    real = dequantised(heads, layout)
    for level, stride in enumerate(layout.strides):
        box, cls = real[2 * level][0], real[2 * level + 1][0]
        height, width = cls.shape[1:]
        weights = box.reshape(4, layout.reg_max, -1)
        weights = np.exp(weights - weights.max(axis=1, keepdims=True))
        sides = (weights * bins[:, None]).sum(axis=1) / weights.sum(axis=1)
        y, x = (np.indices((height, width)).reshape(2, -1) + 0.5).astype(np.float32)
        boxes.append(np.stack([x - sides[0], y - sides[1], x + sides[2], y + sides[3]], axis=1) * stride)
        flat = cls.reshape(len(cls), -1).T
        scores.append(flat if layout.activation_applied else 1 / (1 + np.exp(-flat)))
    xyxy, probability = np.concatenate(boxes), np.concatenate(scores)
    class_id, best = probability.argmax(axis=1), probability.max(axis=1)
    passed = best >= SCORE
    xyxy, class_id, best = xyxy[passed], class_id[passed], best[passed]
    if not len(best):
        return Detections.empty()
    xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)
    kept = cv2.dnn.NMSBoxesBatched(xywh.tolist(), best.tolist(), class_id.tolist(), SCORE, IOU)
    rows = np.asarray(kept, np.intp).reshape(-1)[:MOST]
    return Detections(letterbox.to_image(xyxy[rows]), best[rows].astype(np.float32), class_id[rows].astype(np.int32))


def against_post_processing(subject: Subject, course: Course, *, rounds: int, seconds: float) -> list[Duel]:
    """Compare post-processing with OpenCV's suppression and with a plain loop, on the subject's own heads.

    Empty for a model that decodes its boxes itself. In each round every contestant decodes all pictures once.
    """
    manifest = subject.manifest
    if manifest.decoded is not None or not subject.heads:
        return []
    layout = HeadLayout.from_manifest(manifest)
    ours = PostProcessor(layout, score_threshold=SCORE, iou_threshold=IOU, max_detections=MOST)
    boxes = subject.letterboxes()

    def over_all(decode: Callable[[list[np.ndarray], Letterbox], object]) -> Callable[[], object]:
        def run() -> None:
            for heads, box in zip(subject.heads, boxes, strict=True):
                decode(heads, box)

        return run

    contestants: dict[str, Callable[[], object]] = {
        "ours": over_all(lambda heads, box: ours(heads, [box])),
        "opencv": over_all(lambda heads, box: opencv_detections(heads, layout, box)),
    }
    # The plain loop takes logits; a model with the sigmoid inside would have to be undone for it.
    if not layout.activation_applied:
        contestants["loop"] = over_all(lambda heads, box: per_box_detections(heads, layout, box))
    agreement = _agreement(subject, layout, ours, boxes)
    times = {
        name: [ms / len(boxes) for ms in spent]
        for name, spent in timed_in_turns(contestants, course, rounds=rounds, seconds=seconds).items()
    }
    kind = "int8" if subject.heads[0][0].dtype == np.int8 else "float32"
    names = {"opencv": "OpenCV's suppression, NumPy decoding", "loop": "a plain loop over cells and boxes"}
    return [
        duel(
            "post-processing",
            f"this project, {kind} heads",
            names[name],
            "ms per image",
            list(zip(times["ours"], times[name], strict=True)),
            less_is_better=True,
            note=agreement[name],
        )
        for name in names
        if name in times
    ]


def _agreement(subject: Subject, layout: HeadLayout, ours: PostProcessor, boxes: Sequence[Letterbox]) -> dict[str, str]:
    """Say of each contestant how many of our boxes it finds too, over all pictures: speed alone would prove nothing."""
    counts = {"opencv": 0, "loop": 0}
    others = {"opencv": 0, "loop": 0}
    total = 0
    for heads, box in zip(subject.heads, boxes, strict=True):
        found = ours(heads, [box])[0]
        total += len(found)
        for name, other in (
            ("opencv", opencv_detections(heads, layout, box)),
            ("loop", found if layout.activation_applied else per_box_detections(heads, layout, box)),
        ):
            counts[name] += int(matched(found, other).sum())
            others[name] += len(other)
    return {name: f"{counts[name]} of our {total} boxes among its {others[name]}" for name in counts}


def matched(ours: Detections, other: Detections) -> np.ndarray:
    """Return which of our boxes, (n,) bool, another result holds too: same class, overlap of at least `SAME`."""
    if not len(ours) or not len(other):
        return np.zeros(len(ours), bool)
    a, b = ours.xyxy[:, None], other.xyxy[None]
    size = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(axis=-1)
    areas = [(one[..., 2] - one[..., 0]) * (one[..., 3] - one[..., 1]) for one in (a, b)]
    overlap = size / np.maximum(areas[0] + areas[1] - size, 1e-9)
    return np.asarray(((overlap >= SAME) & (ours.class_id[:, None] == other.class_id[None])).any(axis=1))


def against_onnx_runtime(subject: Subject, course: Course, *, rounds: int, seconds: float) -> list[Duel]:
    """Compare the whole way of an image with ONNX Runtime alone on a tensor that is ready: the floor of that backend.

    Empty for other backends: a vendor's runtime is its own floor.
    """
    if subject.kind != "onnx":
        return []
    import onnxruntime

    from deploy.backends.onnx_session import session_options

    manifest, pictures = subject.manifest, subject.pictures
    path = Path(subject.bundle) / manifest.files["onnx"].name
    session = onnxruntime.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    pixels = subject.letterboxes()[0].apply(pictures.images[0])
    planes = pixels.transpose(2, 0, 1)[:: -1 if manifest.channel_order == "bgr" else 1].astype(np.float32)
    mean, std = (np.asarray(part, np.float32)[:, None, None] for part in (manifest.mean, manifest.std))
    tensor = np.ascontiguousarray((planes - mean) / std)[None]
    with Detector(subject.open(), manifest) as detector:
        times = timed_in_turns(
            {
                "whole": lambda: detector.detect(pictures.images[:1]),
                "backend": lambda: detector.backend.infer(pixels[None]),
                "alone": lambda: session.run(manifest.output_names, {name: tensor}),
            },
            course,
            rounds=rounds,
            seconds=seconds,
            pause_s=SPINNING_S,
        )
    floor = "ONNX Runtime alone, tensor ready"
    return [
        duel(measure, told, floor, "ms per image", list(zip(times[key], times["alone"], strict=True)),
             less_is_better=True, note=note)
        for key, measure, told, note in (
            ("backend", "inference", "the onnx backend, uint8 image in", "at best 1: the floor does less"),
            ("whole", "the whole way", "letterbox, backend, post-processing", "at best 1: the floor does less"),
        )
    ]  # fmt: skip
