"""Plots of a run: losses, learning rate and mAP over the epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# One hand for all pictures of the project: the same quiet axes everywhere.
STYLE: Any = {
    "figure.dpi": 110,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
DETECTION_LOSSES = ("box", "cls", "dfl")
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]


def plot_training(rows: list[dict[str, float]], folder: Path) -> list[Path]:
    """Draw losses.png, map.png and, where a teacher taught, distillation.png; returns the files written.

    rows: a run's log, one dict of figures per epoch.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    if not rows:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    epochs = [row["epoch"] for row in rows]
    with plt.rc_context(STYLE):
        names = [k for k in rows[0] if k.startswith("loss/")]
        own = [n for n in names if n.removeprefix("loss/") in DETECTION_LOSSES] or names
        taught = [n for n in names if n not in own]
        groups = {"losses": ("Training losses", own), "distillation": ("Distillation losses", taught)}
        for file_name, (title, chosen) in groups.items():
            if not chosen:
                continue
            figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
            for number, name in enumerate(chosen):
                label = name.removeprefix("loss/").replace("_", " ")
                axis.plot(epochs, [row[name] for row in rows], color=COLOURS[number % len(COLOURS)], label=label)
            axis.set(xlabel="epoch", ylabel="loss (times its gain)", title=title, ylim=(0, None))
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.legend()
            rate = axis.twinx()
            rate.grid(False)
            rate.plot(
                epochs, [row["learning_rate"] for row in rows], color="#999999", linestyle=":", label="learning rate"
            )
            rate.set_ylabel("learning rate (dotted)", color="#777777")
            rate.set_ylim(0, None)
            written.append(folder / f"{file_name}.png")
            figure.savefig(written[-1])
            plt.close(figure)

        scored = [row for row in rows if "val/map50" in row]
        if scored:
            figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
            for colour, name, label in zip(COLOURS, ("val/map50", "val/map50_95"), ("mAP50", "mAP50-95"), strict=False):
                xs, ys = [row["epoch"] for row in scored], [100 * row[name] for row in scored]
                axis.plot(xs, ys, color=colour, marker="o", markersize=3, label=label)
                best = max(range(len(ys)), key=ys.__getitem__)
                axis.annotate(
                    f"{ys[best]:.1f}", (xs[best], ys[best]), textcoords="offset points", xytext=(0, 6), ha="center"
                )
            axis.set(xlabel="epoch", ylabel="mAP (%)", title="Validation", ylim=(0, 100))
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.legend()
            written.append(folder / "map.png")
            figure.savefig(written[-1])
            plt.close(figure)
    return written
