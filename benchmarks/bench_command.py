"""`rsedge bench`: measure bundles and write a report, compare two reports, or draw the plots of one."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.manifest import load_manifest

from .calibrate import calibrate, check_calibration
from .compare_reports import run_compare
from .course import Course
from .latency import measure_overhead
from .measure_bundle import BundleMeasurement
from .plan import Plan, plan_of
from .plots import draw_plots
from .power import Window, read_power_csv
from .report import PAGE_NAME, conditions, new_document, read_report, tidy, write_json, write_whole
from .report_page import page_of
from .sensors import look, pinned, warnings_of
from .subject import check_backend, drawn_pictures, pictures_of


def run(
    bundles: Sequence[Path],
    out: Path | None,
    *,
    backend: str = "auto",
    quick: bool = False,
    seconds: float | None = None,
    images: Path | None = None,
    rate: float | None = None,
    contexts: str | None = None,
    power_csv: Path | None = None,
    calibrating: bool = False,
    comparing: tuple[Path, Path] | None = None,
    plots_of: Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Run `rsedge bench` as typed and return the document whose JSON is the last line on standard output.

    comparing: two reports instead of bundles. plots_of: a report whose plots are drawn into `out`. Raises ValueError,
    FileNotFoundError or OSError with one line; KeyboardInterrupt after the report of what was measured was written.
    """
    if comparing is not None:
        if bundles:
            raise ValueError(f"--compare takes two reports and no bundle, got {bundles[0]} too; leave one of them out")
        return _last_line(run_compare(*comparing, force=force))
    if out is None:
        raise ValueError("--out DIR is missing: the folder for report and plots")
    if plots_of is not None:
        return _last_line(_draw_again(plots_of, out))
    if not bundles:
        raise ValueError("no bundle was named; rsedge bench BUNDLE --out DIR, or --compare OLD.json NEW.json")
    at_fault = next((part for part in (out, *out.parents) if part.exists() and not part.is_dir()), None)
    if at_fault is not None:
        raise ValueError(f"--out {out}: {at_fault} is a file; name a folder, it is made where there is none")
    check_backend(backend)
    plan = plan_of(quick, seconds, contexts)
    if rate is not None and not 0 < rate < 1e6:
        raise ValueError(f"--rate must be above 0 images/s, got {rate:g}")
    manifests = [load_manifest(bundle) for bundle in bundles]  # before anything is measured
    names = [manifest.name for manifest in manifests]
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"two bundles are called {twice}: reports tell bundles apart by name; measure one at a time")
    if calibrating and backend != "auto":
        check_calibration(bundles, [backend])
    if power_csv is not None:
        read_power_csv(power_csv)
    out.mkdir(parents=True, exist_ok=True)
    command = _command(bundles, out, backend, quick, seconds, images, rate, contexts, power_csv, calibrating)
    with Course() as course:
        document, complaint = _measure(
            bundles, backend, plan, course, images=images, rate=rate, power_csv=power_csv, calibrating=calibrating,
            command=command, out=out,
        )  # fmt: skip
    _print_summary(document, out)
    _last_line(document)
    if course.stopped:
        raise KeyboardInterrupt
    if complaint:
        raise ValueError(f"{complaint} (everything measured is in {out})")
    return document


def _measure(
    bundles: Sequence[Path],
    backend: str,
    plan: Plan,
    course: Course,
    *,
    images: Path | None,
    rate: float | None,
    power_csv: Path | None,
    calibrating: bool,
    command: str,
    out: Path,
) -> tuple[dict[str, Any], str | None]:
    """Measure all bundles and write the report; returns it, and what to complain about at the end."""
    machine = course.machine
    warnings = warnings_of(course.looks[0])
    measured: list[BundleMeasurement] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rsedge-bench-")))
        course.step("preparing images")
        pictures = pictures_of(images, None if not plan.quick else plan.images) if images else None
        pictures = pictures or drawn_pictures(scratch, plan.images)
        document = new_document(machine, command, pictures.told, plan.quick)
        told = stack.enter_context(pinned(machine))
        standby: Window | None = None
        if course.sensors or power_csv is not None:
            course.step("at rest, for the standby power", plan.rest_s)
            standby = course.rest(plan.rest_s)
        try:
            document["overhead"] = measure_overhead(course, 0.5)
            for bundle in bundles:
                if course.stopped:
                    break
                measured.append(BundleMeasurement(bundle, backend, pictures, plan, course))
                if calibrating:
                    check_calibration(bundles, [measured[-1].subject.kind])
                measured[-1].run(rate)
        except KeyboardInterrupt:
            if not course.stopped:
                raise
    course.looks.append(look(machine))
    document["stopped_early"] = course.stopped
    traces = course.traces()
    if power_csv is not None:
        traces.append(read_power_csv(power_csv))
    for one in measured:
        one.add_energy(traces, standby)
    document["bundles"] = [one.entry for one in measured]
    document["conditions"] = conditions(course.looks, told, warnings)
    complaints = [one.unreachable for one in measured if one.unreachable]
    if calibrating and (failed := _calibrate(document, measured)):
        complaints.append(failed)
    return _write(document, out), next(iter(complaints), None)


def _calibrate(document: dict[str, Any], measured: Sequence[BundleMeasurement]) -> str | None:
    """Fit, store and report; returns what to complain about where that fails, which costs no measurement."""
    whole = [(one.bundle, one.entry["name"], one.latency) for one in measured if one.latency is not None]
    made = document["provenance"]
    if len(whole) < 2:
        document["notes"].append("not calibrated: fewer than two bundles were measured before the stop")
        return None
    try:
        document["calibration"] = calibrate(whole, made["board"] or made["cpu"])  # type: ignore[arg-type]
    except (ValueError, OSError, ImportError) as error:
        document["notes"].append(f"not calibrated: {str(error).splitlines()[0]}")
        return f"not calibrated: {str(error).splitlines()[0]}"
    return None


def _write(document: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write JSON first, so that no fault of a plot costs a measurement; then plots, page, and JSON with their names."""
    document = tidy(document)
    write_json(out, document)
    drawn, missing = draw_plots(document, out)
    document["plots"] = drawn
    document["notes"] += missing
    page = page_of(document)
    pictures = "".join(f"\n![{Path(name).stem}]({name})\n" for name in drawn)
    write_whole(out / PAGE_NAME, page + pictures)
    write_json(out, document)
    return document


def _draw_again(report: Path, out: Path) -> dict[str, Any]:
    document = read_report(report)
    out.mkdir(parents=True, exist_ok=True)
    drawn, missing = draw_plots(document, out)
    if not drawn:
        raise ValueError("; ".join(missing))
    return {"schema": "rsedge bench plots", "of": document["provenance"]["created"], "plots": drawn, "missing": missing}


def _command(
    bundles: Sequence[Path],
    out: Path,
    backend: str,
    quick: bool,
    seconds: float | None,
    images: Path | None,
    rate: float | None,
    contexts: str | None,
    power_csv: Path | None,
    calibrating: bool,
) -> str:
    """Return the command that repeats this run; folders by their last name, so that reports hold no private path."""
    words = ["rsedge", "bench", *(bundle.name for bundle in bundles), "--out", out.name, "--backend", backend]
    words += ["--quick"] if quick else []
    words += ["--calibrate"] if calibrating else []
    options = {"--seconds": seconds, "--rate": rate, "--contexts": contexts}
    for name, value in options.items():
        words += [name, f"{value:g}" if isinstance(value, float) else str(value)] if value is not None else []
    for name, path in (("--images", images), ("--power-csv", power_csv)):
        words += [name, path.name] if path is not None else []
    return shlex.join(words)


def _print_summary(document: dict[str, Any], out: Path) -> None:
    console = Console(highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("bundle", "backend", "p50", "p99", "images/s", "knee", "mAP50-95", "one core, est."):
        table.add_column(name, justify="left" if name in ("bundle", "backend") else "right")
    for entry in document["bundles"]:
        total = entry["latency"]["stages"]["total"] if entry["latency"] else None
        best = max((row["images_per_s"]["value"] for row in entry["contexts"]), default=None)
        form = entry["accuracy"]["timed_form"]
        score = entry["accuracy"]["forms"][form]["map50_95"] if form else None
        ms = entry["estimate"].get("estimated_ms")
        table.add_row(
            entry["name"],
            entry["backend"],
            f"{total['p50']['value']:.1f} ms" if total else "-",
            f"{total['p99']['value']:.1f} ms" if total else "-",
            f"{best:.0f}" if best else "-",
            f"{entry['knee_per_s']:.0f}/s" if entry["knee_per_s"] else "-",
            f"{score:.3f}" if score is not None else "-",
            f"{ms:.1f} ms" if ms else "-",
        )
    console.print(table)
    for line in (*document["conditions"]["warnings"], *document["conditions"]["throttling"]["told"]):
        console.print(line, style="yellow", soft_wrap=True, markup=False)
    for entry in document["bundles"]:
        for line in entry["energy"]["told"]:
            console.print(f"{entry['name']}: {line}", style="dim", soft_wrap=True, markup=False)
    for line in document["notes"]:
        console.print(line, style="dim", soft_wrap=True, markup=False)
    files = ["bench.json", PAGE_NAME, *document["plots"]]
    console.print(f"wrote {', '.join(str(out / name) for name in files)}", soft_wrap=True, markup=False)


def _last_line(document: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(tidy(document), allow_nan=False), flush=True)
    return document
