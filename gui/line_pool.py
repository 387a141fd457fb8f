"""Line pool: thousands of lines for Qt out of one NumPy array, without a new Python object for any of them."""

from __future__ import annotations

import numpy as np
from PyQt5 import sip
from PyQt5.QtCore import QLineF

# Lines that are made at a time; each is one small Python object, which then serves for good.
_CHUNK = 2048


class LinePool:
    """Lends the same lines again and again. What `fill` returned is good until it is called again."""

    def __init__(self) -> None:
        self._memory: list[np.ndarray] = []
        self._lines: list[QLineF] = []

    def fill(self, ends: np.ndarray) -> list[QLineF]:
        """Return one line for each row of `ends`: x1, y1, x2, y2, (n, 4).

        A QLineF is four doubles in that order (Qt 5's qreal everywhere but on builds that say otherwise, which Debian's
        are not). Making 8,000 of them takes 6 ms and wakes the garbage collector; writing them takes 0.1 ms.
        """
        while len(self._lines) < len(ends):
            memory = np.zeros((_CHUNK, 4))
            start, size = memory.ctypes.data, memory.strides[0]
            self._lines += [sip.wrapinstance(start + i * size, QLineF) for i in range(_CHUNK)]
            self._memory.append(memory)  # the lines only point there
        for i, memory in enumerate(self._memory):
            part = ends[i * _CHUNK : (i + 1) * _CHUNK]
            memory[: len(part)] = part
        return self._lines[: len(ends)]
