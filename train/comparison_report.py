"""The report of a comparison: rows of finished runs into one table, as Markdown, JSON and a plot.

Two kinds of spread stand side by side and answer different questions. "±" is the sample standard deviation over seeds:
how far a single training may land from the mean. The interval around a difference is that of train/bootstrap.py: how
far the difference may be from what other images, and other seeds, would have given.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deploy.annotations import AnnotatedImage
from deploy.detections import Detections
from deploy.metrics import Accuracy

from .bootstrap import Difference, average_precision, draw_images, match_images, paired_bootstrap
from .checkpoint import write_atomically
from .plots import COLOURS, STYLE

TABLE_VERSION = 1
LEVEL = 0.95
SIZES = ("small", "medium", "large")
FIGURES = ("map50", "map50_95", *SIZES)


@dataclass(frozen=True, eq=False)
class Run:
    """One finished training. minutes: of training; with folds, the sum of theirs.

    detections: one per scored image, in the order of the truth; with folds, each from the model that had not seen it.
    """

    seed: int
    accuracy: Accuracy
    minutes: float
    detections: Sequence[Detections] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Row:
    """One line of the table: its name, the name of its recipe, and one run per seed."""

    name: str
    recipe: str
    runs: list[Run]


def write_comparison(
    rows: Sequence[Row],
    truth: Sequence[AnnotatedImage],
    class_names: Sequence[str],
    references: Sequence[str],
    out: Path,
    *,
    resamples: int = 1000,
    folds: int = 0,
    about: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Write comparison.json, .md and .png into `out`, and comparison_2 ... for further references; returns the tables.

    Raises ValueError where rows cannot be compared, OSError where a file cannot be written.
    """
    for reference in references:  # all of them before the long part, and before the first file
        check_rows(rows, reference)
    out.mkdir(parents=True, exist_ok=True)
    tables = []
    figures = resampled(rows, truth, len(class_names), resamples)
    for number, reference in enumerate(references, 1):
        differences = differences_to(rows, figures, reference)
        table = comparison_table(rows, reference, differences, resamples=resamples, folds=folds, about=about)
        stem = "comparison" + (f"_{number}" if number > 1 else "")
        write_atomically(out / f"{stem}.json", (json.dumps(table, indent=2) + "\n").encode())
        write_atomically(out / f"{stem}.md", to_markdown(table).encode())
        plot_comparison(table, out / f"{stem}.png")
        tables.append(table)
    return tables


def resampled(
    rows: Sequence[Row], truth: Sequence[AnnotatedImage], class_count: int, resamples: int
) -> dict[str, np.ndarray]:
    """Return each row's mAP50 and mAP50-95, (seeds, 1 + resamples, 2): as measured, then for each draw of images.

    The same draws serve all rows. Raises ValueError for a row without runs.
    """
    for row in rows:
        if not row.runs:
            raise ValueError(f"row {row.name!r} must have a run; finish one first")
    ones = np.ones((1, len(truth)), int)
    weights = np.concatenate([ones, draw_images(len(truth), resamples)])
    figures = {}
    for row in rows:
        matched = (match_images(truth, run.detections, class_count) for run in _by_seed(row))
        figures[row.name] = np.stack([average_precision(m, weights) for m in matched])
    return figures


def differences_to(rows: Sequence[Row], figures: dict[str, np.ndarray], reference: str) -> dict[str, list[Difference]]:
    """Return, for each row but the reference, how its mAP50 and mAP50-95 differ from the reference's.

    figures: of `resampled`. Raises ValueError as `check_rows` does.
    """
    check_rows(rows, reference)
    base = figures[reference]
    return {
        name: paired_bootstrap(own[:, 1:], base[:, 1:], own[:, 0], base[:, 0], level=LEVEL)
        for name, own in figures.items()
        if name != reference
    }


def check_rows(rows: Sequence[Row], reference: str) -> None:
    """Raise ValueError where names repeat, the reference is missing, or rows have other seeds, images or classes."""
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"rows must have different names, {name!r} comes twice; rename one")
    if reference not in names:
        raise ValueError(f"reference must be one of the rows ({', '.join(names)}), got {reference!r}")
    base = rows[names.index(reference)]
    if not base.runs:
        raise ValueError(f"row {reference!r} must have a run; finish one first")
    measured = base.runs[0].accuracy
    for row in rows:
        if _seeds(row) != _seeds(base):
            raise ValueError(
                f"row {row.name!r} must have the seeds of {reference!r}, {_seeds(base)}, got {_seeds(row)}; runs are "
                f"compared in pairs: finish the missing ones"
            )
        for run in row.runs:
            a = run.accuracy
            if (a.images, a.boxes, list(a.per_class)) != (measured.images, measured.boxes, list(measured.per_class)):
                raise ValueError(
                    f"row {row.name!r}, seed {run.seed}: must be scored on the images and classes of {reference!r}, "
                    f"{measured.images} images with {measured.boxes} boxes, got {a.images} with {a.boxes}; score it "
                    f"on the same data"
                )


def comparison_table(
    rows: Sequence[Row],
    reference: str,
    differences: dict[str, list[Difference]],
    *,
    resamples: int,
    folds: int = 0,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the whole comparison as plain values that json.dump takes; fractions are 0 to 1.

    Each figure is {"mean", "sd"}: over seeds, sd the sample standard deviation, None with one seed; both None where
    there was nothing to measure. A row's "difference" holds the fields of Difference for map50 and map50_95; None
    for the reference.
    """
    check_rows(rows, reference)
    first = next(row for row in rows if row.name == reference)
    measured = first.runs[0].accuracy
    return {
        "table_version": TABLE_VERSION,
        "reference": reference,
        "images": measured.images,
        "boxes": measured.boxes,
        "seeds": _seeds(first),
        "folds": folds,
        "resamples": resamples,
        "level": LEVEL,
        "covers": "images and seeds" if len(first.runs) > 1 else "images",
        "about": about or {},
        "rows": [_line(row, differences.get(row.name)) for row in rows],
    }


def _line(row: Row, found: list[Difference] | None) -> dict[str, Any]:
    runs = _by_seed(row)
    return {
        "name": row.name,
        "recipe": row.recipe,
        **{name: _spread([getattr(run.accuracy, name) for run in runs]) for name in FIGURES},
        "per_class": {
            name: {**_spread([run.accuracy.per_class[name]["map50_95"] for run in runs]), "boxes": counts["boxes"]}
            for name, counts in runs[0].accuracy.per_class.items()
        },
        "minutes": _spread([run.minutes for run in runs]),
        "difference": found and {name: asdict(d) for name, d in zip(FIGURES, found, strict=False)},
        "runs": [
            {"seed": r.seed, **{name: getattr(r.accuracy, name) for name in FIGURES}, "minutes": r.minutes}
            for r in runs
        ],
    }


def _by_seed(row: Row) -> list[Run]:
    return sorted(row.runs, key=lambda run: run.seed)


def _seeds(row: Row) -> list[int]:
    return [run.seed for run in _by_seed(row)]


def _spread(values: Sequence[float | None]) -> dict[str, float | None]:
    known = [float(v) for v in values if v is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
    }


def to_markdown(table: dict[str, Any]) -> str:
    """Return the comparison as Markdown: the main table, one by object size, one by class, and what they mean."""
    rows = table["rows"]
    main = []
    for row in rows:
        found = row["difference"]
        against = ["reference", ""]
        if found:
            d = found["map50_95"]
            against = [f"{100 * d['value']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]", f"{d['p']:.3f}"]
        minutes = f"{row['minutes']['mean']:.1f}"
        main.append([row["name"], points(row["map50"]), points(row["map50_95"]), *against, minutes])
    interval = f"{100 * table['level']:.0f} %"
    classes = list(rows[0]["per_class"])
    parts = [
        f"# Comparison with {_cell(table['reference'])}",
        _described(table["about"]),
        _grid(["", "mAP50", "mAP50-95", f"difference in mAP50-95 [{interval} interval]", "p", "minutes"], main),
        coverage(table),
        "## By object size\n\nmAP50-95 of boxes below 32 x 32 pixels, from there to 96 x 96, and above.",
        _grid(["", *SIZES], [[row["name"], *(points(row[size]) for size in SIZES)] for row in rows]),
        "## By class\n\nmAP50-95; a row is a class, with its number of boxes.",
        _grid(
            ["", "boxes", *(row["name"] for row in rows)],
            [
                [name, str(rows[0]["per_class"][name]["boxes"]), *(points(row["per_class"][name]) for row in rows)]
                for name in classes
            ],
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def coverage(table: dict[str, Any]) -> str:
    """Say in a paragraph what the figures of a table are, and what its intervals cover and do not cover."""
    seeds, others = len(table["seeds"]), len(table["rows"]) - 1
    text = (
        f"All figures in points (0 to 100), measured on {table['images']} images with {table['boxes']} boxes. "
        f"Difference to {_cell(table['reference'])} on the same images and seeds; interval and two-sided p from "
        f"{table['resamples']} bootstrap resamples, so no p is below {2 / (table['resamples'] + 1):.2g}. "
    )
    if seeds > 1:
        text += (
            f"Mean ± standard deviation over {seeds} seeds. The intervals cover the choice of images and of seeds "
            f"together; so few seeds show only about {seeds - 1}/{seeds} of the variance between seeds. "
        )
    else:
        text += (
            "One seed: the intervals cover the choice of images only. Another seed may move a row by more than its "
            "interval shows. "
        )
    if table["about"].get("teachers"):
        text += (
            "Distilled rows share one teacher, which no interval covers; losses on feature maps have adapters that "
            "start from least squares. Minutes leave the teacher's own training out. "
        )
    if others > 1:
        text += f"The p-values are not corrected for there being {others} rows. "
    if table["folds"]:
        text += (
            f"{table['folds']}-fold: each image is scored by the model of the fold that had not seen it, all folds "
            f"are resampled together, and minutes are the sum over folds. "
        )
    return text.strip()


def points(figure: dict[str, float | None]) -> str:
    """Return "61.3 ± 0.4" in points, without the spread where there is one seed, "-" where nothing was measured."""
    if figure["mean"] is None:
        return "-"
    return f"{100 * figure['mean']:.1f}" + ("" if figure["sd"] is None else f" ± {100 * figure['sd']:.1f}")


def _described(about: dict[str, Any]) -> str:
    """Return what the rows have in common, from whichever of the known keys are there."""
    said = [
        f"{about[key]}{unit}" if not unit.endswith(" ") else f"{unit}{about[key]}"
        for key, unit in (
            ("student", ""),
            ("image_size", " pixels"),
            ("epochs", " epochs"),
            ("batch", "batch "),
            ("start", "start: "),
        )
        if about.get(key) is not None
    ]
    lines = [", ".join(said) + "."] if said else []
    lines += [f"Teacher: {teacher}" for teacher in about.get("teachers") or []]
    origin = about.get("provenance") or {}
    known = [f"{key} {origin[key]}" for key in ("data", "commit", "machine", "created") if origin.get(key)]
    if known:
        lines.append("Made from " + ", ".join(known) + ".")
    return "\n\n".join(_cell(line) for line in lines)


def _grid(header: list[str], lines: list[list[str]]) -> str:
    bars = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in (header, bars, *lines))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def plot_comparison(table: dict[str, Any], path: Path) -> None:
    """Draw the difference of each row's mAP50-95 to the reference: its interval, its mean, and its single seeds.

    A seed's dot is its difference to the reference's run of the same seed; in the reference's own line it is the
    distance from that row's mean.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    rows = table["rows"]
    base = next(row for row in rows if row["name"] == table["reference"])
    own = np.array([run["map50_95"] for run in base["runs"]])
    several = len(table["seeds"]) > 1
    grey = "#777777"
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.5, 1.5 + 0.42 * len(rows)), layout="constrained")
        axis.axvline(0, color=grey, linewidth=1, zorder=1)
        for y, row in enumerate(rows):
            found = row["difference"] and {k: v for k, v in row["difference"]["map50_95"].items() if k != "covers"}
            colour = "black"
            if found:
                colour = COLOURS[0] if found["low"] > 0 else COLOURS[1] if found["high"] < 0 else grey
                axis.plot([100 * found["low"], 100 * found["high"]], [y, y], color=colour, linewidth=2.2, zorder=2)
            axis.plot(100 * found["value"] if found else 0, y, "o" if found else "D", color=colour, ms=7, zorder=3)
            if several:
                runs = np.array([run["map50_95"] for run in row["runs"]])
                each = 100 * (runs - (own if found else own.mean()))
                axis.plot(each, np.full(len(each), y + 0.25), "o", color=colour, ms=3, alpha=0.6, zorder=2)
            axis.text(1.02, y, points(row["map50_95"]), transform=axis.get_yaxis_transform(), va="center")
        axis.text(1.02, -0.8, "mAP50-95", transform=axis.get_yaxis_transform(), va="center", weight="bold")
        # Names are somebody's: a $ in one starts no formula.
        axis.set_yticks(range(len(rows)), [row["name"] for row in rows], parse_math=False)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.margins(x=0.05)
        axis.grid(False, axis="y")
        axis.tick_params(axis="y", length=0)
        axis.set_xlabel(
            f"difference in mAP50-95 to {table['reference']}, points\n"
            f"bars: {100 * table['level']:.0f} % interval over {table['covers']}, {table['images']} images",
            parse_math=False,
        )
        marks = [("o", 7, COLOURS[0], "above"), ("o", 7, COLOURS[1], "below"), ("o", 7, grey, "interval holds 0")]
        if several:
            marks.append(("o", 3, grey, "single seeds"))
        handles = [Line2D([], [], marker=m, ms=s, color=c, linestyle="", label=text) for m, s, c, text in marks]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
        plt.close(figure)
