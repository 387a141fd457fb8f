"""What is measured: one bundle on one backend with its images, and how its contexts are opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from deploy.backends.emulated_npu import LATENCY_MS, Answer, EmulatedNpu
from deploy.backends.opener import NPU_CORES
from deploy.backends.opening import KINDS, open_backend
from deploy.backends.protocol import Core
from deploy.detector import Detector
from deploy.head_layout import HeadLayout
from deploy.images import list_images, read_image
from deploy.letterbox import Letterbox
from deploy.manifest import Manifest, load_manifest
from deploy.procedural import draw_scene

if TYPE_CHECKING:
    from deploy.backends.protocol import Backend

# Where a context lies, beside a core's number: on whichever core the driver chooses for each image, or on several that
# share the work of each image (the vendor's masks 0_1 and 0_1_2).
ANY_CORE, CORES_0_1, CORES_0_1_2 = -1, -2, -3
_PLACES: dict[int, Core] = {ANY_CORE: None, CORES_0_1: (0, 1), CORES_0_1_2: (0, 1, 2)}
_TOLD = {ANY_CORE: "any", CORES_0_1: "0 and 1 together", CORES_0_1_2: "0, 1 and 2 together"}
DRAWN_HW = (1024, 1024)
# Images kept decoded in memory: a camera hands them over so. 3 MB each at 1024 x 1024.
KEPT_IMAGES = 64


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images to measure with. paths: files, to be read. images: the same, RGB uint8 (h, w, 3). told: whence."""

    paths: tuple[Path, ...]
    images: tuple[np.ndarray, ...]
    told: str


def drawn_pictures(folder: Path, count: int) -> Pictures:
    """Draw aerial scenes of 1024 x 1024 pixels, one seed each, and write them as JPEG into `folder`."""
    paths = []
    for seed in range(count):
        path = folder / f"drawn_{seed:03d}.jpg"
        bgr = cv2.cvtColor(draw_scene(seed, DRAWN_HW).image, cv2.COLOR_RGB2BGR)
        if not cv2.imwrite(str(path), bgr, [cv2.IMWRITE_JPEG_QUALITY, 92]):
            raise OSError(f"{path}: cannot be written; check the space in the folder of temporary files")
        paths.append(path)
    images = tuple(read_image(path) for path in paths)
    return Pictures(tuple(paths), images, f"{count} drawn scenes, {DRAWN_HW[1]} x {DRAWN_HW[0]}, JPEG, seeds from 0")


def pictures_of(folder: Path, count: int | None = None) -> Pictures:
    """Read the images of a folder, the first `count` of them, at most `KEPT_IMAGES`. Raises as `read_image`."""
    paths = list_images(folder)[: min(count or KEPT_IMAGES, KEPT_IMAGES)]
    images = tuple(read_image(path) for path in paths)
    sizes = sorted({image.shape[:2] for image in images})
    told = f"{sizes[0][1]} x {sizes[0][0]}" if len(sizes) == 1 else f"{len(sizes)} sizes"
    return Pictures(tuple(paths), images, f"{len(paths)} images of the folder {folder.name}, {told}")


@dataclass(frozen=True, eq=False)
class Subject:
    """A bundle on a backend. Every context is opened anew and belongs to whoever asked.

    kind: of `open_backend`. told: what runs, in words, and what it cannot say. cores: how many the backend has, 1
    where it has none of its own. heads: raw heads of each picture, (1, channels, h, w), int8 where the manifest has
    scales. emulated_ms: latency of an emulated core.
    """

    bundle: Path
    manifest: Manifest
    kind: str
    pictures: Pictures
    told: str
    heads: tuple[list[np.ndarray], ...]
    emulated_ms: float | None = None
    npu: EmulatedNpu | None = None

    @property
    def has_cores(self) -> bool:
        """Whether contexts lie on NPU cores, real or emulated."""
        return self.kind != "onnx"

    @property
    def cores(self) -> int:
        """Cores of the NPU, or 1: the CPU's cores are one pool."""
        return NPU_CORES if self.has_cores else 1

    def placed(self, contexts: int) -> tuple[int, ...]:
        """Return the core of each of so many contexts, dealt out over the cores."""
        return tuple(i % self.cores for i in range(contexts))

    def masks(self) -> list[tuple[int, ...]]:
        """Return the cores of contexts that try each of the vendor's core masks, those of `placed` left out.

        An emulated NPU has no masks of several cores: what splitting an image brings is the chip's secret.
        """
        if not self.has_cores:
            return []
        alone = [(1,), (2,), (0, 1, 0, 1), (ANY_CORE,), (ANY_CORE,) * 2 * self.cores]
        together = [(CORES_0_1,), (CORES_0_1,) * 2, (CORES_0_1_2,), (CORES_0_1_2,) * 2]
        return alone if self.npu is not None else alone + together

    @property
    def usual(self) -> tuple[int, ...]:
        """The cores of the contexts that the product opens by itself: two per core."""
        return self.placed(2 * self.cores)

    def open(self, core: int = 0, *, threads: int = 0) -> Backend:
        """Open one context. threads: of ONNX Runtime on the CPU, 0 for all. Raises as `open_backend`."""
        place = _PLACES.get(core, core) if self.has_cores else None
        if self.npu is not None:
            if isinstance(place, tuple):
                raise ValueError(
                    f"cores {place} together: an emulated NPU does not know what splitting an image brings"
                )
            return self.npu.open(place)
        return open_backend(self.bundle, self.manifest, self.kind, threads=threads, core=place)

    def opener(self, contexts: int) -> Callable[[int], Backend]:
        """Return what opens contexts that run beside each other: on the CPU they share its cores evenly."""
        threads = 0 if self.has_cores else max(1, len(os.sched_getaffinity(0)) // contexts)
        return lambda core: self.open(core, threads=threads)

    def streaming(self, cores: Sequence[int]) -> Detector:
        """Return a detector for `stream` with a context on each of `cores`; its `detect` has no backend."""
        return Detector(_NotAlone(), self.manifest, open_backend=self.opener(len(cores)), cores=cores)

    def letterboxes(self) -> list[Letterbox]:
        """Return the letterbox of each picture."""
        return [
            Letterbox.fit((image.shape[0], image.shape[1]), self.manifest.input_hw, self.manifest.pad_value)
            for image in self.pictures.images
        ]


class _NotAlone:
    """Stands where a detector that only streams would keep one more context."""

    name, batch_size = "none", 1

    def infer(self, batch: np.ndarray) -> list[np.ndarray]:
        raise ValueError("this detector streams only; open a backend for single images")

    def close(self) -> None:
        """Nothing is open."""


def told_cores(cores: Sequence[int]) -> str:
    """Return where contexts lie in words: "0 (2), 1 (2)", "any (6)", "0 and 1 together (1)"."""
    return ", ".join(f"{_TOLD.get(core, str(core))} ({cores.count(core)})" for core in sorted(set(cores)))


def check_backend(kind: str) -> None:
    """Raise ValueError for a backend that is none, or whose time says nothing."""
    if kind not in KINDS or kind == "rknn-sim":
        known = ", ".join(name for name in KINDS if name != "rknn-sim")
        raise ValueError(f"--backend must be one of {known}, got {kind!r}; the simulator's time says nothing")


def open_subject(bundle: Path, kind: str, pictures: Pictures, emulated_ms: float | None = None) -> Subject:
    """Open a bundle on a backend, run every picture once, and return what is to be measured.

    kind: of `open_backend`; "auto" is settled here. emulated_ms: of an emulated core, default that of the published
    YOLOv8n. Raises ValueError, FileNotFoundError or OSError as `open_backend`.
    """
    manifest = load_manifest(bundle)
    check_backend(kind)
    opened = open_backend(bundle, manifest, "onnx" if kind == "emulated" else kind)
    try:
        found = kind if kind == "emulated" else opened.name
        subject = Subject(bundle, manifest, found, pictures, _told(found, emulated_ms), ())
        boxes = subject.letterboxes()
        inputs = [box.apply(image) for box, image in zip(boxes, pictures.images, strict=True)]
        # A backend may hand out its own memory, which the next image overwrites.
        raw = [[np.array(head) for head in opened.infer(pixels[None])] for pixels in inputs]
    finally:
        opened.close()
    heads = tuple(_as_on_the_npu(one, manifest) for one in raw)
    subject = replace(subject, heads=heads)
    if found != "emulated":
        return subject
    latency = LATENCY_MS if emulated_ms is None else emulated_ms
    npu = EmulatedNpu(manifest.input_hw, _answer(inputs, heads), latency_ms=latency)
    return replace(subject, npu=npu, emulated_ms=latency)


def _told(kind: str, emulated_ms: float | None) -> str:
    if kind == "emulated":
        source = "the published YOLOv8n" if emulated_ms is None else "the estimate for this bundle"
        ms = LATENCY_MS if emulated_ms is None else emulated_ms
        return (
            f"an emulated NPU: {NPU_CORES} cores that are held {ms:.2f} ms an image (of {source}), heads recorded from "
            "ONNX Runtime; it shows what the runtime around an NPU does, never how fast an NPU is"
        )
    if kind == "onnx":
        return f"ONNX Runtime on {len(os.sched_getaffinity(0))} CPUs"
    return {"rknn-capi": "the NPU through librknnrt.so", "rknn-lite": "the NPU through rknn-toolkit-lite2"}[kind]


def _as_on_the_npu(heads: list[np.ndarray], manifest: Manifest) -> list[np.ndarray]:
    """Return float heads as the int8 that an NPU hands out, where the manifest has the scales; others as they are."""
    if manifest.decoded is not None or heads[0].dtype == np.int8:
        return heads
    layout = HeadLayout.from_manifest(manifest)
    if layout.box_scales is None or layout.class_scales is None:
        return heads
    scales = [scale for pair in zip(layout.box_scales, layout.class_scales, strict=True) for scale in pair]
    return [
        np.clip(np.rint(head / scale) + zero_point, -128, 127).astype(np.int8)
        for head, (scale, zero_point) in zip(heads, scales, strict=True)
    ]


def _answer(inputs: Sequence[np.ndarray], heads: Sequence[list[np.ndarray]]) -> Answer:
    """Return what gives each recorded image its own heads; images are told apart by every 16th pixel."""
    kept: dict[bytes, Any] = {_sign(pixels): one for pixels, one in zip(inputs, heads, strict=True)}

    def answer(batch: np.ndarray) -> list[np.ndarray]:
        found = [kept[_sign(pixels)] for pixels in batch]
        return found[0] if len(found) == 1 else [np.concatenate(parts) for parts in zip(*found, strict=True)]

    return answer


def _sign(pixels: np.ndarray) -> bytes:
    return pixels[7::16, 7::16].tobytes()
