"""`rsedge verify`: repeat the proof of a bundle with learnt integers."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console

from deploy.annotations import AnnotationSet
from deploy.backends.onnx_runtime import OnnxBackend
from deploy.backends.rknn_simulator import RknnSimulatorBackend, SimulatedHeads
from deploy.convert.layer_table import LayerTable
from deploy.convert.proof import Check, raise_for
from deploy.convert.proof_page import PAGE_NAME, proof_json, write_proof
from deploy.convert.rknn_build import LAYERS_NAME, build_rknn
from deploy.head_layout import HeadLayout
from deploy.letterbox import Letterbox
from deploy.manifest import Manifest, load_manifest
from deploy.procedural import draw_scene

from .evaluate import LetterboxCache, layout_for, score, torch_infer
from .export import ONNX_NAME, conversion_bars
from .learnt_file import LEARNT_NAME, load_learnt
from .prove import PROOF_IMAGES, kept_log, prove
from .provenance import describe_run
from .quantised_model import QuantisedYolov8
from .recipe import load_recipe
from .splits import load_split

# Far from the seeds of the recipes that draw scenes to train on.
FIRST_SCENE = 770_000


def run(
    bundle: Path,
    recipe_name: str | None = None,
    overrides: list[str] | None = None,
    limit: int | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Repeat the proof and return it as `proof.json` holds it.

    recipe_name: names the images, whose val split is then scored in every form too; without it, drawn scenes serve, as
    integers agree on any image or on none. limit: of val images. out: folder for the new proof.json and proof.md.
    Raises ProofFailed, ValueError, FileNotFoundError or OSError with one line.
    """
    console = Console()
    if not bundle.is_dir():
        raise FileNotFoundError(f"{bundle}: no such bundle; give the folder that holds manifest.json")
    manifest = load_manifest(bundle)
    if "learnt" not in manifest.files:
        raise ValueError(
            f"{bundle}: its integers come from the toolkit's calibration, nothing was learnt; train with "
            "quantize.method = train, then export"
        )
    model = load_learnt(bundle / LEARNT_NAME)
    _check_size(model, manifest, bundle)
    found = None
    if recipe_name is not None:
        recipe = load_recipe(recipe_name, overrides)
        found = load_split(recipe, "val")
        found = AnnotationSet(found.images[:limit], found.class_names)
        if list(found.class_names) != manifest.class_names:
            raise ValueError(f"--data {recipe_name}: must have the bundle's classes {manifest.class_names}")
        inputs = LetterboxCache(found.images, manifest.input_hw, recipe.data.cache_mb)
        pixels = [image for image, _ in inputs]
        told = f"{recipe.data.name or recipe.name}, {len(pixels)} val images"
    else:
        pixels, told = drawn(manifest.input_hw, limit or PROOF_IMAGES), "drawn scenes"
    with TemporaryDirectory(prefix="rsedge-verify-", ignore_cleanup_errors=True) as folder:
        with conversion_bars(console) as progress:
            build = build_rknn(
                bundle / ONNX_NAME,
                Path(folder),
                evaluate=lambda: iter(pixels),
                progress=progress,
                target=manifest.target,
                mean=manifest.mean,
                std=manifest.std,
                log_path=kept_log("verify"),
            )
            assert build.simulated is not None
            checks = [_same_table(build.table, bundle / LAYERS_NAME)]
            checks += prove(model, bundle / ONNX_NAME, build.table, build.simulated, pixels[:PROOF_IMAGES], progress)
        accuracy = _score(model, bundle, manifest, build.simulated, found, inputs) if found is not None else {}
    about = {
        "name": manifest.name,
        "target": manifest.target,
        "toolkit_version": build.toolkit_version,
        "accuracy_data": told,
        "provenance": describe_run(None, told).model_dump(),
    }
    proof = proof_json(checks, accuracy, about)
    for check in checks:
        mark = "passed" if check.passed else "FAILED"
        console.print(f"{check.name:<13}{mark}  {check.told}", highlight=False, soft_wrap=True)
    for form, row in accuracy.items():
        shown = f"mAP50 {100 * row['map50']:.1f}, mAP50-95 {100 * row['map50_95']:.1f}"
        console.print(f"{form:<13}{shown}", highlight=False)
    where = bundle
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_proof(proof, out)
        where = out
        console.print(f"wrote {out / PAGE_NAME}", highlight=False, soft_wrap=True)
    raise_for(checks, where)
    console.print(f"the proof holds ({told})", highlight=False, soft_wrap=True)
    return proof


def drawn(input_hw: tuple[int, int], count: int) -> list[np.ndarray]:
    """Return drawn scenes as the network sees them, (h, w, 3) uint8 RGB."""
    pixels = []
    for number in range(count):
        image = draw_scene(FIRST_SCENE + number, input_hw).image
        pixels.append(Letterbox.fit((image.shape[0], image.shape[1]), input_hw).apply(image))
    return pixels


def _check_size(model: QuantisedYolov8, manifest: Manifest, bundle: Path) -> None:
    if model.class_count != len(manifest.class_names):
        raise ValueError(
            f"{bundle}: {LEARNT_NAME} has {model.class_count} classes, the manifest {len(manifest.class_names)}; the "
            "files are of two models, export again"
        )


def _same_table(table: LayerTable, path: Path) -> Check:
    """Check that compiling the file again gives the layers that the shipped `.rknn` was built with."""
    if not path.is_file():
        return Check("shipped", False, f"{path.name} is missing from the bundle")
    shipped = LayerTable.from_json(json.loads(path.read_text(encoding="utf-8")))
    same = shipped == table
    told = f"{len(table.layers)} layers compile as those of the shipped model.rknn"
    return Check("shipped", same, told if same else f"compiled again, the layers differ from {path.name}")


def _score(
    model: QuantisedYolov8,
    bundle: Path,
    manifest: Manifest,
    simulated: SimulatedHeads,
    found: AnnotationSet,
    inputs: LetterboxCache,
) -> dict[str, dict[str, Any]]:
    names, size = manifest.class_names, manifest.input_hw[0]
    device = next(model.parameters()).device
    backend = OnnxBackend(bundle / ONNX_NAME, manifest)
    replay = RknnSimulatorBackend(simulated, manifest)
    plain, layout = layout_for(size, len(names)), HeadLayout.from_manifest(manifest)
    forms = {
        "torch": (torch_infer(model, device), plain),
        "onnx": (backend.infer, layout),
        "rknn_sim": (replay.infer, layout),
    }
    scores = {form: score(infer, found.images, inputs, names, how) for form, (infer, how) in forms.items()}
    backend.close()
    return {form: {"map50": s.map50, "map50_95": s.map50_95} for form, s in scores.items()}
