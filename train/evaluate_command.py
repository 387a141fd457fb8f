"""Score a checkpoint or a bundle on a recipe's split with one backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from deploy.annotations import AnnotationSet
from deploy.backends.onnx_runtime import OnnxBackend
from deploy.backends.rknn_simulator import RknnSimulatorBackend
from deploy.convert.rknn_build import build_rknn
from deploy.head_layout import HeadLayout
from deploy.manifest import MANIFEST_NAME, Manifest, load_manifest
from deploy.metrics import Accuracy

from .checkpoint import load_checkpoint, model_from, write_atomically
from .evaluate import LetterboxCache, layout_for, score, torch_infer
from .export import calibration_images, check_classes, conversion_bars
from .provenance import describe_run
from .recipe import Recipe, load_recipe
from .report import FORMS
from .splits import load_split
from .trainer import choose_device

BACKENDS = ("torch", "onnx", "rknn-sim")


def run(
    model: Path,
    recipe_name: str,
    split: str = "val",
    backend: str | None = None,
    json_file: Path | None = None,
    limit: int | None = None,
    overrides: list[str] | None = None,
) -> Accuracy:
    """Score and print; with `json_file`, write `accuracy.BACKEND` with `map50`, `map50_95` and the rest there.

    model: a checkpoint file (torch) or a bundle (onnx, rknn-sim; torch where it holds a checkpoint). backend: by
    default torch for a checkpoint, onnx for a bundle. Raises ValueError, FileNotFoundError or OSError.
    """
    if backend is None:
        backend = "onnx" if (model / MANIFEST_NAME).is_file() else "torch"
    if backend not in BACKENDS:
        raise ValueError(f"--backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    console = Console()
    recipe = load_recipe(recipe_name, overrides)
    if not model.exists():
        raise FileNotFoundError(f"{model}: no such checkpoint or bundle")
    found = load_split(recipe, split)
    images = found.images[:limit]
    with conversion_bars(console) as bars:
        chosen = AnnotationSet(images, found.class_names)
        if backend == "torch":
            accuracy = _torch(model, recipe, chosen, bars)
        else:
            accuracy = _bundle(model, recipe, chosen, backend, bars)
    name = backend.replace("-", "_")
    shown = f"mAP50 {100 * accuracy.map50:.1f}, mAP50-95 {100 * accuracy.map50_95:.1f}"
    console.print(f"{FORMS[name]}: {shown} on {len(images)} {split} images", highlight=False)
    if json_file is not None:
        document: dict[str, Any] = {
            "model": str(model),
            "data": {"name": recipe.data.name or recipe.name, "split": split, "images": len(images)},
            "accuracy": {name: accuracy.to_json()},
            "provenance": describe_run(recipe.train.seed, recipe.data.name or recipe.name).model_dump(),
        }
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(json_file, (json.dumps(document, indent=2) + "\n").encode())
        console.print(f"wrote {json_file}", highlight=False, soft_wrap=True)
    return accuracy


def _torch(path: Path, recipe: Recipe, found: AnnotationSet, bars: Any) -> Accuracy:
    if path.is_dir():
        path = path / "checkpoint.pt"
        if not path.is_file():
            raise FileNotFoundError(f"{path.parent} holds no checkpoint.pt; give a checkpoint, or --backend onnx")
    content = load_checkpoint(path)
    check_classes(content, found, str(path))
    device = choose_device(recipe.train.device)
    network, size = model_from(content, str(path)).to(device), content["image_size"]
    inputs = LetterboxCache(found.images, (size, size), recipe.data.cache_mb)
    layout = layout_for(size, len(found.class_names))
    progress = lambda done, total: bars("score", done, total)  # noqa: E731
    return score(torch_infer(network, device), found.images, inputs, found.class_names, layout, progress=progress)


def _bundle(path: Path, recipe: Recipe, found: AnnotationSet, backend: str, bars: Any) -> Accuracy:
    if not (path / MANIFEST_NAME).is_file():
        raise ValueError(
            f"--backend {backend} needs a bundle (a folder with {MANIFEST_NAME}), got {path}; `rsedge export` makes one"
        )
    manifest = load_manifest(path)
    check_classes({"class_names": manifest.class_names}, found, str(path))
    inputs = LetterboxCache(found.images, manifest.input_hw, recipe.data.cache_mb)
    layout = HeadLayout.from_manifest(manifest)
    opened = _simulate(path, manifest, recipe, inputs, bars) if backend == "rknn-sim" else _onnx(path, manifest)
    try:
        progress = lambda done, total: bars("score", done, total)  # noqa: E731
        return score(opened.infer, found.images, inputs, found.class_names, layout, progress=progress)
    finally:
        opened.close()


def _onnx(path: Path, manifest: Manifest) -> OnnxBackend:
    if "onnx" not in manifest.files:
        raise ValueError(f"{path} holds no ONNX file; export the bundle again")
    return OnnxBackend(path / manifest.files["onnx"].name, manifest)


def _simulate(
    path: Path, manifest: Manifest, recipe: Recipe, inputs: LetterboxCache, bars: Any
) -> RknnSimulatorBackend:
    """Build the bundle's model once more, from its own ONNX file and the same calibration images, and simulate it.

    The vendor's simulator cannot run a finished `.rknn`. The rebuilt output scales must equal the manifest's, or the
    calibration images were other ones and the figures would not be those of the file.
    """
    from tempfile import TemporaryDirectory

    calibration = None
    algorithm = "normal"
    if manifest.precision == "int8":
        told = manifest.calibration
        if told is None:
            raise ValueError(f"{path}: the manifest does not say how the model was calibrated; export the bundle again")
        recipe = recipe.model_copy(
            update={
                "export": recipe.export.model_copy(update={"calibration_images": told.images}),
                "train": recipe.train.model_copy(update={"seed": told.seed}),
            }
        )
        calibration = calibration_images(recipe, load_split(recipe, "train"), manifest.input_hw[0])
        algorithm = told.algorithm
    with TemporaryDirectory(prefix="rsedge-evaluate-") as scratch:
        build = build_rknn(
            path / manifest.files["onnx"].name,
            Path(scratch),
            precision=manifest.precision,
            calibration=calibration,
            evaluate=lambda: (pixels for pixels, _ in inputs),
            algorithm=algorithm,
            processes=recipe.export.processes,
            progress=bars,
        )
        for head in manifest.heads:
            for name, scale in ((head.box_output, head.box_scale), (head.class_output, head.class_scale)):
                rebuilt = build.output_scales.get(name)
                if scale != rebuilt:
                    raise ValueError(
                        f"{path}: output {name} was built with {scale}, the rebuild gives {rebuilt}; "
                        "the recipe's train split is not the one that this bundle was calibrated with"
                    )
        assert build.simulated is not None
        return RknnSimulatorBackend(build.simulated, manifest)
