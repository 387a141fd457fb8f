"""Pairs of runs: how agreement is counted, how often true repetitions agree, and one real pair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import repeatability
from benchmarks.repeatability import agreement, in_a_process, main, measure
from benchmarks.statistics_of_time import quantile_of


def run_of(value, low, high, overhead=0.002):
    p50 = {"value": value, "low": low, "high": high}
    return {"p50": {"total": p50, "infer": p50}, "images": 100, "reached": True, "overhead": overhead}


def test_a_pair_agrees_within_the_first_ones_interval():
    runs = [run_of(10, 9, 11), run_of(11, 10, 12), run_of(10, 9.9, 10.1), run_of(11, 10.9, 11.1)]
    runs += [run_of(10, None, 11), run_of(10, 9, 11)]
    found = agreement(runs)
    assert found["pairs"] == 3
    total = found["stages"]["total"]
    assert (total["inside"], total["same"]) == (1, 2)  # the open interval of the third promises nothing
    assert total["largest_difference"] == pytest.approx(0.1)


def test_repetitions_of_one_distribution_agree_nine_times_in_ten():
    """What an idle machine gives: 400 pairs of independent draws of one skewed distribution with outliers."""
    rng = np.random.default_rng(5)

    def run(_, seconds):
        times = 10 + rng.lognormal(-2, 0.6, 400) + (rng.random(400) < 0.01) * 20
        p50 = quantile_of(times, 0.5).to_json()
        return {"p50": {"total": p50, "infer": p50}, "images": 400, "reached": True, "overhead": 0.001}

    found = measure(Path("drawn"), 400, 1.0, run)
    assert 0.88 < found["agree_share"] < 0.97  # 0.93 by the normal approximation
    assert found["overhead_worst"] == 0.001


def test_a_drifting_machine_does_not_agree():
    rng = np.random.default_rng(6)
    count = 0

    def run(_, seconds):
        nonlocal count
        count += 1
        p50 = quantile_of(rng.normal(10 + 0.5 * (count % 2), 0.5, 400), 0.5).to_json()
        return {"p50": {"total": p50, "infer": p50}, "images": 400, "reached": True, "overhead": 0.001}

    assert measure(Path("drawn"), 20, 1.0, run)["agree_share"] == 0


def test_a_real_run_in_a_process_of_its_own():
    found = in_a_process(repeatability.BUNDLE, 0.5)
    assert found["p50"]["infer"]["value"] >= 7.91
    assert found["p50"]["total"]["value"] > found["p50"]["infer"]["value"]
    assert found["images"] >= 20
    assert 0 <= found["overhead"] < 0.2


def test_a_run_that_fails_is_told_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path), "--pairs", "1"]) == 2
    said = capsys.readouterr().err
    assert "is not a bundle" in said
    assert said.count("\n") == 1


def test_fewer_pairs_than_wanted_is_exit_code_1(monkeypatch, capsys, tmp_path):
    runs = iter([run_of(10, 9, 11), run_of(12, 11, 13)])
    monkeypatch.setattr(repeatability, "in_a_process", None)
    monkeypatch.setattr(repeatability, "measure", lambda b, p, s: measure(b, p, s, lambda *_: next(runs)))
    assert main(["--pairs", "1", "--json", str(tmp_path / "r.json")]) == 1
    assert json.loads((tmp_path / "r.json").read_text())["agree_share"] == 0
    assert "0 of 1 pairs" in capsys.readouterr().out


def test_wrong_numbers_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--pairs", "0"])
    assert "--pairs and --seconds must be above 0" in capsys.readouterr().err
