"""Conversion: the real toolkit on a small network, and each way in which it is known to fail, on a fake one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

from deploy.convert import rknn_child, rknn_process
from deploy.convert.layer_table import parse_layer_table
from deploy.convert.onnx_export import export_onnx
from deploy.convert.onnx_file import output_shapes
from deploy.convert.rknn_build import ConversionError, build_rknn
from deploy.convert.rknn_child import to_int8
from tests.deploy.standin import make_standin

HW = (64, 64)


def smooth_images(count: int, seed: int) -> np.ndarray:
    """Return (n, 64, 64, 3) uint8 images with structure at every size, as photographs have."""
    rng = np.random.default_rng(seed)
    images = [cv2.resize(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), HW[::-1]) for _ in range(count)]
    return np.stack(images)


@pytest.fixture(scope="module")
def onnx_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    export_onnx(make_standin(), path, HW)
    return path


# ---- the real toolkit


CALIBRATION, EVALUATION = smooth_images(6, seed=0), smooth_images(16, seed=1)


@pytest.fixture(scope="module")
def built(onnx_path, tmp_path_factory):
    seen: list[tuple[str, int, int]] = []
    build = build_rknn(
        onnx_path,
        tmp_path_factory.mktemp("bundle"),
        calibration=CALIBRATION,
        evaluate=EVALUATION,
        progress=lambda *state: seen.append(state),
    )
    return build, seen


def test_real_build_is_all_int8_on_the_npu(built) -> None:
    build, seen = built
    assert build.rknn_path.stat().st_size > 10_000
    inside = [layer for layer in build.table.layers if not layer.type.endswith("Operator")]
    assert {(layer.dtype, layer.target) for layer in inside} == {("INT8", "NPU")}
    assert sum(layer.type == "ConvExSwish" for layer in inside) == 5, "convolution and SiLU are one layer"
    assert build.table.cycles > 0
    assert build.table.weight_memory_kb > 0
    assert build.toolkit_version == "2.5.0"
    assert build.calibration_count == 6
    assert json.loads(build.layers_path.read_text())["cycles_total"] == build.table.cycles
    log = build.log_path.read_text()
    assert "Network Layer Information Table" in log
    assert "rsedge-convert-" not in log
    assert next(phase for phase, *_ in seen) == "calibrate"
    assert seen[-1] == ("score", 16, 16)


def test_real_simulated_heads_follow_the_float_network(built, onnx_path) -> None:
    build, _ = built
    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    names = list(output_shapes(onnx_path))
    pixels = EVALUATION.transpose(0, 3, 1, 2).astype(np.float32) / 255
    wanted = [
        np.concatenate(heads) for heads in zip(*(session.run(names, {"images": x[None]}) for x in pixels), strict=True)
    ]
    assert list(build.output_scales) == list(build.simulated.arrays) == names
    for name, got, want in zip(names, build.simulated.heads(list(range(16))), wanted, strict=True):
        assert build.simulated.arrays[name].dtype == np.int8
        assert got.shape == want.shape
        cosine = float((got * want).sum() / np.linalg.norm(got) / np.linalg.norm(want))
        assert cosine > 0.995, f"{name}: {cosine}"


# The vendor's one-call build on PNG files: another route to the same integers.
_PLAIN_BUILD = """
import sys, numpy as np
from rknn.api import RKNN
rknn = RKNN(verbose=True)
rknn.config(mean_values=[[0, 0, 0]], std_values=[[255, 255, 255]], target_platform="rk3588")
assert rknn.load_onnx(model=sys.argv[1]) == 0
assert rknn.build(do_quantization=True, dataset="dataset.txt") == 0
assert rknn.init_runtime() == 0
images = np.load("evaluation.npy")
runs = [rknn.inference(inputs=[image[None]], data_format=["nhwc"]) for image in images]
np.savez("heads.npz", *[np.concatenate(heads) for heads in zip(*runs)])
"""


def test_real_build_equals_the_plain_build_from_png_files(built, onnx_path, tmp_path) -> None:
    """One call of the vendor's, in one process, repeats what three children built and simulated."""
    build, _ = built
    for number, image in enumerate(CALIBRATION):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image[..., ::-1])
    (tmp_path / "dataset.txt").write_text("".join(f"{number}.png\n" for number in range(len(CALIBRATION))))
    np.save(tmp_path / "evaluation.npy", EVALUATION[:9])  # the last one is of the second child's share
    run = subprocess.run(
        [sys.executable, "-c", _PLAIN_BUILD, str(onnx_path)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    assert parse_layer_table(run.stdout) == build.table
    with np.load(tmp_path / "heads.npz") as plain:
        assert len(plain) == len(build.output_scales) == 6
        mine = build.simulated.heads(list(range(9)))
        for got, want, (name, scale) in zip(mine, plain.values(), build.output_scales.items(), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
            integers = to_int8(want, scale.scale, scale.zero_point, name)
            np.testing.assert_array_equal(build.simulated.arrays[name][:9], integers)


@pytest.mark.parametrize("algorithm", ["mmse", "kl_divergence"])
def test_real_build_of_other_algorithms(algorithm: str, built, onnx_path, tmp_path) -> None:
    """Scales are told where the simulated values lie on them; for `mmse`, which hides them, none is made up."""
    build = build_rknn(
        onnx_path, tmp_path, calibration=CALIBRATION, evaluate=EVALUATION, algorithm=algorithm, processes=2
    )
    assert {layer.dtype for layer in build.table.layers if not layer.type.endswith("Operator")} == {"INT8"}
    names = list(output_shapes(onnx_path))
    searched_anew = "quantized_algorithm is mmse, start re-quantization" in build.log_path.read_text()
    assert searched_anew == (algorithm == "mmse"), "the reason why its scales are left out"
    assert list(build.output_scales) == ([] if algorithm == "mmse" else names)
    usual = built[0].simulated.heads(list(range(16)))
    for name, got, like in zip(names, build.simulated.heads(list(range(16))), usual, strict=True):
        assert build.simulated.arrays[name].dtype == (np.float32 if algorithm == "mmse" else np.int8)
        cosine = float((got * like).sum() / np.linalg.norm(got) / np.linalg.norm(like))
        assert 0.98 < cosine < 1 - 1e-7, f"{name}: {cosine}, near the usual calibration's values but not the same"
        # One grid of at most 256 values: the outputs are int8 whether their scale is told or not.
        assert 24 < len(np.unique(got)) <= 256


def test_real_float16_build(onnx_path, tmp_path) -> None:
    build = build_rknn(onnx_path, tmp_path, precision="fp16", evaluate=EVALUATION[:2])
    assert {layer.dtype for layer in build.table.layers} == {"FLOAT16"}
    assert build.output_scales == {}
    assert all(heads.dtype == np.float32 for heads in build.simulated.arrays.values())


# ---- a fake toolkit


class InThisProcess:
    """Stands for a child's `Popen`: does its job here and now, its output in its log, without the start and imports."""

    stdin = None

    def __init__(self, command: list[str], *, cwd: Path, stdout, **_) -> None:
        kept, home = os.dup(1), Path.cwd()
        os.dup2(stdout.fileno(), 1)
        os.chdir(cwd)
        try:
            self.returncode = rknn_child.main(command[-1])
        finally:
            os.chdir(home)
            os.dup2(kept, 1)
            os.close(kept)

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Return a function that chooses how the toolkit fails, in child processes or in this one, and gives a bundle."""
    package = tmp_path / "path" / "rknn"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    shutil.copyfile(Path(__file__).with_name("fake_rknn.py"), package / "api.py")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    bundle = tmp_path / "bundle"
    bundle.mkdir()

    def choose(mode: str, *, processes: bool = True) -> Path:
        monkeypatch.setenv("FAKE_RKNN", mode)
        if not processes:
            monkeypatch.setattr(rknn_process.subprocess, "Popen", InThisProcess)
            monkeypatch.setattr(rknn_child, "_leave_with_parent", lambda: None)
            monkeypatch.syspath_prepend(package.parent)
        return bundle

    real = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "rknn"}
    yield choose
    for name in ("rknn", "rknn.api"):
        sys.modules.pop(name, None)
    sys.modules.update(real)


def numbered(count: int) -> np.ndarray:
    """Return images whose first pixel tells their number."""
    images = np.zeros((count, *HW, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return images


FAILURES = {
    "missing": r"cannot be imported \(libGL.*\); run `make install`",
    "load -1": "load_onnx returned -1 instead of 0",
    "none": "hybrid_quantization_step1 returned None instead of 0",
    "scale lost": r"holds no int8 scale and zero point of output class_16, box_32",
    "raise": "ValueError: The input shape is wrong!",
    "abort": "stopped by signal SIGABRT",
    "lowering": "No lowering found for op: Foo",
    "target": "Unkown op target: 0",
    "no table": 'holds no "Network Layer Information Table"',
    "float16": r"1 of 2 layers miss int8: layer 1 Conv:/a/Conv is FLOAT16",
    "cpu": r"layer 1 Conv:/a/Conv runs on the CPU",
    "no file": "wrote no file",
    "no outputs": "simulator returned None for image",
    "off grid": "is not a multiple of its scale 0.25",
    "differ": "layer tables of children 0 and 1 are not equal",
}
# A status, an exception, a crash and a log that denies the status, as real processes (and `test_time_limit`); in the
# others only the toolkit's answer differs, not what becomes of the child.
AS_PROCESSES = {"load -1", "raise", "abort", "lowering"}


@pytest.mark.parametrize("mode", FAILURES)
def test_every_failure_is_one_line_with_the_log(mode: str, fake, onnx_path) -> None:
    bundle = fake(mode, processes=mode in AS_PROCESSES)
    (bundle / "model.rknn").write_bytes(b"old")
    images = numbered(16 if mode == "differ" else 2)
    with pytest.raises(ConversionError, match=FAILURES[mode]) as caught:
        build_rknn(onnx_path, bundle, calibration=images, evaluate=images)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("model.onnx to int8 rk3588: ")
    assert text.endswith(f"; log: {bundle / 'convert.log'}")
    assert (bundle / "convert.log").is_file()
    assert (bundle / "model.rknn").read_bytes() == b"old", "what was there before stays"
    assert not (bundle / "layers.json").exists()


@pytest.mark.parametrize("source", ["array", "generator", "function", "file"])
def test_shares_of_two_children_land_in_their_slots(source: str, fake, onnx_path, tmp_path) -> None:
    bundle = fake("", processes=source == "generator")
    images = numbered(19)
    np.save(tmp_path / "images.npy", images)
    evaluate = {
        "array": images,
        "generator": (image for image in images),
        "function": lambda: iter(images),
        "file": tmp_path / "images.npy",
    }[source]
    build = build_rknn(onnx_path, bundle, calibration=images[:1], evaluate=evaluate, limit=17)
    assert len(build.simulated) == 17
    for heads in build.simulated.arrays.values():
        np.testing.assert_array_equal(heads.reshape(17, -1)[:, 0], np.arange(17))
    # (integer - zero_point) * scale
    assert build.simulated.heads([3])[0].flat[0] == (3 + 28) * 0.25
    assert build.rknn_path.read_bytes() == b"built"
    assert sorted(path.name for path in bundle.iterdir()) == ["convert.log", "layers.json", "model.rknn"]


def test_one_process_gives_the_same_as_two(fake, onnx_path, tmp_path) -> None:
    bundle = fake("", processes=False)
    images = numbered(17)
    builds = [
        build_rknn(onnx_path, bundle, calibration=iter(images[:1]), evaluate=images, processes=processes)
        for processes in (1, 2)
    ]
    assert builds[0].log_path == builds[1].log_path
    assert builds[0].table == builds[1].table
    assert builds[0].output_scales == builds[1].output_scales
    for one, two in zip(builds[0].simulated.arrays.values(), builds[1].simulated.arrays.values(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_time_limit(fake, onnx_path) -> None:
    with pytest.raises(ConversionError, match="did not end within 2 s"):
        build_rknn(onnx_path, fake("hang"), calibration=numbered(1), timeout_s=2)


# A shell's background job ignores Ctrl-C and hands that down; what is tested is the process that does not.
_PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
from pathlib import Path
from deploy.convert.rknn_build import build_rknn
try:
    build_rknn(Path(sys.argv[1]), Path(sys.argv[2]), calibration=np.zeros((1, 64, 64, 3), np.uint8))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_children_end_with_their_parent(ending: signal.Signals, fake, onnx_path, tmp_path, monkeypatch) -> None:
    bundle = fake("hang")
    pid_file = tmp_path / "pid"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {
        **os.environ,
        "FAKE_RKNN_PID": str(pid_file),
        "TMPDIR": str(scratch),
        "PYTHONPATH": os.pathsep.join((os.environ["PYTHONPATH"], str(Path(__file__).parents[2]))),
    }
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(onnx_path), str(bundle)], env=environment)
    try:
        assert wait_until(pid_file.exists, 180), "a busy machine starts slowly, but this is too long"
        child = int(pid_file.read_text())
        parent.send_signal(ending)
        assert parent.wait(180) == (130 if ending == signal.SIGINT else -signal.SIGKILL)
        assert wait_until(lambda: not is_running(child), 180)
    finally:
        parent.kill()
        parent.wait()
    if ending == signal.SIGINT:
        assert not list(scratch.iterdir()), "the scratch folder is removed"


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


# ---- arguments


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "int4"}, "precision must be one of int8, fp16, got 'int4'"),
        ({"algorithm": "best"}, "algorithm must be one of"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"processes": 0}, "processes must be at least 1"),
        ({"calibration": None}, "needs calibration images, got none"),
        ({"calibration": []}, "needs calibration images, got none"),
        (
            {"calibration": np.zeros((1, 32, 32, 3), np.uint8)},
            r"calibration image must be uint8 with shape \(64, 64, 3\)",
        ),
        ({"evaluate": np.zeros((1, 64, 64, 3), np.float32)}, "evaluation image 0 must be uint8"),
        ({"evaluate": []}, "evaluation needs at least one image"),
        ({"std": (255.0, 0.0, 255.0)}, "std positive"),
    ],
)
def test_wrong_arguments(change: dict, message: str, fake, onnx_path) -> None:
    with pytest.raises(ValueError, match=message):
        build_rknn(onnx_path, fake("", processes=False), **{"calibration": numbered(1), **change})


def test_files_that_cannot_be_converted(fake, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="is missing"):
        build_rknn(tmp_path / "none.onnx", fake(""), calibration=numbered(1))
    (tmp_path / "bad.onnx").write_bytes(b"\x00garbage")
    with pytest.raises(ValueError, match="is not an ONNX file"):
        build_rknn(tmp_path / "bad.onnx", fake(""), calibration=numbered(1))


def test_integers_are_recovered_exactly_or_refused() -> None:
    integers = np.arange(-128, 128)
    values = ((integers - 17) * np.float32(0.0371)).astype(np.float32)
    np.testing.assert_array_equal(to_int8(values, 0.0371, 17, "box_8"), integers)
    with pytest.raises(ValueError, match="not a multiple"):
        to_int8(values + 0.01, 0.0371, 17, "box_8")
    with pytest.raises(ValueError, match="leaves int8"):
        to_int8(values, 0.0371, 18, "box_8")
