"""Quiet libraries: keep what image libraries print of their own accord away from the user's standard error.

libjpeg, libpng, libtiff and FFmpeg inside OpenCV write to file descriptor 2 from C: "Corrupt JPEG data: 49 extraneous
bytes", "iCCP: known incorrect sRGB profile". None of it names a file, all of it runs through a progress bar, and what
matters of it is told by rsedge in one line. Everything that is not known to be such talk is passed on.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_TALK = re.compile(
    rb"""
    libpng\ (warning|error): | Corrupt\ JPEG\ data | Premature\ end\ of\ JPEG | Invalid\ SOS\ parameters
    | JPEG\ datastream | Unsupported\ marker\ type | Inconsistent\ progression | Application\ transferred\ too
    | TIFF\w*:\ | \w+:\ Warning,\ | \[[\ ]*(WARN|ERROR|INFO|DEBUG):\d+@ | OpenCV:\ (FFMPEG|terminate)
    | \[\w+(,[\w,]+)?\ @\ 0x[0-9a-f]+\]\  | (ERROR|Warning)\ \d+:\  | \[tcp\ @ | \[rtsp\ @
    """,
    re.VERBOSE,
)


def is_talk(line: bytes) -> bool:
    """Whether a line of standard error is a library's own talk."""
    return _TALK.match(line) is not None


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Drop the libraries' lines on file descriptor 2 meanwhile, pass all others on. Python's own go straight out.

    Does nothing with RSEDGE_DEBUG set, nor where standard error is not file descriptor 2 (captured, or closed).
    """
    try:
        ours = sys.stderr.fileno() == 2 and not os.environ.get("RSEDGE_DEBUG")
    except (AttributeError, OSError, ValueError):  # a stand-in without a descriptor
        ours = False
    if not ours:
        yield
        return
    sys.stderr.flush()
    real = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    reader = threading.Thread(target=_pass_on, args=(reading, real), name="rsedge-stderr", daemon=True)
    reader.start()
    before = sys.stderr
    try:
        with open(real, "w", encoding=before.encoding, errors=before.errors, buffering=1, closefd=False) as direct:
            sys.stderr = direct
            yield
    finally:
        sys.stderr = before
        os.dup2(real, 2)
        # A child process that outlives this holds the pipe open; its lines are passed on until it ends.
        reader.join(0.5)


def _pass_on(reading: int, real: int) -> None:
    """Copy lines from one descriptor to another until the first ends, and close both."""
    rest = b""
    while data := os.read(reading, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if not is_talk(line):
                _write(real, line + b"\n")
    if rest and not is_talk(rest):
        _write(real, rest)
    os.close(reading)
    os.close(real)


def _write(real: int, line: bytes) -> None:
    with suppress(OSError):  # nobody reads standard error any more; who writes to the pipe must not block all the same
        os.write(real, line)
