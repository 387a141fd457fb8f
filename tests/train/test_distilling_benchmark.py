"""The benchmark of a distillation step: it runs, and its figures are of what it says."""

import pytest

from train.distilling_benchmark import main, measure
from train.recipe import parse_recipe


def test_every_contender_is_timed_in_every_round(tmp_path):
    raw = {
        "name": "small",
        "data": {
            "format": "procedural", "root": str(tmp_path), "train": {"count": 2}, "val": {"count": 1}, "workers": 0,
        },
        "train": {"image_size": 64, "batch": 2, "precision": "float32", "device": "cpu"},
        "teacher": {"size": "n"},
    }  # fmt: skip
    result = measure(parse_recipe(raw, "small"), ["method", "cwd"], 2)
    assert result["seconds"].keys() == {"student", "teacher", "method", "cwd"}
    assert all(len(values) == 2 and min(values) > 0 for values in result["ratios"].values())
    assert {"commit", "machine"} <= result["provenance"].keys()


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["no_such_recipe"], ["--losses", "magnitud"]])
def test_wrong_arguments_are_told(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["x", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
