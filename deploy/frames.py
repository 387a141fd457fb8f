"""Frame, Result and Record: what goes into the runtime, what comes out of it, and what a sink writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .detections import Detections

if TYPE_CHECKING:
    from .georeference import Georeference

# The clock of each stage, in the order in which an image passes them.
STAGES = ("read_ms", "preprocess_ms", "infer_ms", "postprocess_ms", "total_ms")


@dataclass(frozen=True, eq=False)
class Frame:
    """One image on its way through the runtime.

    number: from 0, in the order of its source. name: the file, scene or stream that it came from. image: (h, w, 3)
    uint8 RGB. read_ms: what reading and decoding took. timestamp_s: seconds since the first frame of its source, None
    where the source has no clock. corner_xy: where the image's top left pixel lies in its scene, (0, 0) for a whole
    image.
    """

    number: int
    name: str
    image: np.ndarray
    read_ms: float = 0.0
    timestamp_s: float | None = None
    corner_xy: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class Result:
    """What was found in a frame: boxes in pixels of `frame.image`, and the milliseconds of each stage.

    total_ms: from the frame's submission until its result could leave, waiting included. error: why this frame has no
    detections (they are empty then); the frames around it are not touched by that.
    """

    frame: Frame
    detections: Detections
    preprocess_ms: float = 0.0
    infer_ms: float = 0.0
    postprocess_ms: float = 0.0
    total_ms: float = 0.0
    error: Exception | None = None

    @property
    def read_ms(self) -> float:
        """What reading the frame took."""
        return self.frame.read_ms


@dataclass(frozen=True, eq=False)
class Record:
    """One finished image, scene or video frame, as sinks take it: boxes in pixels of the whole image or scene.

    name: of the source. size_hw: of the whole image in pixels. georeference: where it lies on the earth, if that is
    known. frame_number, timestamp_s: of a video or stream. image: (h, w, 3) uint8 RGB for sinks that draw, of a large
    scene a reduced copy; None where nobody draws or parts failed. complete: False for a scene of which parts failed; it
    is written, and done again by a run that resumes.
    """

    name: str
    size_hw: tuple[int, int]
    detections: Detections
    georeference: Georeference | None = None
    frame_number: int | None = None
    timestamp_s: float | None = None
    image: np.ndarray | None = None
    complete: bool = True
