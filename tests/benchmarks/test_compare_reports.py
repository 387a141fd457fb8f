"""Comparison of reports: what is called a change, what explains it, what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.compare_reports import compare, run_compare
from benchmarks.report import JSON_NAME, new_document, tidy, write_json
from benchmarks.statistics_of_time import Quantile, spread_of
from deploy.doctor_machine import Machine


def quantile(value, half):
    return {"value": value, "low": value - half, "high": value + half}


def report(name="model", total=20.0, half=0.2, rate=300.0) -> dict:
    document = new_document(Machine(Path("/")), "rsedge bench", "drawn", False)
    spread = spread_of([total] * 10).to_json()
    stages = {stage: dict(spread, p50=quantile(total, half)) for stage in ("infer", "total")}
    look = {"governors": {"cpu 0": "performance"}, "temperatures_c": {"npu": 50.0}}
    document["conditions"] = {"before": look, "during": {"hottest": look}, "throttling": {"seen": False, "told": []}}
    document["bundles"] = [{
        "name": name, "backend": "emulated", "sha256": "0", "emulated_ms": 8.0, "latency": {"stages": stages},
        "contexts": [{"contexts": 6, "cores": [0, 1], "postprocess_batch": 1, "images_per_s": quantile(rate, 3)}],
        "offered": None, "sweep": [], "ablation": [], "field": [],
    }]  # fmt: skip
    return tidy(document)


def words(found):
    return {row["quantity"]: row["verdict"] for row in found["changes"]}


def test_changes_within_and_beyond_noise():
    found = compare(report(), report(total=20.2, rate=330))
    assert words(found) == {
        "infer p50": "within noise",
        "total p50": "within noise",
        "total p99": "too few values",
        "6 contexts": "better",
    }
    worse = compare(report(), report(total=21.0, rate=270))
    assert words(worse)["total p50"] == words(worse)["6 contexts"] == "WORSE"
    assert (worse["worse"], worse["better"]) == (3, 0)
    row = next(row for row in worse["changes"] if row["quantity"] == "total p50")
    assert row["change"] == pytest.approx(0.05)
    assert row["noise"] == pytest.approx(0.2 * 2**0.5)


def test_the_comparison_is_the_interval_of_a_second_run():
    """Two runs of equal width differ exactly where the second leaves what the first said of a second one."""
    edge = Quantile(20.0, 19.8, 20.2).repeat()
    for total, word in ((edge.high - 1e-4, "within noise"), (edge.high + 1e-4, "WORSE"), (edge.low - 1e-4, "better")):
        assert words(compare(report(), report(total=total)))["total p50"] == word


def test_a_report_equals_itself():
    found = compare(report(), report())
    assert found["better"] == found["worse"] == 0
    assert found["different"] == []


def test_other_machines_are_refused_without_force():
    other = report()
    other["provenance"]["board"] = "Orange Pi 5"
    with pytest.raises(ValueError, match=r"different machines \(board: None and Orange Pi 5\).*--force"):
        compare(report(), other)
    assert any("Orange Pi 5" in line for line in compare(report(), other, force=True)["different"])


def test_what_explains_a_change_is_told():
    other = report()
    other["provenance"]["versions"]["numpy"] = "9.9"
    other["conditions"]["before"] = {"governors": {"cpu 0": "powersave"}}
    other["conditions"]["during"] = {"hottest": {"temperatures_c": {"npu": 80.0}}}
    other["conditions"]["throttling"] = {"seen": True, "told": ["npu reached 86 °C"]}
    other["stopped_early"] = True
    other["bundles"][0] |= {"sha256": "1", "emulated_ms": 7.0}
    told = "\n".join(compare(report(), other)["different"])
    for part in (
        "numpy", "9.9", "performance and powersave", "50 and 80 °C", "throttled (npu", "stopped early", "another model",
        "another latency",
    ):  # fmt: skip
        assert part in told


def test_nothing_in_common_is_refused():
    with pytest.raises(ValueError, match=r"no bundle on the same backend.*old: a on emulated; new: b on emulated"):
        compare(report("a"), report("b"))
    both = copy.deepcopy(report("a"))
    both["bundles"] += report("b")["bundles"]
    assert compare(report("a"), both)["left_out"] == ["b on emulated is in the new report only"]


def test_files_and_folders_are_read_and_printed(tmp_path):
    for name, document in (("old", report()), ("new", report(total=25))):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name, document)
    console = Console(record=True, width=140, file=open("/dev/null", "w"))  # noqa: SIM115
    found = run_compare(tmp_path / "old", tmp_path / "new" / JSON_NAME, console=console)
    text = console.export_text()
    assert "+25.0 %" in text
    assert "WORSE" in text
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is no report of `rsedge bench`"),
        ('{"schema": "other"}', "is no report"),
        ('{"schema": "rsedge bench", "schema_version": 1}', "schema_version must be 2, got 1; measure again"),
        ('{"schema": "rsedge bench", "schema_version": 99}', "schema_version must be 2, got 99"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, text, match):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=match):
        run_compare(tmp_path / "a.json", tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match=r"name a bench\.json"):
        run_compare(tmp_path / "none.json", tmp_path / "a.json")
