"""Pipeline: one frame through letterbox, backend and post-processing; what a worker of the scheduler calls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .detections import Detections
from .frames import Frame, Result
from .letterbox import Letterbox
from .manifest import Manifest

if TYPE_CHECKING:
    from .backends.protocol import Backend


class Decoder(Protocol):
    """Raw heads to Detections, such as `PostProcessor`; one object may serve several threads."""

    def __call__(self, heads: Sequence[np.ndarray], letterboxes: Sequence[Letterbox] | None = None) -> list[Detections]:
        """See `PostProcessor.__call__`."""
        ...


def check_image(image: Any, told: str = "image") -> None:
    """Raise ValueError unless `image` is an RGB uint8 array (h, w, 3)."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        came = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"{told} must be an RGB uint8 array (h, w, 3), got {came}")


@dataclass(frozen=True, eq=False)
class Raw:
    """A frame between the network and post-processing. heads: (1, channels, h, w) each, owned by this object."""

    frame: Frame
    letterbox: Letterbox
    heads: list[np.ndarray]
    preprocess_ms: float
    infer_ms: float


class Pipeline:
    """Run frames through one backend; see `deploy.context.Context`. Belongs to one thread."""

    def __init__(self, backend: Backend, manifest: Manifest, decode: Decoder | None) -> None:
        self.backend, self.manifest, self.decode = backend, manifest, decode
        self._buffer = np.empty((1, *manifest.input_hw, 3), np.uint8)

    def __call__(self, item: Any) -> Any:
        """Return what `run` does, with the pipeline's own decoder."""
        return self.run(item, self.decode)

    def run(self, item: Any, decode: Decoder | None) -> Any:
        """Return the Result of a frame. What is no frame brings its own error along.

        decode: None leaves post-processing to `finish_batch`, which takes the `Raw` that several pipelines return.
        """
        if not isinstance(item, Frame):
            raise item.error
        check_image(item.image, f"frame {item.number} of {item.name}")
        begin = time.perf_counter()
        height, width = item.image.shape[:2]
        letterbox = Letterbox.fit((height, width), self.manifest.input_hw, self.manifest.pad_value)
        letterbox.apply(item.image, out=self._buffer[0])
        ready = time.perf_counter()
        heads = self.backend.infer(self._buffer)
        # Lets go of the interpreter once: the context that waited for this core is awake now, and has the NPU to feed.
        time.sleep(0)
        inferred = time.perf_counter()
        spent = ((ready - begin) * 1e3, (inferred - ready) * 1e3)
        if decode is None:
            # A backend may hand out its own memory, which the next image overwrites.
            return Raw(item, letterbox, [np.array(head) for head in heads], *spent)
        found = decode(heads, [letterbox])[0]
        return Result(item, found, *spent, (time.perf_counter() - inferred) * 1e3)

    def close(self) -> None:
        """Free the backend."""
        self.backend.close()


def finish_batch(decode: Decoder, raws: Sequence[Raw]) -> list[Result]:
    """Post-process what pipelines left, in one call. postprocess_ms: each frame's equal share of it."""
    begin = time.perf_counter()
    heads = [np.concatenate(parts) for parts in zip(*(raw.heads for raw in raws), strict=True)]
    found = decode(heads, [raw.letterbox for raw in raws])
    share = (time.perf_counter() - begin) * 1e3 / len(raws)
    return [Result(r.frame, f, r.preprocess_ms, r.infer_ms, share) for r, f in zip(raws, found, strict=True)]
