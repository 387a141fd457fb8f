"""Short pauses: set the interpreter so that no thread keeps the window waiting for longer than it must."""

from __future__ import annotations

import gc
import sys

import cv2

# How long a thread may keep the interpreter lock while others want it, as in `deploy.detector`. Python's 5 ms are felt
# several times over: the window takes the lock anew for each of its Python methods that Qt calls.
SWITCH_S = 0.0005


def take_turns_often() -> None:
    """Let threads change often; for the whole process.

    OpenCV's own threads wait by spinning, which takes a tenth of a core from those that decode, infer and paint; the
    app has enough threads without them.
    """
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
    cv2.setNumThreads(1)


def settle_memory() -> None:
    """Take what is there now out of every later search for garbage; to be called once all that starts up has.

    Modules live as long as the app. Searching through those of Qt, NumPy and OpenCV holds the lock for 20 ms and more,
    whichever thread it falls to.
    """
    gc.freeze()
