"""Keep the lines that vendor libraries print out of standard output, which belongs to results."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_lock = threading.Lock()
_inside = 0
_saved: int | None = None


@contextmanager
def vendor_lines_on_stderr() -> Iterator[None]:
    """Send what C code writes to file descriptor 1 to standard error, for the whole process, until the block ends.

    Blocks of several threads may overlap. What other threads print meanwhile goes to standard error too, so it stands
    around the opening of a context only, never around inference.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _inside, _saved
    with _lock:
        if _inside == 0:
            try:
                _flush()
                _saved = os.dup(1)
                os.dup2(2, 1)
            except OSError:  # one of them is closed, as daemons do it: nothing to keep clean
                if _saved is not None:
                    os.close(_saved)
                _saved = None
        _inside += 1


def _leave() -> None:
    global _inside, _saved
    with _lock:
        _inside -= 1
        if _inside == 0 and _saved is not None:
            _flush()
            os.dup2(_saved, 1)
            os.close(_saved)
            _saved = None


def _flush() -> None:
    """Write out what Python's and C's buffers hold for the file that descriptor 1 is now."""
    if sys.stdout is not None:
        with suppress(OSError, ValueError):  # its reader is gone, or it was closed; not this module's matter
            sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)
