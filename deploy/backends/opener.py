"""Opener: how the contexts of one bundle are opened, on which cores and how many, in this process or in others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..manifest import Manifest

if TYPE_CHECKING:
    from .emulated_npu import EmulatedNpu
    from .protocol import Backend

NPU_CORES = 3


class Opener:
    """Open one more context of a bundle; called with an NPU core's number. Travels to child processes by pickle.

    kind: a concrete one, not "auto". contexts_per_core: on the CPU alone so many contexts share its cores. shared: the
    contexts are opened in other processes, where an emulated NPU's cores have to be one and the same. cpus: cores of
    the CPU for all contexts together where they compute there; None: all that this process may use.

    cores: one entry per context, core by core, so that the first contexts lie on different ones. npu: whether cores are
    those of an NPU, real or emulated, where a call that takes seconds is a fault.
    """

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        kind: str,
        contexts_per_core: int = 2,
        *,
        shared: bool = False,
        cpus: int | None = None,
    ) -> None:
        self.bundle, self.manifest, self.kind = bundle, manifest, kind
        self.npu = kind != "onnx"
        self.cores = tuple(range(NPU_CORES if self.npu else 1)) * contexts_per_core
        self._threads = 0 if self.npu else max(1, (cpus or len(os.sched_getaffinity(0))) // contexts_per_core)
        self._locks: list[Any] | None = None
        self._emulated: EmulatedNpu | None = None
        if kind == "emulated" and shared:
            from ..worker_process import PROCESSES

            self._locks = [PROCESSES.Lock() for _ in range(NPU_CORES)]

    def __call__(self, core: int) -> Backend:
        """Return a backend on that core. Raises as `open_backend`."""
        from .opening import open_backend

        if self.kind == "emulated":
            return self.emulated().open(core)
        return open_backend(
            self.bundle, self.manifest, self.kind, threads=self._threads, core=core if self.npu else None
        )

    def emulated(self) -> EmulatedNpu:
        """Return the emulated NPU that the contexts of this process share; ONNX Runtime says what it finds."""
        from .emulated_npu import emulate

        if self._emulated is None:
            self._emulated = emulate(self.bundle, self.manifest, locks=self._locks)
        return self._emulated

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_emulated": None}
