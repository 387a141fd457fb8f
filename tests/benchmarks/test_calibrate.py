"""Calibration on a board: constants come back from times that were made with them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks import calibrate as module
from benchmarks.accuracy import accuracy_of
from benchmarks.calibrate import calibrate, check_calibration
from benchmarks.estimates import costs_of, estimate_of
from benchmarks.statistics_of_time import spread_of
from deploy.convert.layer_costs import closed_form
from deploy.convert.network_shapes import yolov8
from deploy.convert.roofline import load_constants, roofline_ms, work_of
from tests.benchmarks.emulated import manifest_of
from tests.benchmarks.test_bench_command import PROCEDURAL

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
