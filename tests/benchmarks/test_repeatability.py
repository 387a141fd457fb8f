"""Pairs of runs: how agreement is counted, how often true repetitions agree, and one real pair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import repeatability
from benchmarks.latency import LEAST
from benchmarks.repeatability import agreement, in_a_process, main, measure
from benchmarks.statistics_of_time import quantile_of
from benchmarks.statistics_of_visits import p50_of_visits


def run_of(value, low, high, overhead=0.002):
    p50 = {"value": value, "low": low, "high": high}
    return {"p50": {"total": p50, "infer": p50}, "images": 100, "reached": True, "overhead": overhead}


def test_a_pair_agrees_where_the_first_said_that_a_second_lies():
    runs = [run_of(10, 9, 11), run_of(11.4, 10, 12), run_of(10, 9.9, 10.1), run_of(10.2, 10.1, 10.3)]
    runs += [run_of(10, None, 11), run_of(10, 9, 11)]
    found = agreement(runs)
    assert found["pairs"] == 3
    total = found["stages"]["total"]
    # sqrt(2) of the half: 1.414 holds 1.4, 0.1414 does not hold 0.2; the open interval of the third promises nothing.
    assert (total["inside"], total["same"]) == (1, 2)
    assert total["largest_difference"] == pytest.approx(0.14)
    assert total["median_half_interval"] == pytest.approx(0.1)
    assert total["median_half_repeat"] == pytest.approx(0.1 * 2**0.5)
    assert total["largest_half_repeat"] is None


def runs_of(rng, level, between, visits=12):
    """Return a run whose visits' levels deviate by `between`, as skewed times with outliers."""

    def run(_, seconds):
        times = [
            level() + between * rng.normal() + rng.lognormal(-2, 0.6, 20) + (rng.random(20) < 0.01) * 20
            for _ in range(visits)
        ]
        p50 = p50_of_visits(times).to_json()
        return {"p50": {"total": p50, "infer": p50}, "images": 400, "reached": True, "overhead": 0.001}

    return run


@pytest.mark.parametrize("between", [0.0, 0.3])
def test_repetitions_agree_as_often_as_stated(between):
    """400 pairs of runs that differ by nothing but their visits: 99 of 100, whatever visits differ by."""
    found = measure(Path("drawn"), 400, 1.0, runs_of(np.random.default_rng(5), lambda: 10, between))
    assert found["agree_share"] >= 0.975
    assert found["stages"]["total"]["same"] >= 0.975 * 400
    assert found["overhead_worst"] == 0.001


def test_an_interval_from_within_the_visits_would_not_agree():
    """What this measures against: 3 % between visits, and order statistics of all times as if they were one visit."""
    rng = np.random.default_rng(7)

    def run(_, seconds):
        times = np.concatenate([10 + 0.3 * rng.normal() + 0.1 * rng.normal(size=20) for _ in range(12)])
        p50 = quantile_of(times, 0.5, independent=True).to_json()
        return {"p50": {"total": p50, "infer": p50}, "images": 240, "reached": True, "overhead": 0.001}

    assert measure(Path("drawn"), 200, 1.0, run)["agree_share"] < 0.8


def test_a_machine_that_changed_between_runs_does_not_agree():
    levels = iter([10.0] * 12 + [11.0] * 12)
    found = measure(Path("drawn"), 1, 1.0, runs_of(np.random.default_rng(6), lambda: next(levels), 0.1))
    assert found["agree_share"] == 0
    assert found["stages"]["total"]["same"] == 0


def test_a_real_run_in_a_process_of_its_own():
    found = in_a_process(repeatability.BUNDLE, 0.5, 4)
    assert found["p50"]["infer"]["value"] >= 7.91
    assert found["p50"]["total"]["value"] > found["p50"]["infer"]["value"]
    assert found["visits"] == 4
    assert found["images"] >= 4 * LEAST
    assert found["p50"]["total"]["low"] < found["p50"]["total"]["value"] < found["p50"]["total"]["high"]
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


@pytest.mark.parametrize(("finished", "pairs", "code"), [(5, 2, 130), (1, None, 130)])
def test_ctrl_c_keeps_the_whole_pairs(monkeypatch, capsys, finished, pairs, code):
    count = 0

    def run(bundle, seconds):
        nonlocal count
        count += 1
        if count > finished:
            raise KeyboardInterrupt
        return run_of(10, 9, 11)

    monkeypatch.setattr(repeatability, "measure", lambda b, p, s: measure(b, p, s, run))
    assert main(["--pairs", "9"]) == code
    printed = capsys.readouterr()
    if pairs is None:
        assert "stopped before the first pair was whole" in printed.err
    else:
        document = json.loads(printed.out.splitlines()[-1])
        assert (document["pairs"], document["stopped_early"], len(document["runs"])) == (pairs, True, 2 * pairs)


def test_wrong_numbers_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--pairs", "0"])
    assert "--pairs and --seconds must be above 0" in capsys.readouterr().err
