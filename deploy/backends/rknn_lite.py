"""The NPU through the vendor's Python wrapper, rknn-toolkit-lite2: the road that most boards have installed.

The wrapper never raises, checks neither height, width nor batch, and gives float32 whatever the model is; so all
checks are here, before and after each call. Facts of 2.5.0, whose Python surface the tests' stand-in repeats.
"""

from __future__ import annotations

import gc
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from ..context import ContextLostError
from ..manifest import Manifest
from .context_guard import ContextGuard
from .head_order import head_order
from .protocol import Core, check_batch, core_mask
from .vendor_output import vendor_lines_on_stderr

# Each inference leaves reference cycles of about 42 kB behind, by users' reports: 500 of them are 21 MB. A collection
# stops all threads for some milliseconds, so it is not done for each.
COLLECT_EVERY = 500
# All contexts of a process share its garbage.
_inferences = itertools.count(1)

_WHY = "its lines on standard error tell more, and `rsedge doctor` looks for the cause"


class RknnLiteBackend:
    """Run a bundle's `.rknn` file in a context of its own. Belongs to the thread that runs it first.

    core: as `core_mask` takes it; None lets the runtime choose. collect_every: after so many inferences of all contexts
    together Python's garbage collector runs; 0: never. `infer` returns float32.

    Raises FileNotFoundError, OSError where the wrapper is not installed or fails; each with the cure.
    That the model's outputs fit the manifest shows at the first inference only: the wrapper does not tell before.
    """

    name = "rknn-lite"

    def __init__(
        self, path: Path, manifest: Manifest, core: Core = None, *, collect_every: int = COLLECT_EVERY
    ) -> None:
        mask = core_mask(core)
        if collect_every < 0:
            raise ValueError(f"collect_every must be 0 (never) or more, got {collect_every}")
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; copy the whole bundle again")
        self._path, self._manifest, self._collect_every = path, manifest, collect_every
        self._shapes = manifest.output_shapes
        self._count = len(manifest.outputs or manifest.output_names)
        self._order: list[int] | None = None
        self._guard = ContextGuard(self.name, self._free)
        with vendor_lines_on_stderr():
            try:
                from rknnlite.api import RKNNLite
            except (ImportError, OSError) as error:
                raise OSError(
                    f"the rknn-lite backend needs the vendor's wrapper, which cannot be imported ({error}); on the "
                    'board pip install ".[board]" in the clone, elsewhere use the onnx backend'
                ) from error
            self._wrapper: Any = None
            try:
                self._wrapper = RKNNLite(verbose=False)
                # Garbage loads fine too; whether it is a model shows in init_runtime.
                self._demand("load_rknn", self._wrapper.load_rknn(str(path)))
                self._demand("init_runtime", self._wrapper.init_runtime(core_mask=mask))
            except OSError:
                self._free()
                raise
            except Exception as error:  # it says that it never raises, and does for a machine it does not know
                self._free()
                raise OSError(
                    f"{path}: the vendor's wrapper failed ({type(error).__name__}: {error}); {_WHY}"
                ) from error

    @property
    def batch_size(self) -> int:
        """One image a call: models for the NPU have a static batch."""
        return 1

    def infer(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run the network on (b, h, w, 3) uint8 RGB, image by image; returns float32 heads, see `Backend`.

        Raises ContextLostError where the wrapper gives no answer, ValueError where its outputs do not fit the manifest,
        for wrong batches and after `close`, RuntimeError in another thread than the first.
        """
        check_batch(batch, self._manifest.input_hw)
        if self._manifest.channel_order == "bgr":
            batch = batch[..., ::-1]
        with self._guard:
            runs = [self._run(np.ascontiguousarray(batch[i : i + 1])) for i in range(len(batch))]
        return runs[0] if len(runs) == 1 else [np.concatenate(parts) for parts in zip(*runs, strict=True)]

    def close(self) -> None:
        """Release the context, once, from any thread; after the run where one is under way."""
        self._guard.close()

    def _run(self, image: np.ndarray) -> list[np.ndarray]:
        try:
            outputs = self._wrapper.inference(inputs=[image])
        except Exception as error:
            raise ContextLostError(
                f"{self._path}: the vendor's wrapper failed ({type(error).__name__}: {error}); {_WHY}"
            ) from error
        if self._collect_every and next(_inferences) % self._collect_every == 0:
            gc.collect()
        if outputs is None:
            raise ContextLostError(f"{self._path}: inference of the vendor's wrapper gave no outputs; {_WHY}")
        shapes = [np.shape(output) for output in outputs]
        if self._order is None:
            try:
                self._order = head_order(shapes, self._manifest)
            except ValueError as error:
                raise ValueError(f"{self._path}: {error}") from None
        heads = [outputs[index] for index in self._order] if len(outputs) == self._count else []
        if [head.shape for head in heads] != self._shapes or any(head.dtype != np.float32 for head in heads):
            raise ValueError(
                f"{self._path}: outputs must be float32 of shapes {self._shapes}, "
                f"got {[(str(np.asarray(output).dtype), np.shape(output)) for output in outputs]}; "
                "bring rknn-toolkit-lite2 to 2.5.0, or export the bundle again"
            )
        return heads

    def _demand(self, call: str, code: Any) -> None:
        if code != 0:
            raise OSError(f"{self._path}: {call} of the vendor's wrapper returned {code}; {_WHY}")

    def _free(self) -> None:
        wrapper, self._wrapper = self._wrapper, None
        if wrapper is None:
            return
        try:
            wrapper.release()
        except Exception:
            return  # there is nothing left to release then
