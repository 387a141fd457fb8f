"""Detector: images or a stream of frames in, boxes out, with a clock on each stage."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .context import Context
from .crew import Crew
from .decoding import decoder_of
from .detections import Detections
from .feeder import Feeder, quick_switching
from .frames import STAGES, Frame, Result
from .letterbox import Letterbox
from .manifest import Manifest, load_manifest
from .pipeline import Pipeline, check_image, finish_batch
from .scheduler import Policy, Scheduler
from .worker_process import Elsewhere

if TYPE_CHECKING:
    from .backends.protocol import Backend

Workers = Literal["threads", "processes"]
# A call that takes longer is given up: hundreds of times what a large model takes on the NPU.
TIMEOUT_S = 20.0


class Detector:
    """Find objects in images with one model.

    backend: takes uint8 RGB batches (b, h, w, 3) of the manifest's input size; normalisation and channel order are its
    business. It gets at most its `batch_size` images a call; None means any number. It serves `detect`, and belongs to
    the thread that calls it. None: `detect` goes through the contexts too. open_backend: opens one more, on the NPU
    core given, for each context of `stream`; with `workers` "processes" it is called in a child process and has to
    travel there by pickle. cores: one entry per context. options: `score_threshold`, `iou_threshold`,
    `max_detections`, ... of `PostProcessor`.

    Contexts are opened by the first stream (or `prepare`) and stay open for the next ones, until `close`, or until
    nobody holds the detector any more. Several streams at a time are served: contexts take a frame of each in turn.

    read_ms, preprocess_ms, infer_ms, postprocess_ms, total_ms: wall-clock milliseconds of the last `detect`, all of its
    images together (contexts work on several at once, so their stages may add up to more than the total). timings: the
    sums of these over all calls and streams, and "images" and "calls".
    """

    def __init__(
        self,
        backend: Backend | None,
        manifest: Manifest,
        *,
        open_backend: Callable[[int], Backend] | None = None,
        cores: Sequence[int] = (0,),
        workers: Workers = "threads",
        timeout_s: float | None = TIMEOUT_S,
        **options: Any,
    ) -> None:
        if backend is not None and backend.batch_size is not None and backend.batch_size < 1:
            raise ValueError(f"the backend's batch_size must be None or at least 1, got {backend.batch_size}")
        if workers not in ("threads", "processes"):
            raise ValueError(f"workers must be threads or processes, got {workers!r}")
        if open_backend is None and (backend is None or workers == "processes"):
            raise ValueError(
                f"workers {workers} without {'a backend or ' * (workers == 'threads')}open_backend: give one"
            )
        self._own = backend
        self._elsewhere = Elsewhere()
        self.manifest = manifest
        self.cores, self.workers, self.timeout_s = tuple(cores), workers, timeout_s
        self.postprocessor = decoder_of(manifest, **options)
        self.read_ms = self.preprocess_ms = self.infer_ms = self.postprocess_ms = self.total_ms = 0.0
        self.timings: dict[str, float] = dict.fromkeys((*STAGES, "images", "calls"), 0)
        self._open_backend = open_backend
        self._buffer = np.empty((0, *manifest.input_hw, 3), np.uint8)
        self._lock = threading.Lock()
        self._crew: Crew | None = None
        self._dismissal: weakref.finalize[..., Any] | None = None
        self._closed = False

    @property
    def backend(self) -> Backend:
        """What `detect` runs; where contexts do that, something that only has their name, once one is open."""
        return self._elsewhere if self._own is None else self._own

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
        results: list[Detections] = []
        if self._own is None:
            results += self._detect_in_contexts(images, spent)
        else:
            size = self._own.batch_size or max(1, len(images))
            for start in range(0, len(images), size):
                results += self._detect_batch(self._own, images[start : start + size], spent)
        self.preprocess_ms, self.infer_ms, self.postprocess_ms = (spent[stage] for stage in STAGES[1:4])
        self.total_ms = (time.perf_counter() - begin) * 1e3
        self._count({stage: getattr(self, stage) for stage in STAGES}, images=len(images), calls=1)
        return results

    def _detect_batch(
        self, backend: Backend, images: Sequence[np.ndarray], spent: dict[str, float]
    ) -> list[Detections]:
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
        heads = backend.infer(batch)
        clock.append(time.perf_counter())
        results = self.postprocessor(heads, letterboxes)
        clock.append(time.perf_counter())
        for i, stage in enumerate(STAGES[1:4]):
            spent[stage] += (clock[i + 1] - clock[i]) * 1e3
        return results

    def _detect_in_contexts(self, images: Sequence[np.ndarray], spent: dict[str, float]) -> list[Detections]:
        """Run images as a short stream and add their milliseconds to `spent`; the first error of one is raised."""
        if not len(images):
            return []
        found = []
        with closing(self._results((Frame(i, f"images[{i}]", image) for i, image in enumerate(images)))) as results:
            for result in results:
                if result.error is not None:
                    raise result.error
                for stage in STAGES[1:4]:
                    spent[stage] += getattr(result, stage)
                found.append(result.detections)
        return found

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
        try:
            with closing(self._results(source, policy, postprocess_batch, on_start)) as results:
                for result in results:
                    self._count({stage: getattr(result, stage) for stage in STAGES}, images=1)
                    yield result
        finally:
            self._count({}, calls=1)

    def _results(
        self,
        source: Iterable[Any],
        policy: Policy | None = None,
        postprocess_batch: int = 1,
        on_start: Callable[[Scheduler], None] | None = None,
    ) -> Generator[Result, None, None]:
        decode = self.postprocessor
        batched = postprocess_batch > 1 and self.workers == "threads"
        in_context = None if batched else decode
        scheduler = Scheduler(
            self._crew_at_hand(),
            policy=policy or ("latest" if getattr(source, "live", False) else "block"),
            call=lambda context, item: context.run(item, in_context),
            finish=(lambda raws: finish_batch(decode, raws)) if batched else None,
            finish_batch=postprocess_batch,
        )
        feeder = Feeder(source, scheduler)
        try:
            with quick_switching():
                if on_start is not None:
                    on_start(scheduler)
                feeder.start()
                for outcome in scheduler.results():
                    found = outcome.value if outcome.error is None else _failed(outcome.item, outcome.error)
                    yield replace(found, total_ms=outcome.waited_ms)
                if feeder.error is not None:
                    raise feeder.error
        finally:
            feeder.stop()
            scheduler.close()

    def prepare(self) -> None:
        """Open the contexts now, so that the first stream begins at once. Raises what opening one raises."""
        self._crew_at_hand().open()

    def _crew_at_hand(self) -> Crew:
        """Return the contexts, those that are open or, where they failed for good, others."""
        with self._lock:
            if self._closed:
                raise ValueError("the detector was closed; open the bundle again")
            if self._crew is None or not self._crew.usable:
                # A child process has a timeout of its own, and can be ended; a thread cannot.
                watched = self.workers == "threads" and self._open_backend is not None
                self._crew = Crew(self._context_opener(), self.cores, timeout_s=self.timeout_s if watched else None)
                if self._dismissal is not None:
                    self._dismissal.detach()
                self._dismissal = weakref.finalize(self, self._crew.dismiss)
                self._dismissal.atexit = False
            return self._crew

    def _context_opener(self) -> Callable[[int], Context]:
        # What is returned must not hold the detector: its contexts end when nobody holds it any more.
        manifest, opener, decode, elsewhere = self.manifest, self._open_backend, self.postprocessor, self._elsewhere
        if opener is None:
            if len(self.cores) > 1:
                raise ValueError("several contexts need open_backend; a backend serves one thread")
            lent = _Lent(self.backend)
            return lambda core: Pipeline(lent, manifest, decode)
        if self.workers == "processes":
            from .worker_process import ProcessContext

            timeout_s = self.timeout_s

            def in_process(core: int) -> Context:
                context = ProcessContext(opener, core, manifest, decode, timeout_s)
                elsewhere.name = context.name
                return context

            return in_process

        def in_thread(core: int) -> Context:
            backend = opener(core)
            elsewhere.name = backend.name
            return Pipeline(backend, manifest, decode)

        return in_thread

    def _count(self, stages: dict[str, float], images: int = 0, calls: int = 0) -> None:
        with self._lock:
            for stage, spent_ms in stages.items():
                self.timings[stage] += spent_ms
            self.timings["images"] += images
            self.timings["calls"] += calls

    def close(self) -> None:
        """Close the contexts and free the backend; the detector cannot be used afterwards, its streams raise."""
        with self._lock:
            self._closed = True
            crew, self._crew = self._crew, None
        if crew is not None:
            crew.close()
        self.backend.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
    cpus: int | None = None,
    **options: Any,
) -> Detector:
    """Open a bundle on the backend named ("auto" takes the best that this machine has); options as of `Detector`.

    contexts_per_core: of each NPU core; two hide the work of the CPU. On the CPU alone (ONNX Runtime) so many contexts
    share its cores. workers: with "processes" all contexts are opened here, each in a child, and none in this process,
    which loads no runtime; "auto" takes the best backend whose contexts open there. cpus: cores for the contexts where
    they compute on the CPU; None: all that this process may use.

    Raises ValueError, FileNotFoundError or OSError with the file, the rule and the cure.
    """
    from .backends.opener import Opener

    if contexts_per_core < 1:
        raise ValueError(f"contexts_per_core must be at least 1, got {contexts_per_core}")
    manifest = load_manifest(bundle)
    apart = workers == "processes"

    def on(kind: str, backend: Backend | None) -> Detector:
        opener = Opener(bundle, manifest, kind, contexts_per_core, shared=apart, cpus=cpus)
        limit_s = timeout_s if opener.npu else None
        cores = opener.cores
        return Detector(
            backend, manifest, open_backend=opener, cores=cores, workers=workers, timeout_s=limit_s, **options
        )

    if apart:
        from .backends.opening import open_as

        def prepared(kind: str) -> Detector:
            detector = on(kind, None)
            detector.prepare()
            return detector

        return open_as(bundle, manifest, backend, prepared)
    from .backends.opening import open_backend

    opened = open_backend(bundle, manifest, backend)
    try:
        return on(opened.name, opened)
    except ValueError:
        opened.close()
        raise
