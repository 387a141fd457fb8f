"""The card of a bundle: what the model is, what it was trained on, under which terms, and how good it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.manifest import Manifest

from .checkpoint import write_atomically

CARD_NAME = "card.md"


def write_card(manifest: Manifest, report: dict[str, Any], out: Path) -> Path:
    """Write `card.md` into the bundle. report: as in report.json."""
    write_atomically(out / CARD_NAME, card(manifest, report).encode())
    return out / CARD_NAME


def card(manifest: Manifest, report: dict[str, Any]) -> str:
    """Return the card as Markdown."""
    training, source = report["training"], report["provenance"]
    height, width = manifest.input_hw
    lines = [
        f"# {manifest.name}",
        "",
        f"{report['model']}, {width} x {height} pixels, {manifest.precision.upper()} for {manifest.target}"
        f" (rknn-toolkit2 {manifest.toolkit_version}).",
        "",
        f"- Classes: {', '.join(manifest.class_names)}.",
        f"- Trained on: {report['data']['name']}; start: {training['start']}"
        + (f"; {training['epochs']} epochs." if training["epochs"] else "."),
        f"- Terms: {manifest.licence or 'not stated by the recipe; ask who trained it before you pass it on'}",
    ]
    if manifest.calibration:
        c = manifest.calibration
        lines.append(f"- Calibrated on {c.images} images of the train split (algorithm {c.algorithm}, seed {c.seed}).")
    if report.get("proof"):
        lines.append("- Integers learnt in training; that they reach the NPU is shown in proof.json: `rsedge verify`.")
    lines += [
        "",
        f"Measured on {manifest.accuracy_data}, in percent:",
        "",
        "| form | mAP50 | mAP50-95 |",
        "| --- | --- | --- |",
    ]
    forms = {
        "float": "float, before quantisation",
        "torch": "fake-quantised (torch)" if report.get("proof") else "float (torch)",
        "onnx": "ONNX Runtime",
        "rknn_sim": f"{manifest.precision.upper()}, vendor's simulator",
    }
    for name, row in manifest.accuracy.items():
        cells = " | ".join("-" if row[k] is None else f"{100 * float(row[k] or 0):.1f}" for k in ("map50", "map50_95"))
        lines.append(f"| {forms.get(name, name)} | {cells} |")
    lines += [
        "",
        "The simulator computes INT8 layers as the NPU does, but SiLU in float. Nothing here was measured on a board.",
        "",
    ]
    for verb, where in (("Trained", training["provenance"]), ("Exported and scored", source)):
        lines.append(
            f"- {verb}: commit {where['commit']}, seed {where['seed']}, {where['machine']}, {where['created']}."
        )
    lines.append("")
    return "\n".join(lines)
