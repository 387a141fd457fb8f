"""Quantisation-aware training end to end on a few drawn scenes: ladder, bundle, proof, and the proof repeated."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

from deploy.convert.proof import ProofFailed
from deploy.manifest import ModelFile, load_manifest, sha256_of
from train.checkpoint import load_checkpoint
from train.export import run as export
from train.learnt_file import load_learnt
from train.verify_command import run as verify
from train.walk import walk

from .conftest import write_recipe

# The smallest size whose coarsest map, 5 x 5, needs no pooling over the whole of it.
SIZE = 160
STAGE = """
[model]
weights = "procedural"
[augment]
mosaic = 0.0
close_mosaic_epochs = 0
[quantize]
method = "train"
weights = [12, 8]
activations = [12, 8]
epochs = 2
learning_rate = 0.00005
observe_batches = 3
losses = ["magnitude", "logit"]
tuning.every = 3
"""


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantised")
    recipe = write_recipe(folder, SIZE, (12, 8), "learning_rate = 0.0001\nwarmup_epochs = 0", STAGE)
    return folder, walk(str(recipe), folder / "run", [], False, Console(quiet=True))


def test_the_proof_holds(walked):
    _, out = walked
    proof = json.loads((out / "proof.json").read_text())
    assert proof["passed"]
    checks = {check["name"]: check for check in proof["checks"]}
    assert list(checks) == ["layers", "scales", "simulator", "torch", "integers", "perturbation"]
    assert checks["layers"]["figures"]["float16"] == 0
    for check in ("simulator", "torch"):
        assert all(output["apart"] == 0 for output in checks[check]["figures"]["outputs"]), "identical to the bit"
    for check in ("torch", "integers"):
        assert all(layer["max_lsb"] <= 1 for layer in checks[check]["figures"]["layers"])
    assert checks["perturbation"]["figures"]["cosine"] > 0.99
    assert set(proof["accuracy"]) == {"float", "torch", "onnx", "rknn_sim"}
    assert "the proof **holds**" in (out / "proof.md").read_text()


def test_the_bundle_and_its_papers(walked):
    _, out = walked
    manifest = load_manifest(out)
    assert {"onnx", "rknn", "learnt", "proof"} == manifest.files.keys()
    assert manifest.precision == "int8"
    assert manifest.calibration is None
    assert (out / "model.onnx").stat().st_size < 4e6  # int8, not float32
    assert "learnt integers, not calibrated" in (out / "report.md").read_text()
    assert "Integers learnt in training" in (out / "card.md").read_text()
    assert len(json.loads((out / "report.json").read_text())["rounding"]["layers"]) > 60


def test_training_is_not_worse_than_the_toolkits_calibration(walked):
    """Eight scenes tell little; what would show is a fault of several points."""
    folder, out = walked
    calibrated = export(out / "float" / "checkpoint.pt", folder / "toolkit", overrides=["quantize.method=toolkit"])
    theirs, ours = (load_manifest(f).accuracy["rknn_sim"]["map50_95"] for f in (calibrated, out))
    assert ours > theirs - 0.03
    with pytest.raises(ValueError, match=r"nothing was learnt; train with quantize\.method = train"):
        verify(calibrated)


def test_the_learnt_file_is_the_network(walked):
    _, out = walked
    again = load_learnt(out / "learnt.safetensors")
    model = onnx.load(str(out / "model.onnx"))
    file = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, layer in again.network.layers().items():
        integers, scale, _ = layer.weight_integers()
        assert np.array_equal(file[f"{name}.weight_scale"], scale.numpy())
        assert np.abs(file[f"{name}.weight_int8"].astype(int) - integers.numpy()).max() <= 1  # marked asymmetric
    assert load_checkpoint(out / "checkpoint.pt")["quantised"]["folded"]


def test_verify_repeats_it(walked, tmp_path, capsys):
    _, out = walked
    proof = verify(out, limit=4, out=tmp_path)
    assert proof["passed"]
    assert proof["checks"][0]["name"] == "shipped"
    assert (tmp_path / "proof.md").is_file()
    assert "the proof holds (drawn scenes)" in capsys.readouterr().out


def test_another_scale_in_the_file_is_found(walked, tmp_path):
    """A scale that is not the learnt one, with hashes that fit: only the proof can see it."""
    _, out = walked
    bundle = tmp_path / "forged"
    bundle.mkdir()
    for name in ("model.onnx", "model.rknn", "learnt.safetensors", "proof.json", "manifest.json", "layers.json"):
        shutil.copy(out / name, bundle / name)
    model = onnx.load(str(bundle / "model.onnx"))
    tensor = next(t for t in model.graph.initializer if t.name == "model.4.cv1.conv.weight_scale")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    onnx.save(model, str(bundle / "model.onnx"))
    manifest = load_manifest(bundle, check_hashes=False)
    files = {**manifest.files, "onnx": ModelFile(name="model.onnx", sha256=sha256_of(bundle / "model.onnx"))}
    manifest.model_copy(update={"files": files}).save(bundle)
    with pytest.raises(ProofFailed, match=r"failed at scales: weights of model\.4\.cv1\.conv differs"):
        verify(bundle, limit=2)
