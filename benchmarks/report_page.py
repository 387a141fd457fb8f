"""The Markdown page of a report: what was measured, on what, and what it cannot say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .subject import told_cores

STAGES = ("read", "preprocess", "infer", "postprocess", "total")


def page_of(document: dict[str, Any]) -> str:
    """Return the page of a document that `benchmarks.report` describes."""
    lines = ["# Benchmark", "", *_head(document), ""]
    for entry in document["bundles"]:
        lines += _bundle(entry)
    if document["calibration"]:
        found = document["calibration"]["constants"]
        lines += ["## Calibration", "", f"{found['bytes_per_s'] / 1e9:.2f} GB/s, {found['source']}, leave-one-out "
                  f"error {100 * found['leave_one_out_error']:.1f} %.", ""]  # fmt: skip
    lines += _conditions(document)
    return "\n".join(lines).rstrip() + "\n"


def _head(document: dict[str, Any]) -> list[str]:
    made = document["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    lines = [
        f"{made['created']}, {made['board'] or made['cpu']}, {made['machine']}, kernel {made['kernel']}, commit "
        f"{made['commit'][:12]}.",
        f"{versions}. Images: {document['method']['images']}.",
        "",
        f"    {document['command']}",
        "",
        f"Brackets hold {100 * document['method']['confidence']:.0f} % intervals from order statistics, those of the "
        "p50 of single images from the spread between visits; an open side means too few values to say.",
    ]
    if document["stopped_early"]:
        lines += ["", "**Stopped early (Ctrl-C): what was measured until then.**"]
    for note in document["notes"]:
        lines += ["", f"Note: {note}."]
    return lines


def _bundle(entry: dict[str, Any]) -> list[str]:
    lines = [f"## {entry['name']}", "", f"{entry['precision']}, {entry['input_hw'][1]} x {entry['input_hw'][0]}, on "
             f"{entry['backend_told']}.", ""]  # fmt: skip
    if entry["latency"]:
        lines += _latency(entry["latency"])
    if entry["contexts"]:
        lines += _contexts(entry["contexts"], entry["backend"])
    if entry["offered"] or entry["sweep"]:
        lines += _offered(entry)
    for title, key in (("Ablation", "ablation"), ("Against the field", "field")):
        if entry[key]:
            lines += _duels(title, entry[key])
    lines += _energy(entry)
    lines += _accuracy(entry["accuracy"])
    lines += _estimate(entry["estimate"])
    return lines


def _latency(found: dict[str, Any]) -> list[str]:
    rows = []
    for stage in STAGES:
        spread = found["stages"][stage]
        rows.append(
            [stage, *(_quantile(spread[q], 2) for q in ("p50", "p90", "p99")), f"{spread['worst']:.2f}",
             str(spread["outliers"])]
        )  # fmt: skip
    total = found["stages"]["total"]
    wanted = f"± {100 * found['precision_wanted']:.1f} %"
    half = found["precision_found"]
    if found["precision_reached"]:
        said = f"the p50 of the total is known to ± {100 * half:.1f} %, {wanted} was asked for"
    else:
        shown = f"± {100 * half:.1f} %" if half is not None else "no interval yet"
        said = f"the p50 of the total is not known to {wanted}, which was asked for: {shown}"
    lines = ["### One image at a time", "", "Milliseconds.", "",
             *_table(["stage", "p50", "p90", "p99", "worst", "outliers"], rows), "",
             f"{total['count']} images in {len(found['visits'])} visits, {found['seconds']:.1f} s together, "
             f"{found['warm_up_images']} more of warm-up; {said}. {_repeated(found['repeat']['total'])}"
             f"The loop around the stages took {100 * found['overhead_share']:.2f} % of the time."]  # fmt: skip
    if total["drift"] is not None:
        lines.append(f"**Drift: the last third took {100 * total['drift']:+.0f} % against the first.**")
    return [*lines, ""]


def _repeated(found: dict[str, Any]) -> str:
    if found["low"] is None:
        return ""
    return f"A second run of this kind finds its p50 from {found['low']:.2f} to {found['high']:.2f}. "


def _contexts(found: Sequence[dict[str, Any]], backend: str) -> list[str]:
    rows, has_cores = [], backend != "onnx"
    for row in found:
        cores = told_cores(row["cores"]) if has_cores else "of the CPU, shared"
        rate = _quantile(row["images_per_s"], 1)
        rows.append([str(row["contexts"]), cores, str(row["postprocess_batch"]), rate, str(row["images"])])
    lines = ["### As fast as the contexts go", ""]
    lines += _table(["contexts", "cores", "decoded per call", "images/s", "images"], rows)
    lines += ["", "Models for the NPU take one image a call: what is decoded per call is the post-processing's batch."]
    if backend == "emulated":
        lines += ["", "Masks that split one image over several cores are left out: an emulated NPU does not know what "
                  "that brings. On a board they are measured too."]  # fmt: skip
    return [*lines, ""]


def _offered(entry: dict[str, Any]) -> list[str]:
    points = ([entry["offered"]] if entry["offered"] else []) + entry["sweep"]
    rows = [
        [f"{p['offered_per_s']:.1f}", p["arrivals"], f"{p['achieved_per_s']:.1f}", "yes" if p["kept_up"] else "**no**",
         *(_quantile(p["latency"][q], 1) for q in ("p50", "p99")), f"{p['latency']['worst']:.1f}",
         f"{p['waiting_mean']:.1f}"]
        for p in points
    ]  # fmt: skip
    head = ["offered/s", "arrivals", "achieved/s", "kept up", "p50 ms", "p99 ms", "worst", "mean waiting"]
    lines = ["### At an offered rate", "", "Latency from the moment at which a frame was due until its result left in "
             "order.", "", *_table(head, rows)]  # fmt: skip
    if entry["knee_per_s"] is not None:
        lines += ["", f"Knee (largest throughput over mean latency): {entry['knee_per_s']:.0f} images/s."]
    return [*lines, ""]


def _duels(title: str, found: Sequence[dict[str, Any]]) -> list[str]:
    rows = [
        [d["measure"], d["ours"], f"{_number(d['ours_value']['value'])}", d["other"],
         f"{_number(d['other_value']['value'])}", d["unit"], _quantile(d["gain"], 2), str(d["rounds"])]
        for d in found
    ]  # fmt: skip
    head = ["measure", "with", "", "without" if title == "Ablation" else "other", "", "unit", "times better", "rounds"]
    notes = [f"{d['other']}: {d['note']}." for d in found if d["note"]]
    lines = [f"### {title}", "", "In turns within one run; medians, and the median of the rounds' ratios.", ""]
    lines += _table(head, rows)
    for note in dict.fromkeys(notes):
        lines += ["", note]
    return [*lines, ""]


def _energy(entry: dict[str, Any]) -> list[str]:
    lines = ["### Energy", ""]
    for found in entry["energy"]["measured"]:
        lines.append(
            f"{1e3 * found['joules_per_image']:.1f} mJ per image above standby ({found['mean_w']:.2f} W at saturation, "
            f"{found['standby_w']:.2f} W at rest), {found['label']}."
        )
    for told in entry["energy"]["told"]:
        lines.append(f"{told[0].upper()}{told[1:]}.")
    analytic = entry["estimate"].get("energy")
    if analytic:
        lines.append(
            f"{analytic['estimated_mj']:.1f} mJ ({analytic['low_mj']:.1f} to {analytic['high_mj']:.1f}): "
            f"{analytic['label']}; {analytic['counts']}."
        )
    return [*lines, ""] if len(lines) > 2 else []


def _accuracy(found: dict[str, Any]) -> list[str]:
    if not found["forms"]:
        return ["### Accuracy", "", "The manifest holds none: these speeds stand alone.", ""]
    rows = []
    for name, scores in found["forms"].items():
        mark = " (timed here)" if name == found["timed_form"] else ""
        rows.append([f"{scores['told']}{mark}", *(_share(scores[key]) for key in ("map50", "map50_95"))])
    lines = ["### Accuracy", "", *_table(["form", "mAP50", "mAP50-95"], rows), ""]
    return [*lines, f"On {found['data'] or 'unnamed data'}; {found['source']}. {found['timed_form_told']}.", ""]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _estimate(found: dict[str, Any]) -> list[str]:
    if "error" in found:
        return ["### Estimate", "", f"None: {found['error']}.", ""]
    half = found.get("float16")
    return [
        "### Estimate",
        "",
        f"{found['estimated_ms']:.1f} ms an image on one NPU core ({found['low_ms']:.1f} to {found['high_ms']:.1f}), "
        f"{found['npu_cycles']:,} cycles by the {found['tier']}; constants: {found['constants']}. {found['label']}."
        + (
            f" In float16: {half['estimated_ms']:.1f} ms ({half['low_ms']:.1f} to {half['high_ms']:.1f})."
            if half
            else ""
        ),
        "",
    ]


def _conditions(document: dict[str, Any]) -> list[str]:
    found = document["conditions"]
    lines = [f"CPUs: {found['pinned']}."]
    governors = found["before"]["governors"]
    told = ", ".join(f"{name}: {governor}" for name, governor in governors.items())
    lines.append(f"Governors: {told}." if told else "Governors: this machine shows none.")
    before, after = (found[when]["temperatures_c"] for when in ("before", "after"))
    hottest = found["during"]["hottest"]["temperatures_c"]
    if before:
        each = [
            f"{name} {before[name]:.0f} / {hottest.get(name, before[name]):.0f} / {after.get(name, before[name]):.0f}"
            for name in before
        ]
        lines.append(f"Temperatures before / hottest / after, °C: {', '.join(each)}.")
    slow = found["throttling"]
    if slow["seen"] is None:
        lines.append(f"{slow['told'][0][0].upper()}{slow['told'][0][1:]}.")
    elif slow["seen"]:
        lines.append(f"**Throttling: {'; '.join(slow['told'])}.**")
    else:
        lines.append("Throttling: none seen.")
    lines += [f"Warning: {warning}." for warning in found["warnings"]]
    if document["overhead"]:
        share = 100 * document["overhead"]["share"]
        lines.append(
            f"The runner's own share of a backend that sleeps {document['overhead']['sleep_ms']:g} ms: {share:.2f} %."
        )
    return ["## Conditions", "", *(f"- {line}" for line in lines), ""]


def _quantile(found: dict[str, float | None], digits: int) -> str:
    def side(value: float | None) -> str:
        return "…" if value is None else f"{value:.{digits}f}"

    return f"{found['value']:.{digits}f} [{side(found['low'])}, {side(found['high'])}]"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
