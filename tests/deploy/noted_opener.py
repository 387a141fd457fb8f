"""An opener for child processes that notes in a file which process opened a backend."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from deploy.backends.emulated_npu import EmulatedBackend, EmulatedNpu
from tests.deploy.bright_cells import find_bright_cells


@dataclass
class NotedOpener:
    """Opens an emulated NPU of the process that calls it."""

    notes: Path

    def __call__(self, core: int) -> EmulatedBackend:
        with self.notes.open("a") as notes:
            notes.write(f"{os.getpid()}\n")
        return EmulatedNpu((64, 96), find_bright_cells, latency_ms=0).open(core)

    @property
    def pids(self) -> list[int]:
        """The process of each opening, in order."""
        return [int(line) for line in self.notes.read_text().split()] if self.notes.exists() else []
