"""A context in a process of its own: for runtimes that do not release the interpreter lock, or that crash.

The parent's thread letterboxes straight into memory that both share, the child infers and post-processes, and only
boxes travel back. A child that dies or hangs takes one image with it, which is tried again on a fresh child.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from .context import ContextLostError
from .detections import Detections
from .frames import Frame, Result
from .letterbox import Letterbox
from .manifest import Manifest
from .pipeline import Decoder, check_image

if TYPE_CHECKING:
    from .backends.protocol import Backend

# Children are started anew, not forked: a fork copies locks that other threads hold.
PROCESSES = multiprocessing.get_context("spawn")
OPENING_S = 120.0
GOODBYE_S = 2.0

# Called in the child with the core; must travel by pickle.
OpenBackend = Callable[[int], "Backend"]


class ProcessContext:
    """Run frames through a backend that lives in a child process; see `deploy.context.Context`.

    open_backend: opens the backend in the child; it and `decode` are pickled. timeout_s: an answer that takes longer
    ends the child. name: the backend's. Raises what the child raised while opening, as ValueError or OSError with its
    one line.
    """

    def __init__(
        self, open_backend: OpenBackend, core: int, manifest: Manifest, decode: Decoder, timeout_s: float | None
    ) -> None:
        self.manifest, self.core, self.timeout_s, self._decode = manifest, core, timeout_s, decode
        height, width = manifest.input_hw
        shared = PROCESSES.RawArray("B", height * width * 3)
        self._pixels = np.frombuffer(shared, np.uint8).reshape(height, width, 3)
        self._pipe, theirs = PROCESSES.Pipe()
        self._process = PROCESSES.Process(
            target=_serve, args=(theirs, shared, (height, width), open_backend, core), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            # Not among the arguments: with more than a pipe holds, `start` would wait for ever for a child that died.
            self._send(("decode", decode))
            self.name: str = self._answer(OPENING_S)
        except ContextLostError as error:
            self.close()
            raise OSError(f"{error} while it opened its backend; its lines on standard error tell why") from error
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int | None:
        """The child's process number."""
        return self._process.pid

    def __call__(self, item: Any) -> Any:
        """Return what `run` does, with the decoder that the child has."""
        return self.run(item, self._decode)

    def run(self, item: Any, decode: Decoder) -> Any:
        """Return the Result of a frame; what is no frame brings its own error along. The child is sent a new decoder.

        Raises ContextLostError where the child died, or did not answer in time (it is ended then).
        """
        if not isinstance(item, Frame):
            raise item.error
        check_image(item.image, f"frame {item.number} of {item.name}")
        begin = time.perf_counter()
        height, width = item.image.shape[:2]
        letterbox = Letterbox.fit((height, width), self.manifest.input_hw, self.manifest.pad_value)
        letterbox.apply(item.image, out=self._pixels)
        ready = time.perf_counter()
        if decode is not self._decode:
            self._send(("decode", decode))
            self._decode = decode
        self._send(letterbox)
        xyxy, score, class_id, infer_ms, postprocess_ms = self._answer(self.timeout_s)
        preprocess_ms = (ready - begin) * 1e3
        return Result(item, Detections(xyxy, score, class_id), preprocess_ms, infer_ms, postprocess_ms)

    def _send(self, what: Any) -> None:
        try:
            self._pipe.send(what)
        except OSError as error:
            raise self._lost() from error

    def _answer(self, timeout_s: float | None) -> Any:
        try:
            if not self._pipe.poll(timeout_s):
                self._process.kill()
                raise ContextLostError(f"the process of core {self.core} gave no answer within {timeout_s:g} s")
            kind, told = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise self._lost() from error
        if kind == "found":
            return told
        raise told

    def _lost(self) -> ContextLostError:
        self._process.join(GOODBYE_S)
        code = self._process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return ContextLostError(f"the process of core {self.core} died ({how})")

    def close(self) -> None:
        """End the child: asked first, then killed."""
        try:
            self._pipe.send(None)
        except OSError:
            self._process.kill()
        self._process.join(GOODBYE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()


class Elsewhere:
    """Stands for a detector's backend where only its contexts have any. name: "" until one opens."""

    batch_size = 1

    def __init__(self) -> None:
        self.name = ""

    def infer(self, batch: np.ndarray) -> list[np.ndarray]:
        """Raise ValueError."""
        raise ValueError("the backends are in other processes; call the detector's detect or stream")

    def close(self) -> None:
        """Leave the children to the detector."""


def _serve(pipe: Connection, shared: Any, input_hw: tuple[int, int], open_backend: OpenBackend, core: int) -> None:
    """Answer letterboxes, whose pixels lie in the shared memory, until None comes or the parent is gone.

    Decoders come the same way, the first one before all else.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it says when to end
    sys.setswitchinterval(0.05)  # one busy thread
    batch = np.frombuffer(shared, np.uint8).reshape(1, *input_hw, 3)
    try:
        backend = open_backend(core)
    except Exception as error:
        pipe.send(("error", portable(error)))
        return
    try:
        pipe.send(("found", backend.name))
        decode: Decoder | None = None
        while (letterbox := pipe.recv()) is not None:
            if isinstance(letterbox, tuple):
                _, decode = letterbox
                continue
            assert decode is not None
            try:
                begin = time.perf_counter()
                heads = backend.infer(batch)
                inferred = time.perf_counter()
                found = decode(heads, [letterbox])[0]
                spent = ((inferred - begin) * 1e3, (time.perf_counter() - inferred) * 1e3)
                pipe.send(("found", (found.xyxy, found.score, found.class_id, *spent)))
            except Exception as error:
                pipe.send(("error", portable(error)))
    except (EOFError, ConnectionError):
        pass  # the parent is gone
    finally:
        backend.close()


def portable(error: Exception) -> Exception:
    """Return an error that survives pickling: of its own kind where the parent acts on that, else a RuntimeError."""
    if isinstance(error, ContextLostError):
        return ContextLostError(str(error))
    if isinstance(error, ModuleNotFoundError):
        return ModuleNotFoundError(str(error), name=error.name)
    for kind in (FileNotFoundError, PermissionError, TimeoutError, OSError, ValueError, MemoryError):
        if isinstance(error, kind):
            return kind(*error.args) if type(error) is kind else kind(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")
