"""Two thousand boxes on the screen: what drawing, panning and the slider cost.

On an idle machine of two cores a frame takes some 5 ms; the bounds here leave room for other processes.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from deploy.detections import Detections
from gui.main_window import MainWindow
from gui.session import Picture
from gui.sifting import Candidates


def crowded(n: int = 2000) -> Picture:
    rng = np.random.default_rng(0)
    # On a grid, so that suppression leaves them all; 5 classes.
    at = np.stack(np.meshgrid(np.arange(50), np.arange(-(-n // 50))), -1).reshape(-1, 2)[:n] * (25.0, 18.0)
    boxes = np.hstack([at, at + rng.uniform(8, 16, (n, 2))])
    found = Detections(boxes, rng.uniform(0.3, 1, n), rng.integers(0, 5, n))
    pixels = rng.integers(0, 255, (720, 1280, 3)).astype(np.uint8)
    # In tiles, since one image alone keeps 300 boxes at most.
    from deploy.tiling import Tile

    parts, tiles = [], []
    for k in range(0, n, 250):
        parts.append(found.select(slice(k, k + 250)))
        tiles.append(Tile(0, 0, 1280, 720))
    return Picture("crowd.png", (720, 1280), Candidates(tuple(parts), (720, 1280), tuple(tiles)), pixels)


def test_panning_and_sifting_two_thousand_boxes(window: MainWindow, qtbot: Any) -> None:
    from gui.worker import screen_levels

    window.resize(1280, 800)
    picture = crowded()
    assert picture.pixels is not None
    window.pane.display(picture, screen_levels(picture.pixels), None)
    assert len(window.session.rows) == 2000
    view = window.pane.view
    view.show_labels = True

    def cost_ms(act: Any, times: int) -> np.ndarray:
        spent = []
        for i in range(times):
            begin = time.perf_counter()
            act(i)
            view.repaint()
            spent.append((time.perf_counter() - begin) * 1e3)
        return np.array(spent)

    pan = cost_ms(lambda i: view.pan_by(3 if i % 2 else -3, 2 if i % 2 else -2), 60)
    filters = window.session.filters
    slide = cost_ms(lambda i: window.filter(replace(filters, score=0.05 + 0.01 * (i % 20)), False), 40)
    print(f"pan p50 {np.median(pan):.1f} p99 {np.percentile(pan, 99):.1f} ms, ", end="")
    print(f"slider p50 {np.median(slide):.1f} p99 {np.percentile(slide, 99):.1f} ms")
    assert np.median(pan) < 33
    assert np.median(slide) < 50
