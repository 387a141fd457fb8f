"""rsedge detect stopped in the middle of a scene: what was found is readable, and the same command goes on with it."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from deploy.detect_command import run
from deploy.detector import Detector
from deploy.procedural import draw_scene

ROOT = Path(__file__).parents[2]
PROCEDURAL = ROOT / "deploy/zoo/procedural"
FORMATS = "coco,csv,geojson,gpkg"
PLAIN = ("detections.json", "detections.csv", "detections.geojson")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Return a georeferenced GeoTIFF of 3 x 3 tiles, the second of them empty."""
    import rasterio
    from rasterio.transform import Affine

    path = tmp_path_factory.mktemp("scenes") / "large.tif"
    drawn = draw_scene(4, (1216, 1216), georeference=True)
    image = drawn.image.copy()
    image[:512, 409:923] = 0
    options = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": 1216, "width": 1216, "tiled": True}
    with rasterio.open(path, "w", **options, crs=drawn.crs, transform=Affine.from_gdal(*drawn.geotransform)) as file:
        file.write(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return path


@pytest.fixture(scope="module")
def whole(scene, tmp_path_factory):
    """Return the folder of a run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole")
    run(PROCEDURAL, [str(scene)], out, FORMATS.split(","), "onnx")
    return out


def entries(out: Path) -> list[dict]:
    """Return the journal's whole lines, read without its own reader."""
    return [json.loads(line) for line in (out / "records.jsonl").read_bytes().split(b"\n")[:-1]]


def rows_of(out: Path) -> list:
    with sqlite3.connect(out / "detections.gpkg") as database:
        assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return database.execute("SELECT * FROM detections ORDER BY fid").fetchall()


def described(out: Path) -> str:
    with sqlite3.connect(out / "detections.gpkg") as database:
        return database.execute("SELECT description FROM gpkg_contents").fetchone()[0]


def assert_same(out: Path, whole: Path) -> None:
    for name in PLAIN:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert rows_of(out) == rows_of(whole)
    assert not described(out)


def count_tiles(monkeypatch) -> list[int]:
    """Have every tile's number noted that goes to a model from now on."""
    seen: list[int] = []
    stream = Detector.stream

    def noting(self, source, **options):
        class Noted:
            live, close = False, source.close

            def __iter__(self):
                for frame in source:
                    seen.append(frame.number)
                    yield frame

        return stream(self, Noted(), **options)

    monkeypatch.setattr(Detector, "stream", noting)
    return seen


# One tile at a time, and slowly: so the run can be stopped in the middle.
SLOW = """
import sys, time
from deploy.pipeline import Pipeline
once = Pipeline.run
def slowly(self, item, decode):
    time.sleep(0.5)
    return once(self, item, decode)
Pipeline.run = slowly
from rsedge import main
sys.argv[0] = "rsedge"
main()
"""


def start(scene: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", SLOW, "detect", str(PROCEDURAL), str(scene), "--out", str(out)]
    command += ["--format", FORMATS, "--backend", "onnx", "--contexts", "1"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_scene_that_was_stopped_in_its_middle_goes_on(how, scene, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    process = start(scene, out)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((out / "detections.gpkg").exists() and rows_of(out)):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.kill(process.pid, how)
    told, errors = process.communicate(timeout=20)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143}[how]
    tiles = [entry["tile"] for entry in entries(out) if "tile" in entry]
    assert tiles == sorted(set(tiles))
    assert not [entry for entry in entries(out) if "name" in entry], "the scene is not finished"
    total = len({entry["tile"] for entry in entries(whole) if "tile" in entry})
    assert 0 < len(tiles) < total
    # What was found until then can be read, and says that it is not all.
    coco = json.loads((out / "detections.json").read_bytes())
    assert [image.get("complete") for image in coco["images"]] == [False]
    features = json.loads((out / "detections.geojson").read_bytes())["features"]
    assert {feature["properties"]["complete"] for feature in features} == {False}
    with (out / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert {len(row) for row in rows} == {11}
    assert rows_of(out)
    assert described(out) == f"not complete: {scene}"
    if how != signal.SIGKILL:
        assert len(coco["annotations"]) == len(features) == len(rows) == len(rows_of(out))
        passed = len(tiles) + sum(len(entry.get("empty", ())) for entry in entries(out))
        assert f"large.tif: {passed} of its tiles are done and in the files, --resume goes on" in told
        assert "the same command with --resume goes on" in errors
    seen = count_tiles(monkeypatch)
    run(PROCEDURAL, [str(scene)], out, FORMATS.split(","), "onnx", resume=True)
    assert not set(seen) & set(tiles)
    assert len(seen) + len(tiles) == total, "no tile is done twice, none is left out"
    assert_same(out, whole)
    del seen[:]
    run(PROCEDURAL, [str(scene)], out, FORMATS.split(","), "onnx", resume=True)
    assert not seen
    assert_same(out, whole)
    assert not [entry for entry in entries(out) if "tile" in entry], "tiles of finished scenes leave the journal"


def test_cut_at_any_line_it_ends_alike(scene, whole, tmp_path, monkeypatch):
    lines = (whole / "records.jsonl").read_bytes().splitlines(keepends=True)
    for number, cut in enumerate((2, len(lines) - 2)):
        out = tmp_path / str(number)
        out.mkdir()
        (out / "records.jsonl").write_bytes(b"".join(lines[:cut]) + lines[cut][:17])
        with monkeypatch.context() as patched:
            seen = count_tiles(patched)
            run(PROCEDURAL, [str(scene)], out, FORMATS.split(","), "onnx", resume=True)
        done = {json.loads(line).get("tile") for line in lines[2:cut]}
        empty = {number for line in lines[2:cut] for number in json.loads(line)["empty"]}
        assert not set(seen) & (done | empty)
        assert_same(out, whole)


def test_empty_tiles_are_told_and_not_read_again(scene, whole, tmp_path, capsys, monkeypatch):
    from deploy.tiling import TileSource

    empty = {number for entry in entries(whole) for number in entry.get("empty", ())}
    assert empty == {1}
    lines = (whole / "records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines[:-1]))
    read = TileSource._read
    numbers: list[int] = []
    monkeypatch.setattr(TileSource, "_read", lambda self, some: numbers.extend(some) or read(self, some))
    run(PROCEDURAL, [str(scene)], tmp_path, ["csv"], "onnx", resume=True)
    assert not empty & set(numbers)
    assert (tmp_path / "detections.csv").read_bytes() == (whole / "detections.csv").read_bytes()
    run(PROCEDURAL, [str(scene)], tmp_path / "told", ["csv"], "onnx")
    assert "1 scene with 9 tiles (1 without data)" in capsys.readouterr().out


def test_tiles_that_failed_are_tried_again_and_no_others(scene, whole, tmp_path, monkeypatch):
    from deploy.scenes import Scene

    load = Scene._load

    def damaged(self, window, size_hw=None):
        x, y, w, h = window
        if size_hw is None and x <= 200 < x + w and y <= 1200 < y + h:
            raise ValueError(f"{self.name}: its window cannot be read")
        return load(self, window, size_hw)

    with monkeypatch.context() as patched:
        patched.setattr(Scene, "_load", damaged)
        with pytest.raises(ValueError, match=r"tiles? of 1 scene could not be read, all others are written"):
            run(PROCEDURAL, [str(scene)], tmp_path, FORMATS.split(","), "onnx")
    coco = json.loads((tmp_path / "detections.json").read_bytes())
    assert coco["images"][0]["complete"] is False
    done = {entry["tile"] for entry in entries(tmp_path) if "tile" in entry}
    seen = count_tiles(monkeypatch)
    run(PROCEDURAL, [str(scene)], tmp_path, FORMATS.split(","), "onnx", resume=True)
    assert seen == [6]
    assert len(done) == 7
    assert_same(tmp_path, whole)


def test_a_second_run_into_a_folder_is_refused_and_overwrite_removes_the_first(scene, tmp_path):
    import cv2

    for seed in range(2):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), draw_scene(seed, (256, 256)).image)
    out = tmp_path / "out"
    run(PROCEDURAL, [str(tmp_path / "0.png"), str(tmp_path / "1.png")], out, ["csv", "overlay"], "onnx")
    (out / "overlays/mine.jpg").write_bytes(b"kept")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"holds an earlier run, 2 .*--resume goes on.*--overwrite begins anew"):
        run(PROCEDURAL, [str(tmp_path / "1.png")], out, ["coco"], "onnx")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    run(PROCEDURAL, [str(tmp_path / "1.png")], out, ["coco"], "onnx", overwrite=True)
    left = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert left == ["detections.json", "overlays/mine.jpg", "records.jsonl"]
    assert [Path(i["file_name"]).name for i in json.loads((out / "detections.json").read_bytes())["images"]] == [
        "1.png"
    ]
    with pytest.raises(ValueError, match="choose one of them"):
        run(PROCEDURAL, [str(tmp_path / "1.png")], out, ["coco"], "onnx", resume=True, overwrite=True)


def test_a_file_is_known_again_however_it_is_named_and_done_again_once_it_changed(tmp_path, monkeypatch, capsys):
    import cv2

    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(3):
        cv2.imwrite(str(folder / f"{seed}.png"), draw_scene(seed, (256, 256)).image)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    run(PROCEDURAL, ["in"], tmp_path / "out", ["coco", "csv"], "onnx")
    first = (tmp_path / "out/detections.json").read_bytes()
    monkeypatch.chdir(folder)
    for source in (str(folder), "../link", "."):
        run(PROCEDURAL, [source], tmp_path / "out", ["coco", "csv"], "onnx", resume=True)
        assert "nothing left to do, 3 images were finished before" in capsys.readouterr().out
        assert (tmp_path / "out/detections.json").read_bytes() == first, "names stay as they were typed"
    cv2.imwrite(str(folder / "1.png"), draw_scene(9, (256, 256)).image)
    run(PROCEDURAL, [str(folder)], tmp_path / "out", ["coco", "csv"], "onnx", resume=True)
    assert "1.png: has changed since it was done, it is done again" in capsys.readouterr().out
    found = json.loads((tmp_path / "out/detections.json").read_bytes())
    assert [image["file_name"] for image in found["images"]] == ["in/0.png", "in/2.png", f"{folder}/1.png"]
    run(PROCEDURAL, [str(folder / "1.png")], tmp_path / "alone", ["coco"], "onnx")
    alone = json.loads((tmp_path / "alone/detections.json").read_bytes())["annotations"]
    assert [a["bbox"] for a in found["annotations"] if a["image_id"] == 3] == [a["bbox"] for a in alone]
    # Another file of the same typed name is not the one that is finished.
    other = tmp_path / "elsewhere/in"
    other.mkdir(parents=True)
    cv2.imwrite(str(other / "0.png"), draw_scene(5, (256, 256)).image)
    monkeypatch.chdir(tmp_path / "elsewhere")
    run(PROCEDURAL, ["in"], tmp_path / "out", ["coco", "csv"], "onnx", resume=True)
    assert len(json.loads((tmp_path / "out/detections.json").read_bytes())["images"]) == 4
