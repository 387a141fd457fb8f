"""`proof.json` and the page that a person reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .proof import COSINE, IDENTICAL, MAX_LSB, PAGE_NAME, PROOF_NAME, PROOF_VERSION, Check

QUESTIONS = {
    "layers": "Does the NPU compute every layer in INT8?",
    "scales": "Does the compiled file hold what was learnt?",
    "simulator": "Does the vendor's simulator compute that file?",
    "torch": "Is it the network that was trained?",
    "integers": "Is every layer the integer arithmetic that the NPU has?",
    "perturbation": "Are the learnt values used, and not calibrated anew?",
}
FORMS = {
    "float": "float (before quantisation)",
    "torch": "fake-quantised (torch)",
    "onnx": "ONNX Runtime",
    "rknn_sim": "INT8, vendor's simulator",
}


def proof_json(
    checks: Sequence[Check], accuracy: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what `proof.json` holds. accuracy: by form, map50 and map50_95 in 0..1. about: model, images, versions."""
    return {
        "proof_version": PROOF_VERSION,
        "passed": all(check.passed for check in checks),
        "checks": [asdict(check) for check in checks],
        "accuracy": {form: dict(row) for form, row in accuracy.items()},
        **about,
    }


def write_proof(proof: Mapping[str, Any], out: Path) -> Path:
    """Write `proof.json` and `proof.md` into a folder, whole or not at all; returns the former's path."""
    for name, text in ((PROOF_NAME, json.dumps(proof, indent=1) + "\n"), (PAGE_NAME, page(proof))):
        part = out / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        os.replace(part, out / name)
    return out / PROOF_NAME


def page(proof: Mapping[str, Any]) -> str:
    """Return the proof as Markdown."""
    verdict = "holds" if proof["passed"] else "FAILED"
    lines = [
        f"# Proof: {proof['name']}",
        "",
        f"What was learnt is what the NPU will compute: the proof **{verdict}**.",
        "",
        "| check | question | result | |",
        "| --- | --- | --- | --- |",
    ]
    for check in proof["checks"]:
        mark = "passed" if check["passed"] else "**failed**"
        lines.append(f"| {check['name']} | {QUESTIONS.get(check['name'], '')} | {check['told']} | {mark} |")
    by_name = {check["name"]: check["figures"] for check in proof["checks"]}
    bounds = f"{MAX_LSB:g} LSB, {100 * IDENTICAL:g} % identical, cosine {COSINE}"
    if "simulator" in by_name:
        lines += ["", "## Simulator against ONNX Runtime", ""]
        lines += [f"From pixels to heads, {by_name['simulator']['images']} images; demanded: {bounds}.", ""]
        lines += _table(by_name["simulator"]["outputs"])
    if "torch" in by_name:
        figures = by_name["torch"]
        lines += ["", "## Simulator against torch", "", "From pixels to heads, in the simulator's order of sums:", ""]
        lines += _table(figures["outputs"])
        lines += ["", "Layer by layer as it was trained, each fed with the simulator's integers, the worst:", ""]
        lines += _worst(figures["layers"])
        lines += [
            "",
            "The same network from pixels to heads in torch's own order of sums. Nothing is demanded here: a few sums "
            "in a million fall to the other side of a border between two integers, and the layers behind amplify that.",
            "",
            *_table(figures["as_trained"]),
        ]
    if "integers" in by_name:
        lines += ["", "## Simulator against integer arithmetic", ""]
        lines += ["int8 products summed up in int32, each layer fed with the simulator's integers, the worst:", ""]
        lines += _worst(by_name["integers"]["layers"])
    if proof["accuracy"]:
        lines += ["", "## Accuracy", "", proof["accuracy_data"] + ", in percent:", ""]
        lines += ["| form | mAP50 | mAP50-95 |", "| --- | --- | --- |"]
        for form, row in proof["accuracy"].items():
            cells = " | ".join(f"{100 * row[key]:.1f}" for key in ("map50", "map50_95"))
            lines.append(f"| {FORMS.get(form, form)} | {cells} |")
    where = proof["provenance"]
    lines += [
        "",
        f"rknn-toolkit2 {proof['toolkit_version']}, {proof['target']}; commit {where['commit']}, {where['machine']}, "
        f"{where['created']}. Repeat it: `rsedge verify BUNDLE`. The simulator holds the NPU's integers, but sums "
        "and activates in float32; nothing here was measured on a board.",
        "",
    ]
    return "\n".join(lines)


def _worst(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return _table(sorted(rows, key=lambda row: row["identical"])[:6])


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["| tensor | identical | LSB apart at most | cosine |", "| --- | --- | --- | --- |"]
    for row in rows:
        lines.append(f"| {row['name']} | {100 * row['identical']:.3f} % | {row['max_lsb']:g} | {row['cosine']:.6f} |")
    return lines
