"""The table, its Markdown and its plot: figures against plain arithmetic, and a planted difference that is found."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from deploy.annotations import AnnotatedImage
from deploy.detections import Detections
from deploy.metrics import score_detections
from train.bootstrap import Difference
from train.comparison_report import (
    Row,
    Run,
    comparison_table,
    differences_to,
    plot_comparison,
    points,
    resampled,
    to_markdown,
    write_comparison,
)


def differences(rows, truth, reference, resamples):
    return differences_to(rows, resampled(rows, truth, 3, resamples), reference)


NAMES = ["plane", "ship", "never there"]
ABOUT = {
    "student": "yolov8n",
    "image_size": 512,
    "epochs": 3,
    "batch": 8,
    "start": "none",
    "teachers": ["YOLOv8m | 70.0"],
    "provenance": {"commit": "abc", "machine": "a machine", "data": "drawn", "created": "today", "versions": {}},
}


def truth_of(images=30):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 200, (images, 4, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(40, 90, corner.shape)], axis=2).astype(np.float32)
    classes = rng.integers(0, 2, (images, 4)).astype(np.int32)
    return [AnnotatedImage(Path("x"), (300, 300), b, c, np.zeros(4, bool)) for b, c in zip(boxes, classes, strict=True)]


def runs_of(truth, noise, seeds=2):
    """Detections that are off by `noise` of the box, the noise being the same for equal seeds."""
    runs = []
    for seed in range(seeds):
        rng = np.random.default_rng(100 + seed)
        found = []
        for image in truth:
            size = np.tile(image.xyxy[:, 2:] - image.xyxy[:, :2], 2)
            moved = image.xyxy + noise * size * rng.normal(0, 1, size.shape)
            found.append(Detections(moved, rng.uniform(0, 1, len(moved)), image.class_id))
        runs.append(Run(seed, score_detections(truth, found, NAMES), 2.0 + seed, found))
    return runs


@pytest.fixture(scope="module")
def truth():
    return truth_of()


@pytest.fixture(scope="module")
def rows(truth):
    noises = {"plain": 0.10, "better": 0.07, "a | worse one": 0.14, "the same": 0.10}
    return [Row(name, "recipe", runs_of(truth, noise)) for name, noise in noises.items()]


@pytest.fixture(scope="module")
def written(rows, truth, tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison") / "new"
    return out, write_comparison(rows, truth, NAMES, ["plain"], out, resamples=200, about=ABOUT)[0]


def test_means_and_spreads_are_those_of_the_runs(rows, written):
    _, table = written
    for row, line in zip(rows, table["rows"], strict=True):
        assert line["name"] == row.name
        for name in ("map50", "map50_95", "medium"):
            values = [getattr(run.accuracy, name) for run in row.runs]
            assert line[name]["mean"] == pytest.approx(statistics.mean(values))
            assert line[name]["sd"] == pytest.approx(statistics.stdev(values))
        ships = [run.accuracy.per_class["ship"]["map50_95"] for run in row.runs]
        assert line["per_class"]["ship"]["mean"] == pytest.approx(statistics.mean(ships))
        assert line["small"] == {"mean": None, "sd": None}
        assert line["minutes"] == {"mean": 2.5, "sd": pytest.approx(0.5**0.5)}
    assert (table["images"], table["boxes"], table["seeds"], table["covers"]) == (30, 120, [0, 1], "images and seeds")


def test_planted_differences_are_found_and_no_others(rows, written):
    _, table = written
    plain, better, worse, same = table["rows"]
    assert plain["difference"] is None
    for name in ("map50", "map50_95"):
        expected = better[name]["mean"] - plain[name]["mean"]
        assert better["difference"][name]["value"] == pytest.approx(expected, abs=1e-9)
    found = [line["difference"]["map50_95"] for line in (better, worse, same)]
    assert 0 < found[0]["low"] < found[0]["value"] < found[0]["high"]
    assert found[1]["low"] < found[1]["value"] < found[1]["high"] < 0
    assert [found[0]["p"], found[1]["p"]] == pytest.approx([2 / 201, 2 / 201])
    assert found[2] == {"value": 0, "low": 0, "high": 0, "p": 1, "covers": "images and seeds"}


def test_the_order_of_the_runs_does_not_matter(rows, truth):
    turned = [replace(row, runs=row.runs[::-1]) if i % 2 else row for i, row in enumerate(rows)]
    assert differences(turned, truth, "plain", 50) == differences(rows, truth, "plain", 50)


def test_files_hold_the_table(written):
    out, table = written
    assert sorted(p.name for p in out.iterdir()) == ["comparison.json", "comparison.md", "comparison.png"]
    assert json.loads((out / "comparison.json").read_text()) == table
    assert (out / "comparison.md").read_text(encoding="utf-8") == to_markdown(table)
    pixels = cv2.imread(str(out / "comparison.png"))
    assert pixels.shape[1] > 800
    # Labels that are cut would put ink on the picture's rim.
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (rim == 255).all()


def hand_made(differences, values=((0.5, 0.52), (0.61, 0.63))):
    """Rows with given mAP50-95 by seed, everything else alike."""
    truth = truth_of(2)
    base = score_detections(truth, [Detections.empty()] * 2, NAMES)
    rows = [
        Row(name, "r", [Run(s, replace(base, map50_95=v, map50=0.8), 12.34, []) for s, v in enumerate(each)])
        for name, each in zip(("plain", "a | b"), values, strict=True)
    ]
    return comparison_table(rows, "plain", differences, resamples=1000, folds=5, about=ABOUT)


def test_markdown_line_by_line():
    difference = Difference(0.11, 0.0123, 0.2, 0.034, "images and seeds")
    text = to_markdown(hand_made({"a | b": [difference, difference]}))
    assert "| plain | 80.0 ± 0.0 | 51.0 ± 1.4 | reference |  | 12.3 |" in text
    assert r"| a \| b | 80.0 ± 0.0 | 62.0 ± 1.4 | +11.0 [+1.2, +20.0] | 0.034 | 12.3 |" in text
    assert "| plain | - | 0.0 ± 0.0 | - |" in text
    assert "| never there | 0 | - | - |" in text
    assert "yolov8n, 512 pixels, 3 epochs, batch 8, start: none." in text
    assert r"Teacher: YOLOv8m \| 70.0" in text
    assert "commit abc" in text
    assert "2 images with 8 boxes" in text
    assert "1000 bootstrap resamples" in text
    assert "images and of seeds together" in text
    assert "1/2 of the variance between seeds" in text
    assert "5-fold" in text
    assert "not corrected" not in text
    for grid in text.split("\n\n"):
        widths = {line.replace(r"\|", "").count("|") for line in grid.splitlines() if line.startswith("|")}
        assert len(widths) <= 1


def test_one_seed_says_what_its_interval_does_not_cover():
    difference = Difference(0.1, -0.1, 0.2, 0.4, "images")
    table = hand_made({"a | b": [difference, difference]}, ((0.5,), (0.6,)))
    text = to_markdown(table)
    assert table["covers"] == "images"
    assert "One seed: the intervals cover the choice of images only" in text
    assert "| plain | 80.0 | 50.0 | reference |" in text
    assert "±" not in text


def test_points():
    assert points({"mean": None, "sd": None}) == "-"
    assert points({"mean": 0.5, "sd": None}) == "50.0"
    assert points({"mean": 1.0, "sd": 0.0123}) == "100.0 ± 1.2"


def test_a_table_of_the_reference_alone(rows, truth, tmp_path):
    table = write_comparison(rows[:1], truth, NAMES, ["plain"], tmp_path, resamples=20)[0]
    assert [line["difference"] for line in table["rows"]] == [None]
    assert "reference" in to_markdown(table)


def test_each_reference_has_a_table_of_its_own(rows, truth, tmp_path):
    first, second = write_comparison(rows[:2], truth, NAMES, ["plain", "better"], tmp_path, resamples=50)
    assert json.loads((tmp_path / "comparison_2.json").read_text()) == second
    one, other = first["rows"][1]["difference"]["map50_95"], second["rows"][0]["difference"]["map50_95"]
    # The same draws either way round: only the sign differs.
    turned = [one["value"], one["low"], one["high"], one["p"]]
    assert turned == pytest.approx([-other["value"], -other["high"], -other["low"], other["p"]])
    with pytest.raises(ValueError, match="reference must be one of the rows"):
        write_comparison(rows[:2], truth, NAMES, ["plain", "nothing"], tmp_path / "none", resamples=50)
    assert not (tmp_path / "none").exists()


def test_the_plot_takes_names_with_signs_that_mean_something_elsewhere(written, tmp_path):
    _, table = written
    odd = [
        {**line, "name": f"_$\\no{i}$ %& {line['name']}" if i else line["name"]} for i, line in enumerate(table["rows"])
    ]
    odd[0]["name"] = reference = r"$\mathbroken$"
    plot_comparison({**table, "rows": odd, "reference": reference}, tmp_path / "plots" / "one.png")
    assert (tmp_path / "plots" / "one.png").stat().st_size > 5000


def test_rows_that_cannot_be_compared_are_refused(rows, truth):
    def compared(rows, reference="plain"):
        return differences(rows, truth, reference, 10)

    with pytest.raises(ValueError, match="reference must be one of the rows"):
        compared(rows, "nothing")
    with pytest.raises(ValueError, match="'plain' comes twice"):
        compared([rows[0], rows[0]])
    with pytest.raises(ValueError, match=r"must have the seeds of 'plain', \[0, 1\], got \[0\]"):
        compared([rows[0], replace(rows[1], runs=rows[1].runs[:1])])
    with pytest.raises(ValueError, match="'plain' must have a run"):
        compared([replace(rows[0], runs=[])])
    fewer = [replace(run, accuracy=replace(run.accuracy, images=29)) for run in rows[1].runs]
    with pytest.raises(ValueError, match="30 images with 120 boxes, got 29 with 120"):
        compared([rows[0], replace(rows[1], runs=fewer)])
