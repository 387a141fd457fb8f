"""Draw a diagnosis: every layer's own and accumulated signal-to-noise, in the network's order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .diagnosis import LayerNoise
from .diagnosis_report import limit_of, worst_first
from .plots import COLOURS, STYLE

LABELLED = 6


def plot_diagnosis(noises: Sequence[LayerNoise], path: Path, *, title: str = "Rounding, layer by layer") -> Path:
    """Write a chart as PNG and return its path; the layers with the worst own ratio are labelled.

    A layer that lost nothing stands at the top edge as a hollow mark. Raises ValueError without layers, OSError where
    the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    if not noises:
        raise ValueError("a diagnosis without layers cannot be drawn; the network has no fake-quantisers")
    path.parent.mkdir(parents=True, exist_ok=True)
    finite = [v for n in noises for v in (n.own_db, n.accumulated_db) if math.isfinite(v)] or [0.0]
    top, bottom = max(finite) + 12, min(*finite, limit_of(noises)) - 6
    places = range(1, len(noises) + 1)
    own = [min(noise.own_db, top) for noise in noises]
    accumulated = [min(noise.accumulated_db, top) for noise in noises]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(10, 5), layout="constrained")
        axis.grid(axis="x", visible=False)
        axis.vlines(places, accumulated, own, color="#bbbbbb", linewidth=1, zorder=1)
        axis.plot(places, accumulated, color=COLOURS[0], marker=".", markersize=5, linewidth=1, label="accumulated")
        exact = [math.isinf(noise.own_db) for noise in noises]
        axis.scatter(
            places,
            own,
            s=26,
            facecolors=["none" if e else COLOURS[1] for e in exact],
            edgecolors=COLOURS[1],
            label="own (only this layer rounded)",
            zorder=3,
        )
        limit = limit_of(noises)
        told = f"below {limit:.0f} dB a float16 island is suggested"
        axis.axhline(limit, color="#777777", linestyle=":", linewidth=1.2, label=told)
        _label_worst(axis, noises, own, top, bottom)
        axis.set(
            xlabel="layer, in the network's order",
            ylabel="signal-to-noise (dB; 6 dB are one bit)",
            xlim=(0, len(noises) + 1),
            title=title,
        )
        axis.legend(loc="upper left", ncols=3)
        figure.savefig(path)
        plt.close(figure)
    return path


def _label_worst(axis: Any, noises: Sequence[LayerNoise], own: Sequence[float], top: float, bottom: float) -> None:
    """Write the worst layers' names below everything, a row each, with a line up to the layer's mark."""
    worst = [n for n in worst_first(noises)[:LABELLED] if math.isfinite(n.own_db)]
    chosen = sorted(noises.index(noise) for noise in worst)
    # Names grow away from the nearer edge. The outermost stands lowest, so that no line runs through another's name.
    left = [index for index in chosen if index < 0.6 * len(noises)]
    right = [index for index in chosen if index >= 0.6 * len(noises)]
    room = 0.32 * (top - bottom)
    axis.set_ylim(bottom - room, top)
    for row, index in enumerate([*reversed(left), *right]):
        side = "left" if index in left else "right"
        axis.annotate(
            f"{noises[index].label}  {noises[index].own_db:.1f}",
            (index + 1, own[index]),
            xytext=(
                index + (1.5 if side == "left" else 0.5),
                bottom - room * (0.06 + 0.88 * row / max(1, len(chosen))),
            ),
            ha=side,
            va="center",
            fontsize=8.5,
            arrowprops={
                "arrowstyle": "-",
                "color": "#999999",
                "linewidth": 0.7,
                "shrinkA": 0,
                "shrinkB": 3,
                "relpos": (0 if side == "left" else 1, 0.5),
            },
        )
