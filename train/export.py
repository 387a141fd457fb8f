"""Export a trained network into a bundle: ONNX, checked against torch; RKNN, gated and simulated; scores; manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deploy.annotations import AnnotationSet
from deploy.backends.onnx_runtime import OnnxBackend
from deploy.backends.rknn_simulator import RknnSimulatorBackend, SimulatedHeads
from deploy.convert.calibration import choose_calibration, letterbox_images
from deploy.convert.onnx_export import compare_with_torch, export_onnx, output_names
from deploy.convert.proof import PROOF_NAME, Check, raise_for
from deploy.convert.proof_page import proof_json, write_proof
from deploy.convert.rknn_build import LOG_NAME, RknnBuild, build_rknn
from deploy.head_layout import HeadLayout
from deploy.letterbox import PAD_VALUE, Letterbox
from deploy.manifest import MANIFEST_NAME, Calibration, Head, Manifest, ModelFile, Provenance, sha256_of
from deploy.metrics import Accuracy

from .checkpoint import load_checkpoint, model_from
from .diagnosis import LayerNoise, calibrated_stand_in, diagnose
from .evaluate import LetterboxCache, layout_for, score, torch_infer
from .learnt_file import LEARNT_NAME, save_learnt
from .model import STRIDES, Yolov8
from .prove import PROOF_IMAGES, integers_for_file, prove, quantised_form
from .provenance import describe_run
from .quantised_model import QuantisedYolov8
from .recipe import Recipe, load_recipe, parse_recipe
from .splits import load_both

ONNX_NAME, RKNN_NAME = "model.onnx", "model.rknn"
COMPARED_IMAGES = 8
# The stand-in for the toolkit's ranges is approximate anyhow; more images only take longer.
DIAGNOSED_CALIBRATION = 16


@dataclass(frozen=True, eq=False)
class BundleResult:
    """What an export gave.

    accuracy: by form ("torch", "onnx", "rknn_sim"; "float" too where integers were learnt after it), on the same
    images. onnx_difference: by output, see `compare_with_torch`. build: of the RKNN file. images: how many were scored.
    proof: the checks of learnt integers, empty where there are none. noises: rounding noise by layer, measured on
    `noise_images` images; empty for float16.
    """

    manifest: Manifest
    accuracy: dict[str, Accuracy]
    onnx_difference: dict[str, dict[str, float]]
    build: RknnBuild
    images: int
    proof: tuple[Check, ...] = ()
    noises: tuple[LayerNoise, ...] = ()
    noise_images: int = 0


def run(
    checkpoint: Path,
    out: Path,
    precision: str | None = None,
    recipe: str | None = None,
    overrides: list[str] | None = None,
    half_weights: bool = False,
    limit: int | None = None,
) -> Path:
    """Export a checkpoint that rsedge wrote into the bundle `out`, score every form and write the report.

    recipe: names the data; without it, the recipe kept in the checkpoint is used, with `overrides` on top. Raises
    ValueError, FileNotFoundError or OSError with one clear line.
    """
    from .report import write_report

    console = Console()
    content = load_checkpoint(checkpoint)
    if (out / "last.pt").is_file():
        raise ValueError(f"{out} is a training run's folder; choose another --out for the bundle")
    told = recipe_of(content, recipe, overrides or [], str(checkpoint))
    changes: dict[str, Any] = {"precision": precision} if precision else {}
    if half_weights:
        changes["half_weights"] = True
    told = told.model_copy(update={"export": told.export.model_copy(update=changes)})
    model = model_from(content, str(checkpoint))
    train, val = load_both(told)
    check_classes(content, val, str(checkpoint))
    out.mkdir(parents=True, exist_ok=True)
    result = build_bundle(told, content, model, train, val, out, console, limit=limit)
    write_report(told, content, result, val, out, console)
    return out


def recipe_of(content: dict[str, Any], name: str | None, overrides: list[str], origin: str) -> Recipe:
    """Return the recipe that names the data of a checkpoint: one given by name, or the one it was trained with."""
    if name is not None:
        return load_recipe(name, overrides)
    import json

    from .recipe import apply_overrides

    raw = json.loads(content["recipe"])
    apply_overrides(raw, overrides)
    return parse_recipe(raw, origin)


def check_classes(content: dict[str, Any], found: AnnotationSet, origin: str) -> None:
    """Raise ValueError where a checkpoint's classes are not those of the data."""
    if list(content["class_names"]) != list(found.class_names):
        raise ValueError(
            f"{origin}: was trained on the classes {content['class_names']}, the data has {found.class_names}; "
            "use its own data, or list data.class_names in that order"
        )


def build_bundle(
    recipe: Recipe,
    content: dict[str, Any],
    model: Any,
    train: AnnotationSet,
    val: AnnotationSet,
    out: Path,
    console: Console,
    *,
    limit: int | None = None,
) -> BundleResult:
    """Write model.onnx, model.rknn, layers.json, convert.log and manifest.json into `out`; score all three forms.

    The `.rknn` is made from the very ONNX file of the bundle. limit: score only the first images, all forms the same.
    Everything is made in a folder beside and moved at the end, the manifest last: an export that fails or is stopped
    leaves an earlier bundle in `out` as it was (but for convert.log, which tells why).
    """
    with TemporaryDirectory(prefix=".building-", dir=out, ignore_cleanup_errors=True) as scratch:
        result = _build(recipe, content, model, train, val, Path(scratch), out, console, limit)
        for path in sorted(Path(scratch).iterdir(), key=lambda path: path.name == MANIFEST_NAME):
            os.replace(path, out / path.name)
    return result


def _build(
    recipe: Recipe,
    content: dict[str, Any],
    model: Any,
    train: AnnotationSet,
    val: AnnotationSet,
    scratch: Path,
    out: Path,
    console: Console,
    limit: int | None,
) -> BundleResult:
    config, size = recipe.export, content["image_size"]
    images = val.images[: limit or recipe.export.simulate_limit]
    inputs = LetterboxCache(images, (size, size), recipe.data.cache_mb)
    form = quantised_form(model) if isinstance(model, QuantisedYolov8) else None
    if form is not None and not config.simulate:
        raise ValueError("export.simulate must be true for learnt integers: without the simulator nothing is proved")
    if form is not None:
        export_onnx(form.module, scratch / ONNX_NAME, (size, size), integers=integers_for_file(form))
    else:
        export_onnx(model, scratch / ONNX_NAME, (size, size), half_weights=config.half_weights)
    sample = [pixels for pixels, _ in _first(inputs, COMPARED_IMAGES)]
    difference = compare_with_torch(form.module if form else model, scratch / ONNX_NAME, sample)
    calibration = calibration_images(recipe, train, size) if config.precision == "int8" and form is None else None
    with conversion_bars(console) as progress:
        build = build_rknn(
            scratch / ONNX_NAME,
            scratch,
            precision=config.precision,
            calibration=calibration,
            evaluate=(lambda: (pixels for pixels, _ in inputs)) if config.simulate else None,
            algorithm=config.algorithm,
            processes=config.processes,
            progress=progress,
            rknn_name=RKNN_NAME,
            log_path=out / LOG_NAME,
        )
    if build.precision == "int8" and not build.output_scales:
        console.print(
            f"note: with {config.algorithm} the toolkit does not tell the scales of the outputs: the manifest has none "
            "and detection reads floats from the runtime",
            highlight=False,
            soft_wrap=True,
        )
    provenance = describe_run(recipe.train.seed, recipe.data.name or recipe.name)
    manifest = _manifest(recipe, content, scratch, build, provenance)
    before = _float_model(content)
    accuracy = _score_forms(model, before, manifest, build.simulated, scratch, images, inputs, val.class_names, console)
    told = f"{recipe.data.name or recipe.name}, {len(images)} val images"
    summary = {k: {"map50": a.map50, "map50_95": a.map50_95} for k, a in accuracy.items()}
    checks: list[Check] = []
    if form is not None:
        assert build.simulated is not None
        pixels = [image for image, _ in _first(inputs, PROOF_IMAGES)]
        with conversion_bars(console) as progress:
            checks = prove(model, scratch / ONNX_NAME, build.table, build.simulated, pixels, progress)
        keep_proof(checks, summary, manifest, told, scratch, out)
        save_learnt(model, scratch / LEARNT_NAME)
        added = {
            role: ModelFile(name=name, sha256=sha256_of(scratch / name))
            for role, name in (("learnt", LEARNT_NAME), ("proof", PROOF_NAME))
        }
        manifest = manifest.model_copy(update={"files": {**manifest.files, **added}})
    manifest = manifest.model_copy(update={"accuracy": summary, "accuracy_data": told})
    manifest.save(scratch)
    noises: list[LayerNoise] = []
    if config.precision == "int8":
        with conversion_bars(console) as progress:
            noises = diagnose(_subject(model, calibration), sample, _phase(progress, "diagnose"))
    return BundleResult(manifest, accuracy, difference, build, len(images), tuple(checks), tuple(noises), len(sample))


def _subject(model: Any, calibration: np.ndarray | None) -> QuantisedYolov8:
    """Return the network whose rounding is looked at; for the toolkit's calibration one with like ranges stands in."""
    if isinstance(model, QuantisedYolov8):
        return model
    assert calibration is not None
    return calibrated_stand_in(model, calibration[:DIAGNOSED_CALIBRATION])


def keep_proof(
    checks: list[Check],
    accuracy: Mapping[str, Mapping[str, Any]],
    manifest: Manifest,
    told: str,
    folder: Path,
    out: Path,
) -> None:
    """Write a proof that holds into `folder`, or raise ProofFailed for one that does not.

    A failed one is written into `out/failed_proof`, where nobody takes it for that of a bundle in `out`.
    """
    assert manifest.provenance is not None
    about = {
        "name": manifest.name,
        "target": manifest.target,
        "toolkit_version": manifest.toolkit_version,
        "accuracy_data": told,
        "provenance": manifest.provenance.model_dump(),
    }
    proof = proof_json(checks, accuracy, about)
    if proof["passed"]:
        write_proof(proof, folder)
        return
    failed = out / "failed_proof"
    failed.mkdir(parents=True, exist_ok=True)
    write_proof(proof, failed)
    raise_for(checks, failed)


def _float_model(content: dict[str, Any]) -> Yolov8 | None:
    """Return the network before it was quantised, where the checkpoint kept it."""
    if "float_model" not in content:
        return None
    plain = {k: v for k, v in content.items() if k != "quantised"}
    model: Yolov8 = model_from({**plain, "model": content["float_model"]}, "the checkpoint's float network")
    return model


def calibration_images(recipe: Recipe, train: AnnotationSet, size: int) -> np.ndarray:
    """Draw the calibration set of a recipe: (n, size, size, 3) uint8 RGB, letterboxed, the same for the same seed."""
    chosen = choose_calibration([i.class_id for i in train.images], recipe.export.calibration_images, recipe.train.seed)
    return letterbox_images([train.images[i].path for i in chosen], (size, size))


def _score_forms(
    model: Any,
    before: Yolov8 | None,
    manifest: Manifest,
    simulated: SimulatedHeads | None,
    out: Path,
    images: list[Any],
    inputs: LetterboxCache,
    class_names: list[str],
    console: Console,
) -> dict[str, Accuracy]:
    layout = HeadLayout.from_manifest(manifest)
    plain = layout_for(manifest.input_hw[0], len(class_names))
    device = next(model.parameters()).device
    accuracy = {}
    with conversion_bars(console) as progress:
        if before is not None:
            tell = _phase(progress, "score before")
            accuracy["float"] = score(torch_infer(before, device), images, inputs, class_names, plain, progress=tell)
        accuracy["torch"] = score(
            torch_infer(model, device), images, inputs, class_names, plain, progress=_phase(progress, "score torch")
        )
        backend = OnnxBackend(out / ONNX_NAME, manifest)
        accuracy["onnx"] = score(
            backend.infer, images, inputs, class_names, plain, progress=_phase(progress, "score ONNX")
        )
        backend.close()
        if simulated is not None:
            replay = RknnSimulatorBackend(simulated, manifest)
            accuracy["rknn_sim"] = score(
                replay.infer, images, inputs, class_names, layout, progress=_phase(progress, "score simulated")
            )
    return accuracy


def _manifest(recipe: Recipe, content: dict[str, Any], out: Path, build: RknnBuild, provenance: Provenance) -> Manifest:
    size = content["image_size"]
    names = output_names(STRIDES)
    files = {"onnx": ONNX_NAME, "rknn": RKNN_NAME}
    return Manifest(
        name=recipe.name,
        class_names=list(content["class_names"]),
        input_hw=(size, size),
        pad_value=PAD_VALUE,
        heads=[
            Head(
                stride=stride,
                box_output=names[2 * i],
                class_output=names[2 * i + 1],
                box_scale=build.output_scales.get(names[2 * i]),
                class_scale=build.output_scales.get(names[2 * i + 1]),
            )
            for i, stride in enumerate(STRIDES)
        ],
        precision=build.precision,  # type: ignore[arg-type]
        files={role: ModelFile(name=name, sha256=sha256_of(out / name)) for role, name in files.items()},
        target=build.target,
        toolkit_version=build.toolkit_version,
        calibration=Calibration(
            images=build.calibration_count, algorithm=recipe.export.algorithm, seed=recipe.train.seed
        )
        if build.calibration_count
        else None,
        licence=recipe.data.terms,
        provenance=provenance,
    )


@contextmanager
def conversion_bars(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Show one bar per phase on a terminal, one line per phase elsewhere."""
    if not console.is_terminal:
        seen: set[str] = set()

        def tell(phase: str, _done: int, _total: int) -> None:
            if phase not in seen:
                seen.add(phase)
                console.print(f"{phase} ...", highlight=False)

        yield tell
        return
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def advance(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield advance


def _phase(progress: Callable[[str, int, int], None], name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)


def _first(inputs: LetterboxCache, count: int) -> list[tuple[np.ndarray, Letterbox]]:
    return [item for item, _ in zip(inputs, range(count), strict=False)]
