"""Detector: images or a stream of frames in, boxes out, with a clock on each stage."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .context import Context, SchedulerClosedError
from .decoding import decoder_of
from .detections import Detections
from .frames import STAGES, Frame, Result
from .letterbox import Letterbox
from .manifest import Manifest, load_manifest
from .pipeline import Pipeline, check_image, finish_batch
from .scheduler import Policy, Scheduler

if TYPE_CHECKING:
    from .backends.protocol import Backend

Workers = Literal["threads", "processes"]
# A call that takes longer is given up: hundreds of times what a large model takes on the NPU.
TIMEOUT_S = 20.0
# How long a thread may keep the interpreter lock while others want it. Python's own 5 ms are two images on three cores.
SWITCH_S = 0.0005


class Detector:
    """Find objects in images with one model.

    backend: takes uint8 RGB batches (b, h, w, 3) of the manifest's input size; normalisation and channel order are its
    business. It gets at most its `batch_size` images a call; None means any number. It serves `detect`, and belongs to
    the thread that calls it. open_backend: opens one more, on the NPU core given, for each context of `stream`; with
    `workers` "processes" it is called in a child process and has to travel there by pickle. cores: one entry per
    context. options: `score_threshold`, `iou_threshold`, `max_detections`, ... of `PostProcessor`.

    read_ms, preprocess_ms, infer_ms, postprocess_ms, total_ms: wall-clock milliseconds of the last `detect`, all of its
    images together. timings: the sums of these over all calls and streams, and "images" and "calls".
    """

    def __init__(
        self,
        backend: Backend,
        manifest: Manifest,
        *,
        open_backend: Callable[[int], Backend] | None = None,
        cores: Sequence[int] = (0,),
        workers: Workers = "threads",
        timeout_s: float | None = TIMEOUT_S,
        **options: Any,
    ) -> None:
        if backend.batch_size is not None and backend.batch_size < 1:
            raise ValueError(f"the backend's batch_size must be None or at least 1, got {backend.batch_size}")
        if workers not in ("threads", "processes"):
            raise ValueError(f"workers must be threads or processes, got {workers!r}")
        self.backend = backend
        self.manifest = manifest
        self.cores, self.workers, self.timeout_s = tuple(cores), workers, timeout_s
        self.postprocessor = decoder_of(manifest, **options)
        self.read_ms = self.preprocess_ms = self.infer_ms = self.postprocess_ms = self.total_ms = 0.0
        self.timings: dict[str, float] = dict.fromkeys((*STAGES, "images", "calls"), 0)
        self._open_backend = open_backend
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
            check_image(image, f"images[{i}]")
        begin = time.perf_counter()
        spent = dict.fromkeys(STAGES[1:4], 0.0)
        size = self.backend.batch_size or max(1, len(images))
        results: list[Detections] = []
        for start in range(0, len(images), size):
            results += self._detect_batch(images[start : start + size], spent)
        self.preprocess_ms, self.infer_ms, self.postprocess_ms = (spent[stage] for stage in STAGES[1:4])
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
        for i, stage in enumerate(STAGES[1:4]):
            spent[stage] += (clock[i + 1] - clock[i]) * 1e3
        return results

    def stream(
        self,
        source: Iterable[Any],
        *,
        policy: Policy | None = None,
        postprocess_batch: int = 1,
        on_start: Callable[[Scheduler], None] | None = None,
    ) -> Generator[Result, None, None]:
        """Find objects in frame after frame, on all contexts at once; yields one Result each, in the source's order.

        source: yields Frame, or objects with `number`, `name` and `error` for what could not be read; they come out as
        Results with that error. It is read in a thread of its own, ahead of what is yielded by a bounded number.
        policy: None asks the source: "latest" where its `live` is true, so that its newest frame is never late, else
        "block". postprocess_batch: decode up to so many frames in one call, those that are there; no frame waits for
        others. on_start: gets the scheduler, whose `dropped`, `replaced` and `reopened` count what happened.

        An error of a frame is in its Result. Closing the generator stops everything at once. Raises what the source
        raised, after the results of what it gave before, and what opening a context raised, or its last one met.
        """
        if postprocess_batch < 1:
            raise ValueError(f"postprocess_batch must be at least 1, got {postprocess_batch}")
        live = bool(getattr(source, "live", False))
        decode = self.postprocessor
        batched = postprocess_batch > 1 and self.workers == "threads"
        scheduler = Scheduler(
            self._context_opener(None if batched else decode),
            self.cores,
            policy=policy or ("latest" if live else "block"),
            # A child process has a timeout of its own, and can be ended; a thread cannot.
            timeout_s=self.timeout_s if self.workers == "threads" and self._open_backend else None,
            finish=(lambda raws: finish_batch(decode, raws)) if batched else None,
            finish_batch=postprocess_batch,
        )
        feeder = _Feeder(source, scheduler)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(min(interval, SWITCH_S))
        try:
            if on_start is not None:
                on_start(scheduler)
            feeder.start()
            for outcome in scheduler.results():
                found = outcome.value if outcome.error is None else _failed(outcome.item, outcome.error)
                result = replace(found, total_ms=outcome.waited_ms)
                for stage in STAGES:
                    self.timings[stage] += getattr(result, stage)
                self.timings["images"] += 1
                yield result
            if feeder.error is not None:
                raise feeder.error
        finally:
            sys.setswitchinterval(interval)
            feeder.stop()
            scheduler.close()
            self.timings["calls"] += 1

    def _context_opener(self, decode: Any) -> Callable[[int], Context]:
        manifest, opener = self.manifest, self._open_backend
        if opener is None:
            if len(self.cores) > 1:
                raise ValueError("several contexts need open_backend; a backend serves one thread")
            lent = _Lent(self.backend)
            return lambda core: Pipeline(lent, manifest, decode)
        if self.workers == "processes":
            from .worker_process import ProcessContext

            return lambda core: ProcessContext(opener, core, manifest, self.postprocessor, self.timeout_s)
        return lambda core: Pipeline(opener(core), manifest, decode)

    def close(self) -> None:
        """Free the backend; the detector cannot be used afterwards."""
        self.backend.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Feeder(threading.Thread):
    """Reads a source and submits what it gives; keeps what the source raised."""

    def __init__(self, source: Iterable[Any], scheduler: Scheduler) -> None:
        super().__init__(name="rsedge-source", daemon=True)
        self.source, self.scheduler = source, scheduler
        self.error: Exception | None = None
        self.stopping = False

    def run(self) -> None:
        try:
            for item in self.source:
                if self.stopping:
                    break
                self.scheduler.submit(item)
        except SchedulerClosedError:
            pass
        except Exception as error:
            if not self.stopping:
                self.error = error
        finally:
            self.scheduler.finish()

    def stop(self) -> None:
        """End it: a source that can be closed is, so that a wait inside it ends."""
        self.stopping = True
        self.scheduler.cancel()
        if self.is_alive():
            close = getattr(self.source, "close", None)
            if close is not None and not isinstance(self.source, Generator):  # a running generator refuses
                close()
            self.join(5)


class _Lent:
    """The detector's own backend in a stream's hands: used there, not closed."""

    def __init__(self, backend: Backend) -> None:
        self.name, self.batch_size, self.infer = backend.name, backend.batch_size, backend.infer

    def close(self) -> None:
        """Leave it open."""


def _failed(item: Any, error: Exception) -> Result:
    """Return the result of a frame that met an error, or that could not be read."""
    frame = item if isinstance(item, Frame) else Frame(item.number, item.name, np.empty((0, 0, 3), np.uint8))
    return Result(frame, Detections.empty(), error=error)


def open_detector(
    bundle: Path,
    backend: str = "auto",
    *,
    contexts_per_core: int = 2,
    workers: Workers = "threads",
    timeout_s: float | None = TIMEOUT_S,
    **options: Any,
) -> Detector:
    """Open a bundle on the backend named ("auto" takes the best that this machine has); options as of `Detector`.

    contexts_per_core: of each NPU core; two hide the work of the CPU. On the CPU alone (ONNX Runtime) so many contexts
    share its cores.

    Raises ValueError, FileNotFoundError or OSError with the file, the rule and the cure.
    """
    from .backends.opener import Opener
    from .backends.opening import open_backend

    if contexts_per_core < 1:
        raise ValueError(f"contexts_per_core must be at least 1, got {contexts_per_core}")
    manifest = load_manifest(bundle)
    opened = open_backend(bundle, manifest, backend)
    try:
        opener = Opener(bundle, manifest, opened.name, contexts_per_core, shared=workers == "processes")
        return Detector(
            opened,
            manifest,
            open_backend=opener,
            cores=opener.cores,
            workers=workers,
            timeout_s=timeout_s if opener.npu else None,
            **options,
        )
    except ValueError:
        opened.close()
        raise
