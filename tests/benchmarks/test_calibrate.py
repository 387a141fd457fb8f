"""Calibration on a board: constants come back from times that were made with them."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import calibrate as module
from benchmarks.accuracy import accuracy_of
from benchmarks.bench_command import run
from benchmarks.calibrate import calibrate, check_calibration
from benchmarks.estimates import costs_of, estimate_of
from benchmarks.measure_bundle import BundleMeasurement
from benchmarks.statistics_of_time import spread_of
from deploy.convert.layer_costs import closed_form
from deploy.convert.network_shapes import yolov8
from deploy.convert.roofline import load_constants, roofline_ms, work_of
from tests.benchmarks.emulated import manifest_of
from tests.benchmarks.test_bench_command import PROCEDURAL
from tests.deploy import fake_npu as npu
from tests.deploy import fake_rknnlite

BANDWIDTH = 2.4e9


def test_the_bandwidth_comes_back_and_is_stored(tmp_path, monkeypatch):
    costs = {size: closed_form(yolov8(size, (512, 512), 10), "int8") for size in "nsm"}
    monkeypatch.setattr(module, "costs_of", lambda bundle: costs[bundle])
    measured = [
        (
            size,
            f"model {size}",
            SimpleNamespace(stages={"infer_ms": spread_of([roofline_ms(work_of(c), BANDWIDTH)] * 9)}),
        )
        for size, c in costs.items()
    ]
    found = calibrate(measured, "Orange Pi 5", tmp_path / "constants.json")
    assert found["constants"]["bytes_per_s"] == pytest.approx(BANDWIDTH, rel=1e-3)
    stored = load_constants(tmp_path / "constants.json")
    assert stored.source == "calibrated on Orange Pi 5"
    assert stored.leave_one_out_error < 1e-3


def test_only_an_npu_and_several_bundles_calibrate():
    check_calibration(["a", "b"], ["rknn-lite", "rknn-capi"])
    with pytest.raises(ValueError, match="got onnx; run it on the board"):
        check_calibration(["a", "b"], ["onnx"])
    with pytest.raises(ValueError, match="two bundles or more"):
        check_calibration(["a"], ["rknn-capi"])


def test_an_estimate_or_why_there_is_none(tmp_path):
    found = estimate_of(PROCEDURAL)
    assert found["low_ms"] < found["estimated_ms"] < found["high_ms"]
    assert found["npu_cycles"] == sum(max(layer["cycles_npu"], layer["cycles_ddr"]) for layer in found["layers"])
    assert len(costs_of(PROCEDURAL)) == len(found["layers"])
    manifest_of().save(tmp_path)
    assert "nothing tells its layers" in estimate_of(tmp_path)["error"]


def test_the_nearest_form_stands_for_what_was_timed():
    scores = {"map50": 0.9, "map50_95": 0.6}
    manifest = manifest_of(accuracy={"onnx": scores, "rknn_sim": scores, "device": {"map50": None, "map50_95": None}})
    assert accuracy_of(manifest, "rknn-lite")["timed_form"] == "rknn_sim"
    assert accuracy_of(manifest, "onnx")["timed_form"] == "onnx"
    none = accuracy_of(manifest_of(), "onnx")
    assert none["timed_form"] is None
    assert "stands alone" in none["timed_form_told"]


def test_the_whole_command_on_a_fake_board(tmp_path, monkeypatch, capsys):
    """Two bundles whose NPU takes what a known bandwidth makes of them: the command finds and stores it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    costs = {size: closed_form(yolov8(size, (384, 384), 10), "int8") for size in "ns"}
    bundles = fake_bundles(
        tmp_path, monkeypatch, {size: roofline_ms(work_of(c), BANDWIDTH) for size, c in costs.items()}
    )
    monkeypatch.setattr(module, "costs_of", lambda bundle: costs[bundle.name])
    monkeypatch.setattr(BundleMeasurement, "run", lambda self, rate: self._visit())
    run(bundles, tmp_path / "out", backend="rknn-lite", quick=True, seconds=0.1, calibrating=True)
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    # A sleep takes a little longer than asked, and the stand-in computes besides: more time is less bandwidth.
    found = document["calibration"]["constants"]["bytes_per_s"]
    assert 0.6 * BANDWIDTH < found < 1.01 * BANDWIDTH
    assert document["calibration"]["stored"] == "npu_constants.json"
    assert str(tmp_path) not in (tmp_path / "out/bench.json").read_text()
    assert "## Calibration" in (tmp_path / "out/bench.md").read_text()
    stored = load_constants()
    assert stored.bytes_per_s == pytest.approx(found, rel=1e-5)
    assert [point.name for point in stored.points] == ["n", "s"]
    # The estimator uses them from now on.
    assert estimate_of(PROCEDURAL)["constants"].startswith("calibrated on ")


def test_times_that_no_bandwidth_explains_cost_no_measurement(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    costs = closed_form(yolov8("m", (640, 640), 80), "int8")
    bundles = fake_bundles(tmp_path, monkeypatch, {"n": 0.1, "s": 0.1})
    monkeypatch.setattr(module, "costs_of", lambda bundle: costs)
    monkeypatch.setattr(BundleMeasurement, "run", lambda self, rate: self._visit())
    with pytest.raises(ValueError, match="not calibrated: no bandwidth explains these times"):
        run(bundles, tmp_path / "out", backend="rknn-lite", quick=True, seconds=0.1, calibrating=True)
    document = json.loads((tmp_path / "out/bench.json").read_text())
    assert document["calibration"] is None
    assert all(entry["latency"] for entry in document["bundles"])
    assert any("no bandwidth explains" in note for note in document["notes"])
    assert not (tmp_path / "config").exists()


def fake_bundles(folder, monkeypatch, ms):
    """Return bundles for the vendor's stand-in, each of whose inferences sleeps its milliseconds."""
    vendor = fake_rknnlite.install(monkeypatch)

    class Timed(vendor):
        def load_rknn(self, path, key_path=None):
            self.ms = ms[Path(path).parent.name]
            return super().load_rknn(path, key_path)

        def inference(self, *arguments, **options):
            time.sleep(self.ms / 1e3)
            return super().inference(*arguments, **options)

    monkeypatch.setattr(sys.modules["rknnlite.api"], "RKNNLite", Timed)
    bundles = []
    for name in ms:
        bundles.append(folder / name)
        bundles[-1].mkdir()
        model = npu.write_model(bundles[-1] / "model.rknn", npu.outputs())
        npu.manifest_of(model, npu.outputs()).model_copy(update={"name": name}).save(bundles[-1])
    return bundles
