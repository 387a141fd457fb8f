"""Scene pyramid: a large scene at any size on the screen, by tiles, never whole in memory. Knows no Qt.

Coarse levels are cut from one small overview, fine ones are read window by window and reduced. The overview is either
read from the file, or grows out of the tiles that detection reads anyway.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from deploy.scenes import Scene

TILE_PX = 512
CACHE_BYTES = 128 << 20
# The overview's longer side: enough that no tile has to reduce a window of more than about 4096 pixels.
_OVERVIEW_PX, _MOST_OVERVIEW_PX = 2048, 4096
# A scene of fewer pixels gives its overview at once; a larger one while its tiles are read.
AT_ONCE_PX = 64e6


@dataclass(frozen=True)
class TileKey:
    """A tile of a level: `level` halvings of the scene, `column` and `row` count tiles of TILE_PX there."""

    level: int
    column: int
    row: int


class ScenePyramid:
    """Tiles of a scene for the screen; see the module's text.

    scene: a handle of its own, so that looking never waits for detection. levels: halvings for which tiles are read.
    overview: (h, w, 4) uint8, blue first as screens want it,
    black where nothing was read yet; factor: scene pixels per pixel of it. version:
    counts changes of the overview. complete: whether all of the overview is there.

    `tile`, `paint` and `load` may be called from different threads.
    """

    def __init__(self, scene: Scene, cache_bytes: int = CACHE_BYTES) -> None:
        height, width = self.size_hw = scene.size_hw
        self.name = scene.name
        self._scene = scene
        side = max(height, width)
        self._overview_px = min(side, max(_OVERVIEW_PX, min(_MOST_OVERVIEW_PX, side // 8)))
        self.factor = side / self._overview_px
        self.overview = np.zeros((max(1, round(height / self.factor)), max(1, round(width / self.factor)), 4), np.uint8)
        self.levels = max(0, math.ceil(math.log2(self.factor)))
        self.version = 0
        self.complete = False
        self._lock = threading.Lock()
        self._kept: OrderedDict[TileKey, np.ndarray] = OrderedDict()
        self._kept_bytes, self._cache_bytes = 0, cache_bytes
        self._closed = False

    def level_for(self, scale: float) -> int | None:
        """Return the level to show at `scale` screen pixels per scene pixel; None: the overview is fine enough."""
        if scale * self.factor <= 1.01:
            return None
        return min(max(0, math.floor(math.log2(1 / scale) + 1e-6)) if scale < 1 else 0, max(0, self.levels - 1))

    def visible(self, level: int, x1: float, y1: float, x2: float, y2: float) -> list[TileKey]:
        """List the tiles of a level that a part of the scene touches, those in its middle first."""
        step = TILE_PX << level
        height, width = self.size_hw
        columns = range(max(0, int(x1 // step)), min((width - 1) // step, int(x2 // step)) + 1)
        rows = range(max(0, int(y1 // step)), min((height - 1) // step, int(y2 // step)) + 1)
        cx, cy = (x1 + x2) / 2 / step - 0.5, (y1 + y2) / 2 / step - 0.5
        keys = [TileKey(level, c, r) for r in rows for c in columns]
        return sorted(keys, key=lambda key: (key.column - cx) ** 2 + (key.row - cy) ** 2)

    def bounds(self, key: TileKey) -> tuple[int, int, int, int]:
        """Return the part of the scene that a tile shows: x, y, w, h in scene pixels."""
        step = TILE_PX << key.level
        x, y = key.column * step, key.row * step
        height, width = self.size_hw
        return x, y, min(step, width - x), min(step, height - y)

    def tile(self, key: TileKey) -> np.ndarray | None:
        """Return a tile that is in memory, (h, w, 4) uint8, blue first, or None; never reads."""
        with self._lock:
            image = self._kept.get(key)
            if image is not None:
                self._kept.move_to_end(key)
            return image

    def missing(self, keys: Iterable[TileKey]) -> list[TileKey]:
        """Return those tiles that are not in memory."""
        with self._lock:
            return [key for key in keys if key not in self._kept]

    def load(self, key: TileKey) -> np.ndarray:
        """Read a tile and keep it. Raises ValueError where the file is damaged there, or closed."""
        x, y, w, h = self.bounds(key)
        image = self._scene.read(x, y, w, h)
        if key.level:
            size = (max(1, w >> key.level), max(1, h >> key.level))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGRA)
        with self._lock:
            if key not in self._kept and not self._closed:
                self._kept[key] = image
                self._kept_bytes += image.nbytes
                while self._kept_bytes > self._cache_bytes and len(self._kept) > 1:
                    self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return image

    def load_overview(self) -> None:
        """Read the overview from the file; decodes every block where the file has no reduced copies."""
        image = self._scene.overview(self._overview_px)
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGRA)
        if image.shape != self.overview.shape:  # the file's own rounding
            size = (self.overview.shape[1], self.overview.shape[0])
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        self.overview[:] = image
        self.version += 1
        self.complete = True

    def paint(self, image: np.ndarray, x: int, y: int) -> None:
        """Lay a window of the scene, (h, w, 3) uint8 RGB, whose top left pixel is (x, y), into the overview."""
        if self.complete:
            return
        h, w = image.shape[:2]
        left, top = math.floor(x / self.factor), math.floor(y / self.factor)
        right = min(self.overview.shape[1], math.ceil((x + w) / self.factor))
        bottom = min(self.overview.shape[0], math.ceil((y + h) / self.factor))
        if right > left and bottom > top:
            small = cv2.resize(image, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
            self.overview[top:bottom, left:right] = cv2.cvtColor(small, cv2.COLOR_RGB2BGRA)
            self.version += 1

    @property
    def small(self) -> bool:
        """Whether the overview is read from the file at once."""
        return self.size_hw[0] * self.size_hw[1] <= AT_ONCE_PX

    def close(self) -> None:
        """Free the tiles and the file; a read under way is finished first."""
        with self._lock:
            self._closed = True
            self._kept.clear()
            self._kept_bytes = 0
        self._scene.close()
