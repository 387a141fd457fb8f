"""Import in turns: load a large library while the window goes on, its loop served between two of the modules."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from PyQt5.QtCore import QCoreApplication, QEventLoop

# An import that has kept the loop waiting for so long lets it go on before the next module.
PATIENCE_S = 0.003


class _Turns:
    """A finder that finds nothing: Python asks it before each module, and it serves the window's events then.

    Only before modules of `packages`. Python holds a lock on each module that is half imported: a thread that wants one
    waits for the window, and the window may wait for the thread.
    """

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = tuple(packages)
        self._since = time.perf_counter()

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Let the loop go on where it is time; never finds a module."""
        if name.partition(".")[0] in self._packages and time.perf_counter() - self._since > PATIENCE_S:
            QCoreApplication.processEvents(QEventLoop.AllEvents, 2)
            self._since = time.perf_counter()
        return None


def import_in_turns(name: str, packages: Sequence[str]) -> ModuleType:
    """Return a module like `importlib.import_module`, with the loop served between the modules of `packages`.

    To be called in the thread of the window: sip crashes where one thread meets what another one has half imported. No
    other thread may import anything of `packages` meanwhile, and what the loop serves must not call this again.
    Raises as `importlib.import_module`.
    """
    turns = _Turns(packages)
    sys.meta_path.insert(0, turns)
    try:
        return importlib.import_module(name)
    finally:
        sys.meta_path.remove(turns)
