"""The report of a run or an export: report.json, report.md, overlay pictures, and the table on the screen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from deploy.annotations import AnnotatedImage, AnnotationSet
from deploy.backends.onnx_runtime import OnnxBackend
from deploy.convert.layer_table import IO_TYPES
from deploy.detections import Detections
from deploy.detector import Detector
from deploy.images import read_image
from deploy.metrics import Accuracy
from deploy.overlay import draw_boxes
from deploy.sinks import unused_name, write_image

from .card import write_card
from .checkpoint import write_atomically
from .diagnosis_plot import plot_diagnosis
from .diagnosis_report import Island, diagnosis_lines, diagnosis_markdown, noise_json, suggest_island
from .evaluate import layout_for, score, torch_infer
from .export import BundleResult, build_bundle
from .model import Yolov8
from .provenance import describe_run
from .recipe import Recipe

REPORT_VERSION = 1
ROUNDING_PLOT = "plots/rounding.png"
FORMS = {
    "float": "float (before quantisation)",
    "torch": "float (torch)",
    "onnx": "ONNX Runtime",
    "rknn_sim": "RKNN (simulator)",
}
PICTURES = (
    "plots/map.png",
    "plots/losses.png",
    "plots/distillation.png",
    "plots/distill_masks.png",
    "plots/distill_attention.png",
    "plots/distill_relations.png",
    "overlays.jpg",
)
SHOWN_IMAGES = 8
SHOWN_SCORE = 0.35


def run_report(
    recipe: Recipe,
    content: dict[str, Any],
    model: Yolov8,
    train: AnnotationSet,
    val: AnnotationSet,
    out: Path,
    console: Console,
) -> None:
    """Export a finished training (where the recipe says so), score it and write its report into `out`."""
    if recipe.export.enabled:
        result = build_bundle(recipe, content, model, train, val, out, console)
        write_report(recipe, content, result, val, out, console)
        return
    size = content["image_size"]
    from .evaluate import LetterboxCache

    inputs = LetterboxCache(val.images, (size, size), recipe.data.cache_mb)
    layout = layout_for(size, len(val.class_names))
    infer = torch_infer(model, next(model.parameters()).device)
    accuracy = {"torch": score(infer, val.images, inputs, val.class_names, layout)}
    report = _header(recipe, content, accuracy, len(val.images))
    _write(report, out)
    _print_table(report, out, console)


def write_report(
    recipe: Recipe, content: dict[str, Any], result: BundleResult, val: AnnotationSet, out: Path, console: Console
) -> None:
    """Write report.json, report.md and the overlays of an export; print the table and where the files are."""
    report = _header(recipe, content, result.accuracy, result.images)
    table = result.build.table
    report["onnx"] = {"difference_to_torch": result.onnx_difference, "half_weights": recipe.export.half_weights}
    report["rknn"] = {
        "precision": result.build.precision,
        "target": result.build.target,
        "toolkit_version": result.build.toolkit_version,
        "calibration_images": result.build.calibration_count,
        "algorithm": recipe.export.algorithm,
        "layers": len(table.layers),
        "layers_int8": sum(layer.dtype == "INT8" for layer in table.layers),
        "layers_cpu": sum(layer.target != "NPU" and layer.type not in IO_TYPES for layer in table.layers),
        "cycles": table.cycles,
        "traffic_kb": table.traffic_kb,
        "internal_memory_kb": table.internal_memory_kb,
        "weight_memory_kb": table.weight_memory_kb,
    }
    report["proof"] = [{"name": c.name, "passed": c.passed, "told": c.told} for c in result.proof]
    report["files"] = {f.name: (out / f.name).stat().st_size for f in result.manifest.files.values()}
    report["overlays"] = _overlays(result, val, out)
    island, rounding = _rounding(recipe, content, result, report, out)
    write_card(result.manifest, report, out)
    _write(report, out, rounding)
    _print_table(report, out, console)
    for line in diagnosis_lines(result.noises, island) if result.noises else ():
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _rounding(
    recipe: Recipe, content: dict[str, Any], result: BundleResult, report: dict[str, Any], out: Path
) -> tuple[Island | None, list[str]]:
    """Put the rounding noise by layer into the report and its plot beside; returns the island that would help most."""
    if not result.noises:
        return None, []
    island = suggest_island(result.noises, result.build.table, recipe.quantize.float16)
    approximate = not content.get("quantised")
    plot_diagnosis(result.noises, out / ROUNDING_PLOT)
    report["rounding"] = noise_json(result.noises, island, images=result.noise_images, approximate=approximate)
    page = diagnosis_markdown(
        result.noises, island, images=result.noise_images, picture=ROUNDING_PLOT, approximate=approximate
    )
    return island, page


def _header(recipe: Recipe, content: dict[str, Any], accuracy: dict[str, Accuracy], images: int) -> dict[str, Any]:
    done = content.get("training", {})
    training: dict[str, Any] = {
        "start": content.get("start"),
        "best_epoch": content["epoch"],
        "epochs": done.get("epochs"),
        "minutes": done.get("minutes"),
        "teacher": content.get("teacher"),
        # The export may run elsewhere, and later, than the training did.
        "provenance": json.loads(content["provenance"]),
    }
    return {
        "report_version": REPORT_VERSION,
        "name": recipe.name,
        "model": f"yolov8{content['size']}",
        "image_size": content["image_size"],
        "class_names": list(content["class_names"]),
        "data": {"name": recipe.data.name or recipe.name, "split": "val", "images": images},
        "accuracy": {name: result.to_json() for name, result in accuracy.items()},
        "training": training,
        "provenance": describe_run(recipe.train.seed, recipe.data.name or recipe.name).model_dump(),
        "recipe": recipe.model_dump(mode="json"),
    }


def _overlays(result: BundleResult, val: AnnotationSet, out: Path) -> list[str]:
    """Draw what the model of the bundle finds on a few val images beside the truth; returns the files' names."""
    folder = out / "overlays"
    folder.mkdir(exist_ok=True)
    detector = Detector(_backend(result, out), result.manifest, score_threshold=SHOWN_SCORE)
    names = result.manifest.class_names
    chosen = pick_images(val.images[: result.images], len(names))
    written, sheet = [], []
    taken: set[str] = set()
    for entry in chosen:
        image = read_image(entry.path)
        found = detector.detect([image])[0]
        pair = side_by_side(image, entry, found, names)
        path = folder / unused_name(f"{entry.path.stem}.jpg", taken)
        write_image(path, pair)
        written.append(f"overlays/{path.name}")
        sheet.append(pair)
    write_image(out / "overlays.jpg", _contact_sheet(sheet))
    detector.backend.close()
    return written


def _backend(result: BundleResult, out: Path) -> Any:
    """Return the simulated heads where there are any: that is what the board will show."""
    if result.build.simulated is None:
        return OnnxBackend(out / "model.onnx", result.manifest)
    from deploy.backends.rknn_simulator import RknnSimulatorBackend

    return RknnSimulatorBackend(result.build.simulated, result.manifest)


def pick_images(images: list[AnnotatedImage], classes: int) -> list[AnnotatedImage]:
    """Choose up to eight images that together show every class, the classes taking turns."""
    chosen: dict[int, None] = {}
    for turn in range(SHOWN_IMAGES):
        for class_id in range(classes):
            holders = [i for i, image in enumerate(images) if class_id in image.class_id and i not in chosen]
            if holders and len(chosen) < SHOWN_IMAGES and turn <= len(chosen) // max(1, classes):
                chosen[holders[0]] = None
    for i in range(len(images)):
        if len(chosen) >= SHOWN_IMAGES:
            break
        chosen.setdefault(i, None)
    return [images[i] for i in chosen]


def side_by_side(image: np.ndarray, truth: AnnotatedImage, found: Detections, names: list[str]) -> np.ndarray:
    """Put the annotated boxes (left) beside the detected ones (right), each half under a title."""
    halves = []
    for title, boxes in ((f"annotated: {len(truth.class_id)}", truth), (f"detected: {len(found)}", found)):
        drawn = draw_boxes(image, boxes, names)
        scale = max(0.5, drawn.shape[1] / 1100)
        bar = np.full((int(34 * scale), drawn.shape[1], 3), 32, np.uint8)
        place = (int(10 * scale), int(24 * scale))
        cv2.putText(
            bar,
            title,
            place,
            cv2.FONT_HERSHEY_SIMPLEX,
            0.7 * scale,
            (235, 235, 235),
            max(1, round(scale * 1.5)),
            cv2.LINE_AA,
        )
        halves.append(np.vstack((bar, drawn)))
    gap = np.full((halves[0].shape[0], 6, 3), 32, np.uint8)
    return np.hstack((halves[0], gap, halves[1]))


def _contact_sheet(pictures: list[np.ndarray], width: int = 900) -> np.ndarray:
    """Scale the pairs to one width and lay them in two columns, each row as high as its higher picture."""
    scaled = [
        cv2.resize(p, (width, max(1, round(p.shape[0] * width / p.shape[1]))), interpolation=cv2.INTER_AREA)
        for p in pictures
    ]
    rows = []
    for left, right in zip(scaled[::2], [*scaled[1::2], np.full((1, width, 3), 32, np.uint8)], strict=False):
        height = max(len(left), len(right))
        rows.append(
            np.hstack([np.vstack((p, np.full((height - len(p), width, 3), 32, np.uint8))) for p in (left, right)])
        )
    return np.vstack(rows)


def _write(report: dict[str, Any], out: Path, rounding: Sequence[str] = ()) -> None:
    write_atomically(out / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    write_atomically(out / "report.md", markdown(report, out, rounding).encode())


def markdown(report: dict[str, Any], out: Path, rounding: Sequence[str] = ()) -> str:
    """Return the report as a page that a person reads; pictures that exist in `out` are linked.

    rounding: lines about the noise of rounding by layer.
    """
    data, source, training = report["data"], report["provenance"], report["training"]
    lines = [
        f"# {report['name']}",
        "",
        f"{report['model']} at {report['image_size']} x {report['image_size']}, "
        f"{len(report['class_names'])} classes, scored on {data['images']} {data['split']} images of {data['name']}.",
        "",
        "| form | mAP50 | mAP50-95 | small | medium | large |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, a in report["accuracy"].items():
        cells = [_percent(a[key]) for key in ("map50", "map50_95", "small", "medium", "large")]
        lines.append(f"| {_form(name, report)} | {' | '.join(cells)} |")
    lines += ["", "Average precision in percent; the last three columns are mAP50-95 by object size (COCO).", ""]
    best = report["accuracy"].get("rknn_sim") or next(iter(report["accuracy"].values()))
    lines += ["## By class", "", "| class | boxes | mAP50 | mAP50-95 |", "| --- | --- | --- | --- |"]
    for name, row in best["per_class"].items():
        lines.append(f"| {name} | {row['boxes']} | {_percent(row['map50'])} | {_percent(row['map50_95'])} |")
    if "rknn" in report:
        r = report["rknn"]
        worst = max(d["max_abs"] for d in report["onnx"]["difference_to_torch"].values())
        lines += [
            "",
            "## Conversion",
            "",
            f"- {_layers_line(r)}, "
            f"{r['traffic_kb'] / 1000:.1f} MB traffic, {r['weight_memory_kb'] / 1000:.2f} MB weights, "
            f"{r['internal_memory_kb'] / 1000:.2f} MB internal memory (the compiler's table, see layers.json)",
            f"- rknn-toolkit2 {r['toolkit_version']}, {r['target']}, {_quantised_how(report)}",
            f"- ONNX against torch on real images: largest difference of a raw logit {worst:.2g}"
            + (" (weights stored as float16)" if report["onnx"]["half_weights"] else ""),
        ]
    if report.get("proof"):
        lines += ["", "## Proof that the learnt integers reach the NPU", ""]
        lines += [f"- {check['name']}: {check['told']}" for check in report["proof"]]
        lines += ["- everything behind it: proof.md"]
    lines += ["", *rounding] if rounding else []
    lines += ["", "## Training", "", f"- start: {training['start']}; best epoch {training['best_epoch']}"]
    if training["epochs"]:
        lines.append(f"- {training['epochs']} epochs in {training['minutes']:.1f} minutes")
    if training.get("teacher"):
        t = training["teacher"]
        lines.append(
            f"- teacher: YOLOv8{t['size']}, {t['origin']}, mAP50 {_percent(t['scores']['map50'])}, mAP50-95 "
            f"{_percent(t['scores']['map50_95'])} at the student's image size; losses: "
            + ", ".join(report["recipe"]["distill"]["losses"])
        )
        student = report["accuracy"]["torch"]["map50_95"]
        if t["scores"]["map50_95"] < student:
            lines.append(f"- **warning:** this teacher is worse than its student, which has {_percent(student)}")
    pictures = [p for p in PICTURES if (out / p).is_file()]
    lines += ["", *[f"![{Path(p).stem}]({p})" for p in pictures]]
    for verb, where in (("Trained", training["provenance"]), ("Exported and scored", source)):
        lines += [
            "",
            f"{verb}: commit {where['commit']}, seed {where['seed']}, {where['machine']}, {where['created']}.",
        ]
    lines.append("")
    return "\n".join(lines)


def _quantised_how(report: dict[str, Any]) -> str:
    r = report["rknn"]
    if r["calibration_images"]:
        return f"{r['calibration_images']} calibration images, algorithm {r['algorithm']}"
    return "learnt integers, not calibrated" if report.get("proof") else "not quantised"


def _form(name: str, report: dict[str, Any]) -> str:
    label = FORMS.get(name, name)
    if name == "torch" and "float" in report["accuracy"]:
        return "fake-quantised (torch)"
    if name == "rknn_sim" and "rknn" in report:
        label = f"{report['rknn']['precision'].upper()} {label}"
    return label


def _layers_line(rknn: dict[str, Any]) -> str:
    cycles = rknn["cycles"] / 1e6
    return (
        f"{rknn['layers_int8']} of {rknn['layers']} layers INT8, {rknn['layers_cpu']} on the CPU; {cycles:.3f} M cycles"
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _print_table(report: dict[str, Any], out: Path, console: Console) -> None:
    table = Table(title=f"{report['name']}: {report['data']['images']} val images", title_justify="left")
    table.add_column("form")
    for name in ("mAP50", "mAP50-95"):
        table.add_column(name, justify="right")
    for name, a in report["accuracy"].items():
        table.add_row(_form(name, report), _percent(a["map50"]), _percent(a["map50_95"]))
    console.print(table)
    if "rknn" in report:
        r = report["rknn"]
        console.print(_layers_line(r), highlight=False)
    for check in report.get("proof", []):
        console.print(f"proof, {check['name']}: {check['told']}", highlight=False, soft_wrap=True)
    console.print(f"report:   {out / 'report.md'}, {out / 'report.json'}", highlight=False, soft_wrap=True)
    if "rknn" in report:
        console.print(f"bundle:   {out} (manifest.json, model.rknn, model.onnx)", highlight=False, soft_wrap=True)
        console.print(f"pictures: {out / 'overlays.jpg'}", highlight=False, soft_wrap=True)
