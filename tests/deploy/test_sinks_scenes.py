"""Files while a scene is done in part: they show what was found so far, and nothing of that stays behind its record."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.frames import Record
from deploy.georeference import Georeference
from deploy.scene_parts import SceneBegun, TileFound, merged
from deploy.sinks import open_sinks
from deploy.tiling import plan_tiles
from tests.deploy.drawn_records import NAMES, boxes, record

ROOT = Path(__file__).resolve().parents[2]
FILES = ("coco", "csv", "geojson", "gpkg")
PLAIN = ("detections.json", "detections.csv", "detections.geojson")
WHERE = Georeference("EPSG:32633", (0.3, 0.0, 391000.0, 0.0, -0.3, 5820000.0))
HW = (2000, 2000)
TILES = plan_tiles(HW, (400, 400), 0.2)


def tile(number: int, name: str) -> TileFound:
    return TileFound(name, number, TILES[number], boxes(number, 6))


def whole(name: str) -> Record:
    return Record(name, HW, merged([tile(n, name) for n in range(len(TILES))], HW), WHERE)


def rows_of(out: Path) -> list:
    with sqlite3.connect(out / "detections.gpkg") as database:
        assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return database.execute("SELECT * FROM detections ORDER BY fid").fetchall()


def counts(out: Path) -> dict[str, int]:
    """Return how many boxes each file holds, each read by a reader of its own."""
    with (out / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert all(row["lat"] is not None and None not in row for row in rows)
    return {
        "coco": len(json.loads((out / "detections.json").read_bytes())["annotations"]),
        "csv": len(rows),
        "geojson": len(json.loads((out / "detections.geojson").read_bytes())["features"]),
        "gpkg": len(rows_of(out)),
    }


def wait_for(out: Path, count: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and set(counts(out).values()) != {count}:
        time.sleep(0.02)
    assert set(counts(out).values()) == {count}


def test_what_was_found_so_far_is_shown_and_then_replaced(tmp_path):
    """Two images around two scenes; the files are read while they grow."""
    images = [record(0), record(1)]
    names = ("a.tif", "b.tif")
    with open_sinks(tmp_path / "parts", FILES, NAMES, info={}, interval_s=0.02) as sinks:
        sinks.add(images[0])
        before = len(images[0].detections)
        for name in names:
            sinks.begin_scene(SceneBegun(name, HW, "plan", WHERE))
            for number in range(len(TILES)):
                sinks.add_tile(tile(number, name))
                if number in (9, 20):
                    so_far = merged([tile(n, name) for n in range(number + 1)], HW)
                    wait_for(tmp_path / "parts", before + len(so_far))
                    image = json.loads((tmp_path / "parts/detections.json").read_bytes())["images"][-1]
                    assert (image["file_name"], image["complete"]) == (name, False)
            assert sinks.unfinished
            sinks.add(whole(name))
            assert not sinks.unfinished
            before += len(whole(name).detections)
            with (tmp_path / "parts/detections.csv").open(newline="") as file:
                assert len(list(csv.DictReader(file))) == before, "the table has a record at once"
        sinks.add(images[1])
    with open_sinks(tmp_path / "whole", FILES, NAMES, info={}) as sinks:
        for one in (images[0], *(whole(name) for name in names), images[1]):
            sinks.add(one)
    for name in PLAIN:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")
    assert not list((tmp_path / "parts").glob("*.part*"))


def test_a_folder_without_tiles_of_its_scene_is_shown_after_resuming(tmp_path):
    sinks = open_sinks(tmp_path, FILES, NAMES, info={})
    sinks.begin_scene(SceneBegun("a.tif", HW, "plan", WHERE))
    for number in range(7):
        sinks.add_tile(tile(number, "a.tif"))
    sinks.close()
    shown = len(merged([tile(n, "a.tif") for n in range(7)], HW))
    assert set(counts(tmp_path).values()) == {shown}
    for path in tmp_path.glob("detections.*"):
        path.unlink()
    with open_sinks(tmp_path, FILES, NAMES, info={}, resume=True) as sinks:
        assert set(counts(tmp_path).values()) == {shown}
        assert list(sinks.done.parts["a.tif"].tiles) == list(range(7))
        assert sinks.notes()[0].startswith("a.tif: 7 of its tiles are done")
        sinks.add(replace(whole("a.tif"), complete=False))
        assert not sinks.notes()
    assert set(counts(tmp_path).values()) == {len(whole("a.tif").detections)}
    with open_sinks(tmp_path, FILES, NAMES, info={}, resume=True) as sinks:
        assert not sinks.done.has("a.tif"), "a part of it failed"
        assert len(sinks.done.parts["a.tif"]) == 7
        sinks.add(whole("a.tif"))
    assert set(counts(tmp_path).values()) == {len(whole("a.tif").detections)}
    with pytest.raises(ValueError, match=r"holds an earlier run, 1 images"):
        open_sinks(tmp_path, FILES, NAMES, info={})


WRITER = """
import sys
from pathlib import Path
from deploy.scene_parts import SceneBegun
from deploy.sinks import open_sinks
from tests.deploy.drawn_records import NAMES
from tests.deploy.test_sinks_scenes import FILES, HW, TILES, WHERE, tile, whole
sinks = open_sinks(Path(sys.argv[1]), FILES, NAMES, info={}, resume=True, interval_s=0.001)
print("open", flush=True)
for scene in range(40):
    name = f"{scene}.tif"
    if sinks.done.has(name):
        continue
    part = sinks.done.parts.get(name)
    if part is None:
        sinks.begin_scene(SceneBegun(name, HW, "plan", WHERE))
    for number in range(len(TILES)):
        if part is None or number not in part:
            sinks.add_tile(tile(number, name))
    sinks.add(whole(name))
"""


def test_killed_at_any_moment_the_files_are_whole(tmp_path):
    """They hold whole records and one part at most, of which nothing is doubled."""
    per_scene = len(whole("0.tif").detections)
    out = tmp_path / "out"
    seen = set()
    for pause in (0.35, 0.1, 0.23, 0.5):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(out)], cwd=ROOT, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"open\n"
            time.sleep(pause)
            os.kill(child.pid, signal.SIGKILL)
        if not (out / "detections.json").exists():
            continue
        found = json.loads((out / "detections.json").read_bytes())
        assert [image["file_name"] for image in found["images"]] == [f"{i}.tif" for i in range(len(found["images"]))]
        assert all("complete" not in image for image in found["images"][:-1])
        ids = [one["id"] for one in found["annotations"]]
        assert ids == list(range(1, len(ids) + 1))
        for image in found["images"][:-1]:
            assert sum(one["image_id"] == image["id"] for one in found["annotations"]) == per_scene
        assert max(counts(out).values()) <= 40 * per_scene
        seen.add(len(ids))
    assert len(seen) > 1


def test_a_failed_write_tells_how_many_tiles_are_kept(tmp_path):
    sinks = open_sinks(tmp_path, ["coco"], NAMES, info={}, interval_s=60)
    sinks.begin_scene(SceneBegun("s.tif", HW, "plan", WHERE))
    for number in range(3):
        sinks.add_tile(tile(number, "s.tif"))
    (tmp_path / "detections.json").unlink()
    (tmp_path / "detections.json").mkdir()
    with pytest.raises(OSError, match=r"the 3 tiles finished before are kept in .*records\.jsonl, --resume goes on"):
        sinks.close()
