"""An NPU that is not there: cores with a lock and a latency each, faults on demand, heads from elsewhere.

For load only. It says how a runtime behaves around three cores that are busy for 7.91 ms an image (YOLOv8n, 512 x 512,
INT8); it says nothing about an NPU's numbers, which come from recorded heads or from ONNX Runtime. Waiting releases the
interpreter lock, as the vendor's call does.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..manifest import Manifest
from .protocol import Backend, check_batch

LATENCY_MS = 7.91
CORES = 3

# (b, h, w, 3) uint8 -> raw heads, as `Backend.infer`
Answer = Callable[[np.ndarray], list[np.ndarray]]


@dataclass
class Faults:
    """What goes wrong, as shares of the calls, 0 to 1: `error` raises, `hang` waits `hang_s` before it answers."""

    error: float = 0.0
    hang: float = 0.0
    hang_s: float = 3600.0


@dataclass
class Load:
    """What the cores went through. busy_s, calls: by core. overlaps: entries of a second thread into one context."""

    busy_s: list[float] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    overlaps: int = 0


class EmulatedNpu:
    """Cores that contexts share. `open` gives a backend on one core.

    input_hw: of the model. answer: what the heads are. cores, latency_ms: as on the board. jitter: standard deviation
    of the latency as a share of it. clock: how many times faster than real time it runs, for long tests. locks: one
    lock per core; those of `multiprocessing` make processes share the cores. wait: how a latency passes, in seconds.
    """

    def __init__(
        self,
        input_hw: tuple[int, int],
        answer: Answer,
        *,
        cores: int = CORES,
        latency_ms: float = LATENCY_MS,
        jitter: float = 0.0,
        clock: float = 1.0,
        faults: Faults | None = None,
        seed: int = 0,
        locks: Sequence[AbstractContextManager[Any]] | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        if cores < 1:
            raise ValueError(f"cores must be at least 1, got {cores}")
        if latency_ms < 0 or jitter < 0 or not clock > 0:
            raise ValueError(
                f"latency_ms and jitter must be 0 or more and clock above 0, got {latency_ms}, {jitter}, {clock}"
            )
        if locks is not None and len(locks) != cores:
            raise ValueError(f"locks must be one per core ({cores}), got {len(locks)}")
        self.input_hw, self.answer, self.cores = input_hw, answer, cores
        self.latency_s, self.jitter, self.faults = latency_ms / 1e3 / clock, jitter, faults or Faults()
        self.wait = wait
        self.locks = list(locks) if locks is not None else [threading.Lock() for _ in range(cores)]
        self.load = Load([0.0] * cores, [0] * cores)
        self._random = random.Random(seed)
        self._drawing = threading.Lock()
        self._queued = [0] * cores

    def open(self, core: int | None) -> EmulatedBackend:
        """Return a context on one core; None: each image goes to the core that this process keeps least busy.

        Raises ValueError where there is no such core.
        """
        if core is not None and not 0 <= core < self.cores:
            raise ValueError(f"core must be between 0 and {self.cores - 1}, or None for any, got {core}")
        return EmulatedBackend(self, core)

    @contextmanager
    def held(self, core: int | None) -> Iterator[int]:
        """Hold a core, or the one with the shortest line in front of it; waits for it and gives its number."""
        with self._drawing:
            number = min(range(self.cores), key=self._queued.__getitem__) if core is None else core
            self._queued[number] += 1
        try:
            with self.locks[number]:
                yield number
        finally:
            with self._drawing:
                self._queued[number] -= 1

    def draw(self) -> tuple[float, float]:
        """Draw a latency in seconds and a number from 0 to 1 that decides about faults."""
        if not self.jitter and not self.faults.error and not self.faults.hang:
            return self.latency_s, 1.0
        with self._drawing:
            latency = self.latency_s * max(0.0, self._random.gauss(1.0, self.jitter)) if self.jitter else self.latency_s
            return latency, self._random.random()


class EmulatedBackend:
    """One context of an `EmulatedNpu`; see `Backend`. Counts threads that enter it while another one is inside."""

    name = "emulated"

    def __init__(self, npu: EmulatedNpu, core: int | None) -> None:
        self._npu, self.core = npu, core
        self._inside = threading.Lock()
        self._closed = False

    @property
    def batch_size(self) -> int:
        """One image a call, as the NPU's static batch."""
        return 1

    def infer(self, batch: np.ndarray) -> list[np.ndarray]:
        """Hold the core for the latency of each image and return the heads. Raises RuntimeError for a drawn fault."""
        npu = self._npu
        check_batch(batch, npu.input_hw)
        if self._closed:
            raise ValueError("the emulated backend was closed; open the bundle again")
        if not self._inside.acquire(blocking=False):
            npu.load.overlaps += 1
            raise RuntimeError("two threads inside one context: each thread needs a context of its own")
        try:
            for _ in range(len(batch)):
                latency, fate = npu.draw()
                if fate < npu.faults.hang:
                    npu.wait(npu.faults.hang_s)
                elif fate < npu.faults.hang + npu.faults.error:
                    raise RuntimeError(f"emulated fault on core {'any' if self.core is None else self.core}")
                with npu.held(self.core) as core:
                    begin = time.perf_counter()
                    if latency:
                        npu.wait(latency)
                    npu.load.busy_s[core] += time.perf_counter() - begin
                    npu.load.calls[core] += 1
            return npu.answer(batch)
        finally:
            self._inside.release()

    def close(self) -> None:
        """Leave the core."""
        self._closed = True


def answer_of(backend: Backend) -> Answer:
    """Return the heads of a real backend as an answer; one thread at a time runs it."""
    lock = threading.Lock()

    def answer(batch: np.ndarray) -> list[np.ndarray]:
        with lock:
            return backend.infer(batch)

    return answer


def recorded(heads: Sequence[np.ndarray]) -> Answer:
    """Return recorded heads, (1, channels, h, w) each, as the answer to every image."""
    kept = list(heads)

    def answer(batch: np.ndarray) -> list[np.ndarray]:
        return kept if len(batch) == 1 else [np.repeat(head, len(batch), axis=0) for head in kept]

    return answer


def emulate(
    bundle: Path, manifest: Manifest, locks: Sequence[AbstractContextManager[Any]] | None = None
) -> EmulatedNpu:
    """Return an emulated NPU whose answers ONNX Runtime computes on the CPU, on top of the NPU's own latency.

    Raises as `OnnxBackend`.
    """
    from .opening import open_backend

    return EmulatedNpu(manifest.input_hw, answer_of(open_backend(bundle, manifest, "onnx", threads=1)), locks=locks)
