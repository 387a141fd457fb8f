"""Plots of a report, drawn from its JSON document alone; matplotlib belongs to the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

INK, GREY = "#22303c", "#8795a1"
STAGE_COLOURS = {"read": "#b8c4ce", "preprocess": "#5b9bd5", "infer": "#22548c", "postprocess": "#e8a33d"}
LINES = ("#22548c", "#e8a33d", "#3f9c6b", "#b5485d", "#7a5fa8", "#5b9bd5")
SHOWN_LAYERS = 80
# Times that differ by more than this factor are drawn on a logarithmic axis.
DECADE = 10.0
# Names of layers closer than this would lie on each other.
APART = 9


def draw_plots(document: dict[str, Any], folder: Path) -> tuple[list[str], list[str]]:
    """Draw what the document has figures for into `folder` as PNG; returns the file names, and what is missing and why.

    Raises OSError where a file cannot be written.
    """
    try:
        import matplotlib
    except ImportError:
        cure = 'draw them on the host, which has matplotlib (pip install ".[host]"), from bench.json'
        return [], [f"no plots: matplotlib is not installed here; {cure}: rsedge bench --plots FILE"]
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({
        "axes.edgecolor": GREY, "axes.labelcolor": INK, "axes.spines.right": False, "axes.spines.top": False,
        "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left", "font.size": 9.5,
        "figure.dpi": 130, "grid.color": "#e3e8ec", "legend.frameon": False, "text.color": INK,
        "xtick.color": INK, "ytick.color": INK,
    })  # fmt: skip
    drawn, missing = [], []
    todo: tuple[tuple[str, Callable[[Any, dict[str, Any]], str | None]], ...] = (
        ("latency.png", _latency),
        ("throughput.png", _throughput),
        ("stages.png", _stages),
        ("pareto.png", _pareto),
        ("cycles.png", _cycles),
    )
    for name, draw in todo:
        figure = plt.figure(figsize=(7.2, 4.0), layout="constrained")
        try:
            reason = draw(figure, document)
            if reason is None:
                figure.savefig(folder / name)
                drawn.append(name)
            else:
                missing.append(f"no {name}: {reason}")
        finally:
            plt.close(figure)
    return drawn, missing


def _entries(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [entry for entry in document["bundles"] if entry[key]]


def _latency(figure: Any, document: dict[str, Any]) -> str | None:
    entries = _entries(document, "latency")
    if not entries:
        return "no latency was measured"
    axes = figure.subplots()
    ends = []
    for colour, entry in zip(LINES * len(entries), entries, strict=False):
        total = entry["latency"]["stages"]["total"]
        curve = total["curve"]
        share = [100 * i / (len(curve) - 1) for i in range(len(curve))]
        marks = [(name, percent, total[name]["value"]) for name, percent in (("p50", 50), ("p90", 90), ("p99", 99))]
        told = ", ".join(f"{name} {value:.1f}" for name, _, value in marks)
        axes.plot(curve, share, color=colour, label=f"{entry['name']} on {entry['backend']}: {told} ms", lw=1.8)
        axes.plot([value for _, _, value in marks], [percent for _, percent, _ in marks], "o", color=colour, ms=4)
        ends.append(total["p99"]["value"])
    # A single stray image must not squeeze the curve: what lies far beyond the p99 is told in the table.
    lowest = min(entry["latency"]["stages"]["total"]["curve"][0] for entry in entries)
    axes.set_xlim(lowest - 0.04 * (max(ends) - lowest), max(ends) + 0.22 * (max(ends) - lowest) + 0.1)
    axes.set(xlabel="ms from file to boxes, one image at a time", ylabel="% of images done by then", ylim=(0, 103))
    axes.set_title("Latency of single images")
    axes.grid(True)
    axes.legend(loc="lower right", fontsize=8.5)
    return None


def _throughput(figure: Any, document: dict[str, Any]) -> str | None:
    entries = [entry for entry in document["bundles"] if len(entry["sweep"]) > 1]
    if not entries:
        return "no sweep of offered rates was measured"
    left, right = figure.subplots(1, 2)
    highest = 0.0
    for colour, entry in zip(LINES * len(entries), entries, strict=False):
        points = entry["sweep"]
        offered = [p["offered_per_s"] for p in points]
        achieved = [p["achieved_per_s"] for p in points]
        highest = max(highest, *offered, *achieved)
        knee = f", knee at {entry['knee_per_s']:.0f}/s" if entry["knee_per_s"] is not None else ""
        left.plot(offered, achieved, "o-", color=colour, ms=3.5, label=entry["name"] + knee)
        right.plot(offered, [p["latency"]["p50"]["value"] for p in points], "o-", color=colour, ms=3.5,
                   label=f"{entry['name']}, p50")  # fmt: skip
        right.plot(offered, [p["latency"]["p99"]["value"] for p in points], "o--", color=colour, ms=3.5, alpha=0.65,
                   label=f"{entry['name']}, p99")  # fmt: skip
        if entry["knee_per_s"] is not None:
            for axes in (left, right):
                axes.axvline(entry["knee_per_s"], color=colour, lw=0.9, ls=":")
    left.plot([0, highest], [0, highest], color=GREY, lw=0.8, zorder=0, label="all that is offered")
    left.legend(loc="upper left", fontsize=8.5)
    left.set(xlabel="images/s offered", ylabel="images/s achieved", xlim=(0, None), ylim=(0, 1.3 * highest))
    right.set(xlabel="images/s offered", ylabel="ms from due to done", xlim=(0, None))
    times = [p["latency"][q]["value"] for entry in entries for p in entry["sweep"] for q in ("p50", "p99")]
    if max(times) > DECADE * min(times):
        right.set_yscale("log")
        right.yaxis.set_major_formatter(_plain())
        right.yaxis.set_minor_formatter(_plain(sparse=True))
    else:
        right.set_ylim(0, 1.28 * max(times))
    left.set_title("Throughput")
    right.set_title("Latency, Poisson arrivals")
    right.legend(loc="upper left", fontsize=8.5)
    for axes in (left, right):
        axes.grid(True)
    return None


def _plain(sparse: bool = False) -> Any:
    """Return a formatter of a logarithmic axis without powers of ten; sparse: only at 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter

    def told(value: float, _: Any) -> str:
        digit = f"{value:e}"[0]
        return "" if sparse and digit not in "25" else f"{value:g}"

    return FuncFormatter(told)


def _stages(figure: Any, document: dict[str, Any]) -> str | None:
    entries = _entries(document, "latency")
    if not entries:
        return "no latency was measured"
    rows = max(1, len(entries))
    figure.set_size_inches(7.2, 1.5 + 0.62 * rows)
    axes = figure.subplots()
    names = [f"{entry['name']}\n{entry['backend']}" for entry in entries]
    left = [0.0] * len(entries)
    whole = max(entry["latency"]["stages"]["total"]["p50"]["value"] for entry in entries)
    for stage, colour in STAGE_COLOURS.items():
        values = [entry["latency"]["stages"][stage]["p50"]["value"] for entry in entries]
        axes.barh(names, values, 0.55, left, color=colour, label=stage)
        for place, value in enumerate(values):
            if value > 0.07 * whole:
                light = stage == "infer"
                axes.text(left[place] + value / 2, place, f"{value:.1f}", ha="center", va="center", size=8.5,
                          color="white" if light else INK)  # fmt: skip
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="ms, p50 of each stage, one image at a time")
    axes.set_title("Where the time goes", pad=24)
    axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(-0.01, 0.985), borderpad=0.2, fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    return None


def _pareto(figure: Any, document: dict[str, Any]) -> str | None:
    points = [point for entry in document["bundles"] for point in _choices(entry)]
    if len(points) < 2:
        return "a choice needs two networks or more with accuracy and estimate"
    axes = figure.subplots()
    for colour, data in zip(LINES * len(points), dict.fromkeys(p[4] for p in points), strict=False):
        # Scores on different images are no choice: each data set has a front of its own.
        own = sorted(p for p in points if p[4] == data)
        errors = [[p[0] - p[1][0] for p in own], [p[1][1] - p[0] for p in own]]
        axes.errorbar([p[0] for p in own], [p[2] for p in own], xerr=errors, fmt="o", color=colour, ecolor=colour,
                      elinewidth=0.9, capsize=2.5, label=data)  # fmt: skip
        front = pareto_front([(p[0], p[2]) for p in own])
        if len(front) > 1:
            axes.step([x for x, _ in front], [y for _, y in front], where="post", color=colour, lw=1, alpha=0.6)
        for ms, _, score, name, _ in own:
            axes.annotate(name, (ms, score), (6, 6), textcoords="offset points", size=8.5)
    axes.set(xlabel="estimated ms an image, one NPU core (an estimate)", ylabel="mAP50-95")
    axes.margins(0.15, 0.25)
    axes.set_title("Accuracy against estimated time")
    axes.legend(title="scored on", loc="best", fontsize=8.5)
    axes.grid(True)
    return None


# Estimated ms, their interval, mAP50-95, name, data.
Choice = tuple[float, tuple[float, float], float, str, str]


def _choices(entry: dict[str, Any]) -> list[Choice]:
    """Return the bundle as it is, and its network in float16, with the accuracy of the float network."""
    forms, estimate = entry["accuracy"]["forms"], entry["estimate"]
    scored = {name: scores["map50_95"] for name, scores in forms.items() if scores["map50_95"] is not None}
    found: list[Choice] = []
    # A network with learnt integers has a "float" before them; of others the torch form is float.
    for name, told, ms, order in (
        (entry["name"], f", {entry['precision'].upper()}", estimate, ("device", "rknn_sim", "onnx")),
        (entry["name"], ", float16", estimate.get("float16"), ("float", "torch")),
    ):
        form = next((one for one in order if one in scored), None)
        if form and ms and ms.get("estimated_ms") is not None:
            ends = (ms["low_ms"], ms["high_ms"])
            data = entry["accuracy"]["data"] or "unnamed data"
            found.append((ms["estimated_ms"], ends, scored[form], name + told, data))
    return found


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (ms, score) that no other one beats, by ascending time: nothing is faster and as accurate."""
    front: list[tuple[float, float]] = []
    for ms, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((ms, score))
    return front


def _cycles(figure: Any, document: dict[str, Any]) -> str | None:
    entries = [entry for entry in document["bundles"] if entry["estimate"].get("layers")]
    if not entries:
        return "no bundle has a layer table or an ONNX file that the estimator reads"
    entries = entries[:3]
    figure.set_size_inches(7.2, 0.6 + 2.5 * len(entries))
    for axes, entry in zip(figure.subplots(len(entries), squeeze=False)[:, 0], entries, strict=True):
        layers = [layer for layer in entry["estimate"]["layers"] if layer["cycles_npu"] or layer["cycles_ddr"]]
        layers = layers[:SHOWN_LAYERS]
        at = range(len(layers))
        npu = [layer["cycles_npu"] / 1e3 for layer in layers]
        ddr = [layer["cycles_ddr"] / 1e3 for layer in layers]
        axes.bar(at, npu, 0.8, color="#22548c", label="arithmetic")
        axes.plot(at, ddr, "_", color="#e8a33d", ms=5, mew=1.8, label="memory")
        named: list[int] = []
        for place in sorted(at, key=lambda i: -max(npu[i], ddr[i])):
            if len(named) < 3 and all(abs(place - other) >= APART for other in named):
                named.append(place)
        for place in named:
            height = max(npu[place], ddr[place])
            axes.annotate(layers[place]["name"], (place, height), (2, 3), textcoords="offset points", size=7.5,
                          rotation=20)  # fmt: skip
        axes.set(ylabel="thousand cycles", xlim=(-0.8, len(layers) - 0.2))
        axes.set_ylim(0, 1.3 * max(*npu, *ddr))
        axes.set_title(f"Cycles by layer: {entry['name']}, {entry['estimate']['tier']}")
        axes.grid(True, axis="y")
        axes.set_axisbelow(True)
        axes.legend(loc="upper right", ncols=2, fontsize=8.5)
    axes.set_xlabel("layers that compute, from image to heads")
    return None
