"""One run of a comparison that starts from a float checkpoint: left as it is, calibrated by the toolkit, or trained."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from deploy.annotations import AnnotationSet
from deploy.backends.rknn_simulator import RknnSimulatorBackend
from deploy.convert.onnx_export import export_onnx, output_names
from deploy.convert.rknn_build import LOG_NAME, build_rknn
from deploy.detections import Detections
from deploy.head_layout import HeadLayout
from deploy.manifest import Head, Manifest, ModelFile

from .checkpoint import load_checkpoint, model_from
from .evaluate import Infer, LetterboxCache, find_all, layout_for, torch_infer
from .export import calibration_images
from .model import STRIDES
from .provenance import describe_run
from .quantise_stage import float_network, quantise_stage
from .recipe import Recipe
from .run_log import RunLog
from .teacher_cache import weights_digest
from .teacher_student import Teacher
from .trainer import choose_device


def starts_from_float(recipe: Recipe) -> bool:
    """Return whether a row quantises a finished network instead of training one."""
    return bool(recipe.quantize.checkpoint)


def float_digest(recipe: Recipe) -> str:
    """Return the digest of the network that a row starts from."""
    path = Path(recipe.quantize.checkpoint)
    return weights_digest(float_network(load_checkpoint(path), str(path)))


def quantised_leg(
    recipe: Recipe,
    where: Path,
    train: AnnotationSet,
    val: AnnotationSet,
    teacher: Teacher | None,
    console: Console,
) -> tuple[list[Detections], float, dict[str, Any]]:
    """Do one run in `where` and return what it finds on `val`, the minutes of training, and its provenance."""
    path = Path(recipe.quantize.checkpoint)
    start = load_checkpoint(path)
    size, names = recipe.train.image_size, list(val.class_names)
    inputs = LetterboxCache(val.images, (size, size), recipe.data.cache_mb)
    method = recipe.quantize.method
    provenance = describe_run(recipe.train.seed, recipe.data.name or recipe.name).model_dump()
    if method == "toolkit":
        found = _toolkit(recipe, float_network(start, str(path)), where, train, val, inputs, console)
        return found, 0.0, provenance
    minutes = 0.0
    if method == "none":
        model = float_network(start, str(path))
    else:
        log = RunLog(where, console)
        content = quantise_stage(recipe, start, where, train, val, log, teacher)
        log.close()
        model, minutes = model_from(content, str(where)), float(content["training"]["minutes"])
        provenance = json.loads(content["provenance"])
    device = choose_device(recipe.train.device)
    infer = torch_infer(model.to(device), device)
    return find_all(infer, inputs, len(val.images), layout_for(size, len(names))), minutes, provenance


def _toolkit(
    recipe: Recipe,
    model: Any,
    where: Path,
    train: AnnotationSet,
    val: AnnotationSet,
    inputs: LetterboxCache,
    console: Console,
) -> list[Detections]:
    """Calibrate with the vendor's toolkit and return what the simulated INT8 network finds; `where` keeps its log."""
    size, config = recipe.train.image_size, recipe.export
    console.print(f"      the toolkit calibrates with {config.algorithm}", highlight=False)
    where.mkdir(parents=True, exist_ok=True)  # the log must stay when the folder of the build goes
    with TemporaryDirectory(prefix="rsedge-compare-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path, (size, size))
        build = build_rknn(
            path,
            Path(folder),
            calibration=calibration_images(recipe, train, size),
            evaluate=lambda: (pixels for pixels, _ in inputs),
            algorithm=config.algorithm,
            processes=config.processes,
            log_path=where / LOG_NAME,
        )
        assert build.simulated is not None
        names, scales = output_names(STRIDES), build.output_scales
        manifest = Manifest(
            name=recipe.name,
            class_names=list(val.class_names),
            input_hw=(size, size),
            heads=[
                Head(
                    stride=stride,
                    box_output=names[2 * i],
                    class_output=names[2 * i + 1],
                    box_scale=scales.get(names[2 * i]),
                    class_scale=scales.get(names[2 * i + 1]),
                )
                for i, stride in enumerate(STRIDES)
            ],
            precision="int8",
            files={"rknn": ModelFile(name="model.rknn", sha256="0" * 64)},
        )
        infer: Infer = RknnSimulatorBackend(build.simulated, manifest).infer
        return find_all(infer, inputs, len(val.images), HeadLayout.from_manifest(manifest))
