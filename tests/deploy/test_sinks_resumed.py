"""Two runs give the same files, and a run that was stopped and resumed gives those of one that was not."""

from __future__ import annotations

import csv
import sqlite3
from pathlib import Path

import cv2
import pytest

from deploy.sinks import open_sinks
from tests.deploy.drawn_records import NAMES, frame, record

INFO = {"bundle": "b", "score": 0.25}
FILES = ("coco", "csv", "geojson", "gpkg")


def run(out: Path, records, formats=FILES, **options):
    sinks = open_sinks(out, formats, NAMES, info=INFO, interval_s=0.02, **options)
    try:
        for one in records:
            sinks.add(one)
    finally:
        sinks.close()
    return sinks


def test_two_runs_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        run(tmp_path / name, [record(i) for i in range(9)], [*FILES, "overlay"])
    compared = 0
    for path in (tmp_path / "a").rglob("*.*"):
        if path.suffix != ".gpkg":  # the standard wants the time of the last change in it
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
            compared += 1
    assert compared == 4 + 9
    assert gpkg_rows(tmp_path / "a") == gpkg_rows(tmp_path / "b")


def gpkg_rows(out: Path) -> list:
    with sqlite3.connect(out / "detections.gpkg") as database:
        return database.execute("SELECT * FROM detections ORDER BY fid").fetchall()


@pytest.mark.parametrize("stop", [0, 1, 4, 9])
def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path, stop):
    formats = [*FILES, "overlay"]
    records = [*(record(i) for i in range(9)), frame(0), frame(1)]
    run(tmp_path / "whole", records, formats)
    run(tmp_path / "parts", records[:stop], formats)
    if stop:  # as a kill leaves them: behind the journal, and a line cut off
        (tmp_path / "parts/detections.json").write_text("{}")
        (tmp_path / "parts/detections.csv").unlink()
        with (tmp_path / "parts/records.jsonl").open("ab") as journal:
            journal.write(b'{"name":"scen')
    sinks = open_sinks(tmp_path / "parts", formats, NAMES, info=INFO, resume=True)
    assert sinks.resumed == stop
    left = [one for one in records if not sinks.done.has(one.name, one.frame_number)]
    assert left == records[stop:]
    for one in left:
        sinks.add(one)
    sinks.close()
    assert sinks.notes()[0].startswith(f"{tmp_path / 'parts/detections.geojson'}: 4 of 11 have")
    names = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*.*"))
    assert names == sorted(p.relative_to(tmp_path / "parts") for p in (tmp_path / "parts").rglob("*.*"))
    for name in names:
        if name.suffix != ".gpkg":
            assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert gpkg_rows(tmp_path / "parts") == gpkg_rows(tmp_path / "whole")


def test_a_resumed_run_draws_an_unfinished_video_again(tmp_path):
    formats = ["csv", "video"]
    sinks = open_sinks(tmp_path, formats, NAMES, info=INFO)
    for one in (frame(0, "a.mp4"), frame(1, "a.mp4"), frame(2, "a.mp4")):
        sinks.add(one)
    sinks.source_finished("a.mp4")
    sinks.add(frame(0, "b.mp4"))
    sinks.close()
    sinks = open_sinks(tmp_path, formats, NAMES, info=INFO, resume=True)
    assert sinks.done.has("a.mp4")
    assert not sinks.done.has("b.mp4", 0)
    for number in range(4):
        sinks.add(frame(number, "b.mp4"))
    sinks.close()
    counts = {}
    for path in sorted((tmp_path / "videos").iterdir()):
        reader = cv2.VideoCapture(str(path))
        counts[path.name] = sum(1 for _ in iter(lambda r=reader: r.grab(), False))
    assert counts == {"a.mkv": 3, "b.mkv": 4}
    rows = list(csv.DictReader((tmp_path / "detections.csv").open(newline="")))
    assert [r["frame"] for r in rows] == ["1", "2", "2", "1", "2", "2"]
