"""rsedge bench: one quick run on the emulated NPU read from all sides, Ctrl-C, and every wrong use in one line."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.bench_command import run
from benchmarks.plan import FULL, QUICK, contexts_of, plan_of
from benchmarks.plots import _choices, draw_plots, pareto_front
from benchmarks.report_page import page_of
from deploy.manifest import load_manifest

ROOT = Path(__file__).parents[2]
PROCEDURAL, VHR10 = ROOT / "deploy/zoo/procedural", ROOT / "deploy/zoo/vhr10"
PNG = b"\x89PNG"
PLOTS = ["latency.png", "throughput.png", "stages.png", "pareto.png", "cycles.png"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(2):
        cv2.imwrite(str(folder / f"{number}.png"), np.random.default_rng(number).integers(0, 255, (300, 400, 3)))
    return folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory, pictures):
    """Return (folder, document, what was printed) of a run over little."""
    out = tmp_path_factory.mktemp("bench") / "report"
    code = (
        "import sys; from pathlib import Path; from benchmarks.bench_command import run\n"
        f"run([Path({str(PROCEDURAL)!r})], Path({str(out)!r}), backend='emulated', quick=True, seconds=0.1, "
        f"images=Path({str(pictures)!r}), contexts='1,6', rate=40)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return out, json.loads((out / "bench.json").read_text()), done.stdout


def test_the_last_line_is_the_document(measured):
    _, document, printed = measured
    assert json.loads(printed.splitlines()[-1]) == document


def test_every_part_was_measured(measured):
    _, document, _ = measured
    (entry,) = document["bundles"]
    assert entry["backend"] == "emulated"
    assert entry["latency"]["stages"]["infer"]["curve"][0] >= entry["emulated_ms"] - 1e-3
    assert [row["contexts"] for row in entry["contexts"]] == [1, 6, 6]
    assert entry["contexts"][0]["images_per_s"]["value"] <= 1e3 / entry["emulated_ms"]
    assert entry["offered"]["offered_per_s"] == 40
    assert len(entry["sweep"]) == len(QUICK.shares)
    assert len(entry["ablation"]) == 6
    assert len(entry["field"]) == 2
    assert entry["accuracy"]["timed_form"] == "onnx"
    assert entry["estimate"]["npu_cycles"] > 3e6
    assert "analytic" in entry["estimate"]["energy"]["label"]
    assert document["overhead"]["share"] < 0.1
    assert document["provenance"]["commit"]
    assert document["stopped_early"] is False


def test_single_images_are_visited_all_over_the_run(measured):
    """Not one after the other: other measurements lie between most visits, and the page says what that brings."""
    out, document, _ = measured
    found = document["bundles"][0]["latency"]
    at = [visit["at_s"] for visit in found["visits"]]
    assert len(at) == QUICK.visits
    gaps = [after - before for before, after in pairwise(at)]
    assert sum(gap > 2 * found["seconds"] / len(at) for gap in gaps) > len(gaps) / 2
    assert sum(visit["images"] for visit in found["visits"]) == found["stages"]["total"]["count"]
    p50, again = found["stages"]["total"]["p50"], found["repeat"]["total"]
    assert again["value"] == p50["value"]
    assert again["high"] - p50["value"] == pytest.approx(2**0.5 * (p50["high"] - p50["value"]), rel=1e-4)
    assert f"A second run of this kind finds its p50 from {again['low']:.2f}" in (out / "bench.md").read_text()


def test_reports_hold_no_private_path(measured):
    out, _, _ = measured
    for name in ("bench.json", "bench.md"):
        text = (out / name).read_text()
        assert str(ROOT) not in text
        assert str(out.parent) not in text


def test_page_and_plots(measured):
    out, document, _ = measured
    page = (out / "bench.md").read_text()
    for part in ("One image at a time", "Ablation", "Against the field", "Accuracy", "not a measurement", "Conditions"):
        assert part in page
    assert document["plots"] == PLOTS
    for name in document["plots"]:
        assert (out / name).read_bytes().startswith(PNG)
        assert f"]({name})" in page


def test_every_field_is_documented(measured):
    """docs/bench_schema.md names each key of the document in backticks."""
    _, document, _ = measured
    told = set(re.findall(r"`([\w.]+)`", (ROOT / "docs/bench_schema.md").read_text()))
    told = {part for name in told for part in name.split(".")}
    free = {"versions", "stages", "forms", "temperatures_c", "clocks_mhz", "limits_mhz", "governors", "constants",
            "lowest_clocks_mhz", "multiply_add_pj"}  # fmt: skip

    def keys(value, inside=""):
        if isinstance(value, dict):
            for key, part in value.items():
                if inside not in free:
                    yield key
                yield from keys(part, key)
        elif isinstance(value, list):
            for part in value:
                yield from keys(part, inside)

    assert sorted(set(keys(document)) - told) == []


def test_two_bundles_give_a_choice(measured, tmp_path):
    _, document, _ = measured
    other = json.loads(json.dumps(document["bundles"][0]))
    other["name"] = "larger"
    other["estimate"] |= {"estimated_ms": 20.0, "low_ms": 18.0, "high_ms": 22.0}
    drawn, missing = draw_plots(document | {"bundles": [document["bundles"][0], other]}, tmp_path)
    assert drawn == PLOTS
    assert missing == []
    assert page_of(document | {"bundles": [document["bundles"][0], other]}).count("### Accuracy") == 2


def test_a_choice_is_between_integers_and_float16(measured, tmp_path):
    """INT8 with the simulator's score and float16 with the float network's, which takes longer."""
    _, document, _ = measured
    (entry,) = document["bundles"]
    integers, half = _choices(entry)
    forms = entry["accuracy"]["forms"]
    assert integers[2:4] == (forms["rknn_sim"]["map50_95"], "procedural, INT8")
    assert half[2:4] == (forms["float"]["map50_95"], "procedural, float16")
    assert half[1][0] < half[0] < half[1][1]
    assert half[0] > 1.5 * integers[0]
    unscored = entry | {"accuracy": entry["accuracy"] | {"forms": {}}}
    drawn, missing = draw_plots(document | {"bundles": [unscored]}, tmp_path)
    assert "pareto.png" not in drawn
    assert any("pareto.png: a choice needs two networks" in line for line in missing)


def test_the_front_holds_what_nothing_beats():
    assert pareto_front([(3, 0.5), (1, 0.3), (2, 0.2), (4, 0.5), (1, 0.2), (5, 0.9)]) == [(1, 0.3), (3, 0.5), (5, 0.9)]


def test_plots_of_a_report_that_a_board_wrote(measured, tmp_path, capsys, monkeypatch):
    out, _, _ = measured
    found = run([], tmp_path / "again", plots_of=out)
    assert found["plots"] == PLOTS
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match="matplotlib is not installed here"):
        run([], tmp_path / "none", plots_of=out)


def test_a_report_compares_with_itself(measured, capsys):
    out, _, _ = measured
    found = run([], None, comparing=(out, out / "bench.json"))
    assert found["worse"] == found["better"] == 0
    assert found["compared"] > 10
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["compared"] == found["compared"]


def test_ctrl_c_reports_what_was_measured(pictures, tmp_path):
    code = (
        "import sys; from pathlib import Path; from benchmarks.bench_command import run\n"
        "try:\n"
        f"    run([Path({str(PROCEDURAL)!r})], Path({str(tmp_path)!r}), backend='emulated', seconds=60, "
        f"images=Path({str(pictures)!r}))\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for line in child.stderr:
            if "one image at a time" in line:
                break
        try:
            child.wait(1.2)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGINT)
        printed, said = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130, said
    document = json.loads(printed.splitlines()[-1])
    assert document["stopped_early"] is True
    assert document["bundles"][0]["latency"]["stages"]["total"]["count"] >= 1
    assert document["bundles"][0]["sweep"] == []
    assert "Stopped early" in (tmp_path / "bench.md").read_text()


def test_ctrl_c_late_keeps_every_part_before_it(pictures, tmp_path):
    """Stopped in the middle of its sweep, a run reports all earlier parts and the rates that were finished."""
    code = (
        "import sys; from pathlib import Path; from benchmarks.bench_command import run\n"
        "try:\n"
        f"    run([Path({str(PROCEDURAL)!r})], Path({str(tmp_path)!r}), backend='emulated', quick=True, seconds=0.1, "
        f"images=Path({str(pictures)!r}), contexts='1')\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        rates = 0
        for line in child.stderr:
            rates += bool(re.search(r": \d+ images/s offered$", line.strip())) and "30 images" not in line
            if rates == 3:
                child.send_signal(signal.SIGINT)
                break
        printed, said = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130, said
    document = json.loads(printed.splitlines()[-1])
    (entry,) = document["bundles"]
    assert document["stopped_early"] is True
    assert 2 <= len(entry["sweep"]) < len(QUICK.shares)
    assert entry["latency"]
    assert entry["offered"]
    assert len(entry["ablation"]) == 6
    assert (tmp_path / "bench.json").is_file()


def test_a_rate_that_cannot_be_reached_is_reported_and_refused(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.measure_bundle.BundleMeasurement._sweep", lambda self: None)
    monkeypatch.setattr("benchmarks.measure_bundle.BundleMeasurement._runtime", lambda self: None)
    with pytest.raises(ValueError, match=r"--rate 3000: procedural on emulated does not keep up.*ask for less"):
        run([PROCEDURAL], tmp_path, backend="emulated", quick=True, seconds=0.1, images=pictures, rate=3000,
            contexts="6")  # fmt: skip
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["bundles"][0]["offered"]["kept_up"] is False


def bare(folder, *roles):
    """Return a copy of the shipped bundle that holds only these files."""
    folder.mkdir()
    manifest = load_manifest(PROCEDURAL)
    files = {role: file for role, file in manifest.files.items() if role in roles}
    for file in files.values():
        shutil.copy(PROCEDURAL / file.name, folder)
    manifest.model_copy(update={"files": files}).save(folder)
    return folder


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"bundles": []}, "no bundle was named"),
        ({"out": None}, "--out DIR is missing"),
        ({"backend": "gpu"}, "--backend must be one of auto"),
        ({"backend": "rknn-sim"}, "the simulator's time says nothing"),
        ({"rate": -1}, "--rate must be above 0"),
        ({"seconds": 0}, r"--seconds must be from 0\.1"),
        ({"contexts": "0-3"}, "--contexts must lie from 1 to 9"),
        ({"contexts": "few"}, "--contexts must be numbers"),
        ({"calibrating": True, "backend": "emulated"}, "--calibrate needs the NPU itself"),
        ({"calibrating": True, "backend": "rknn-lite"}, "--calibrate needs two bundles"),
        ({"bundles": [PROCEDURAL, PROCEDURAL]}, "two bundles are called procedural"),
        ({"comparing": (Path("a"), Path("b"))}, "--compare takes two reports and no bundle"),
    ],
)
def test_wrong_use_is_told_before_anything_is_measured(tmp_path, pictures, changed, match):
    options = {"bundles": [PROCEDURAL], "out": tmp_path / "out", "quick": True, "images": pictures} | changed
    with pytest.raises(ValueError, match=match):
        run(options.pop("bundles"), options.pop("out"), **options)


def test_missing_files_are_told(tmp_path, pictures):
    with pytest.raises(FileNotFoundError, match="is not a bundle"):
        run([tmp_path], tmp_path / "out", quick=True)
    with pytest.raises(FileNotFoundError, match="let the meter write there"):
        run([PROCEDURAL], tmp_path / "out", power_csv=tmp_path / "none.csv")
    with pytest.raises(ValueError, match="holds no image"):
        run([PROCEDURAL], tmp_path / "out", images=tmp_path)


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_an_out_that_is_a_file(tmp_path, inside):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ValueError, match="taken is a file; name a folder"):
        run([PROCEDURAL], tmp_path / "taken" / inside, backend="emulated", quick=True)
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_bundle_without_the_backends_file(tmp_path, pictures):
    with pytest.raises(ValueError, match="holds no rknn file"):
        run([bare(tmp_path / "a", "onnx")], tmp_path / "out", backend="rknn-lite", quick=True, images=pictures)
    with pytest.raises(ValueError, match="holds no onnx file"):
        run([bare(tmp_path / "b", "rknn")], tmp_path / "out", backend="emulated", quick=True, images=pictures)


def test_plans():
    assert plan_of(True, None, None) is QUICK
    assert plan_of(False, None, None) is FULL
    assert plan_of(False, 2.0, "1-3").contexts == (1, 2, 3)
    assert contexts_of("9,1..3") == (1, 2, 3, 9)
    assert contexts_of("7-") == (7, 8, 9)
    assert FULL.contexts == tuple(range(1, 10))
