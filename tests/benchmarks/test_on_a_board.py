"""The board's way: the vendor's Python wrapper (its stand-in), every core, and a pair of bundles that calibrates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.course import Course
from benchmarks.measure_bundle import BundleMeasurement
from benchmarks.plan import QUICK
from benchmarks.power import PowerTrace, Window
from benchmarks.subject import ANY_CORE, CORES_0_1, CORES_0_1_2, drawn_pictures
from tests.deploy import fake_npu as npu
from tests.deploy import fake_rknnlite


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    vendor = fake_rknnlite.install(monkeypatch)
    folder = tmp_path / "bundle"
    folder.mkdir()
    model = npu.write_model(folder / "model.rknn", npu.outputs())
    npu.manifest_of(model, npu.outputs()).save(folder)
    vendor.calls.clear()
    return folder


def test_a_bundle_on_the_npu(bundle, tmp_path):
    plan = replace(QUICK, seconds=0.25, latency_s=0.1, contexts=(1, 3), masks=True, images=2, fast_rounds=2,
                   slow_rounds=1, shares=(0.2, 0.4))  # fmt: skip
    with Course() as course:
        measured = BundleMeasurement(bundle, "rknn-lite", drawn_pictures(tmp_path, 2), plan, course)
        measured.run(None)
    entry = measured.entry
    assert entry["backend"] == "rknn-lite"
    assert entry["emulated_ms"] is None
    assert "nothing tells its layers" in entry["estimate"]["error"]
    cores = [tuple(row["cores"]) for row in entry["contexts"]]
    together = ((CORES_0_1,), (CORES_0_1,) * 2, (CORES_0_1_2,), (CORES_0_1_2,) * 2)
    alone = ((0,), (1,), (2,), (0, 1, 0, 1), (0, 1, 2), (0, 1, 2, 0, 1, 2), (ANY_CORE,), (ANY_CORE,) * 6)
    for wanted in (*alone, *together):
        assert wanted in cores
    masks = {call[2] for call in fake_rknnlite.RKNNLite.calls if call[0] == "init_runtime"}
    assert masks == {0, 1, 2, 3, 4, 7}
    assert {row["measure"] for row in entry["ablation"]} >= {
        "two contexts per core",
        "several threads",
        "early release",
    }
    assert len(entry["sweep"]) == 2
    opened = sum(call[0] == "init_runtime" for call in fake_rknnlite.RKNNLite.calls)
    released = sum(call[0] == "release" for call in fake_rknnlite.RKNNLite.calls)
    assert opened == released

    # A meter that shows 3 W at rest and 5 W since the saturated run began: 2 W are the images'.
    window = measured.saturation.window
    at = np.linspace(window.begin_s - 10, window.end_s + 1, 4000)
    meter = PowerTrace("meter.csv", at, np.where(at < window.begin_s, 3.0, 5.0))
    measured.add_energy([meter], Window(window.begin_s - 9, window.begin_s - 1, 0))
    (energy,) = entry["energy"]["measured"]
    assert energy["joules_per_image"] == pytest.approx(2 * (window.end_s - window.begin_s) / window.images, rel=0.05)
    measured.add_energy([], None)
    assert "--power-csv" in entry["energy"]["told"][0]
