"""The benchmark of a quantisation-aware step: it runs, and its figures are of what it says."""

import json

import pytest
import torch

from train import quantising_benchmark
from train.quantising_benchmark import STEPS, Bench, main, measure, peaks, table
from train.recipe import parse_recipe


def recipe_of(tmp_path):
    raw = {
        "name": "small",
        "data": {
            "format": "procedural", "root": str(tmp_path), "train": {"count": 2}, "val": {"count": 1}, "workers": 0,
        },
        "train": {"image_size": 64, "batch": 2, "precision": "float32", "device": "cpu"},
        "quantize": {"weights": [12, 8], "activations": [12, 8], "losses": ["cwd"], "tuning": {"parts": ["model.22"]}},
    }  # fmt: skip
    return parse_recipe(raw, "small")


def test_every_step_is_timed_in_every_round_and_told(tmp_path):
    result = measure(Bench(recipe_of(tmp_path)), STEPS, 1)
    assert list(result["seconds"]) == list(STEPS)
    assert all(seconds > 0 for seconds in result["seconds"].values())
    assert result["against"] == {name: base for name, (_, base, _) in STEPS.items() if base}
    for name, base in result["against"].items():
        assert result["ratio"][name] == pytest.approx(result["seconds"][name] / result["seconds"][base])
    assert result["bilevel_against_the_step_without"].keys() == {"bilevel_first", "bilevel_second"}
    assert result["target"] == {"quantised": 2.0, "quantised_folded": 2.0, "bilevel_first": 5.0}
    assert result["bits"] == {"quantised": [12, 12], "quantised_folded": [8, 8]}
    assert {"commit", "machine", "versions"} <= result["provenance"].keys()
    json.dumps(result)
    result["peak_mb"] = dict.fromkeys(STEPS, 100.0)
    result["ratio"]["quantised"], result["ratio"]["bilevel_first"] = 1.5, 5.5
    lines = table(result)
    assert len(lines) == len(STEPS)
    assert "1.500 times the float step (at most 2: kept)" in lines[1]
    assert "(at most 5: missed)" in lines[5]


def test_a_step_without_room_is_left_out(tmp_path, monkeypatch):
    bench = Bench(recipe_of(tmp_path))
    given = bench.step

    def step(name):
        if name == "bilevel_second":
            raise torch.OutOfMemoryError("none left")
        return given(name)

    monkeypatch.setattr(bench, "step", step)
    result = measure(bench, ["float", "quantised", "bilevel_second"], 1)
    assert list(result["seconds"]) == ["float", "quantised"]
    assert list(result["ratio"]) == ["quantised"]
    assert "second order: does not fit into memory" in table({**result, "peak_mb": {}})[-1]


class Done:
    def __init__(self, returncode, stdout="", stderr=""):
        self.returncode, self.stdout, self.stderr = returncode, stdout, stderr


def test_memory_is_measured_in_a_process_for_each_step(monkeypatch):
    asked = []

    def run(command, **_):
        asked.append(command[-1])
        return Done(-9) if command[-1] == "bilevel_second" else Done(0, "told\n123.5\n")

    monkeypatch.setattr(quantising_benchmark.subprocess, "run", run)
    assert peaks(["recipe"], ["float", "bilevel_second"]) == {"float": 123.5}
    assert asked == ["float", "bilevel_second"]
    monkeypatch.setattr(quantising_benchmark.subprocess, "run", lambda *_, **__: Done(2, "", "x: error: no data\n"))
    with pytest.raises(ValueError, match="float step: x: error: no data"):
        peaks(["recipe"], ["float"])


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["no_such_recipe"], ["--memory-of", "nothing"]])
def test_wrong_arguments_are_told(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["x", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
