"""A subject on an emulated NPU without any model file: drawn heads, small images, a latency of choice."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from benchmarks.postprocess_speed import BOX_SCALE, CLASS_SCALE, draw_heads, quantise_heads
from benchmarks.subject import Pictures, Subject
from deploy.backends.emulated_npu import EmulatedNpu, recorded
from deploy.head_layout import HeadLayout
from deploy.manifest import Head, Manifest, ModelFile, TensorScale

HW = (224, 224)  # the least that drawn objects of up to 200 pixels fit into


def manifest_of(name: str = "drawn", **fields: object) -> Manifest:
    """Return the manifest of a small INT8 model of three classes."""
    box, cls = (TensorScale(scale=s, zero_point=z) for s, z in (BOX_SCALE, CLASS_SCALE))
    heads = [
        Head(stride=s, box_output=f"b{s}", class_output=f"c{s}", box_scale=box, class_scale=cls) for s in (8, 16, 32)
    ]
    files = {"onnx": ModelFile(name="none", sha256="0" * 64)}
    return Manifest(
        name=name, class_names=["a", "b", "c"], input_hw=HW, heads=heads, precision="int8", files=files, **fields
    )


def emulated_subject(folder: Path, *, latency_ms: float = 5.0, cores: int = 3, pictures: int = 2, **npu) -> Subject:
    """Return a subject whose every core is held `latency_ms` an image."""
    manifest = manifest_of()
    layout = HeadLayout.from_manifest(manifest)
    rng = np.random.default_rng(0)
    heads = tuple(quantise_heads(draw_heads(layout, 2, 1, rng)) for _ in range(pictures))
    paths = []
    for number in range(pictures):
        paths.append(folder / f"{number}.png")
        cv2.imwrite(str(paths[-1]), rng.integers(0, 255, (*HW, 3), np.uint8))
    images = tuple(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths)
    emulated = EmulatedNpu(HW, recorded(heads[0]), cores=cores, latency_ms=latency_ms, **npu)
    return Subject(
        folder, manifest, "emulated", Pictures(tuple(paths), images, "drawn"), "a test", heads, latency_ms, emulated
    )
