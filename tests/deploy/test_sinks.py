"""The output files of one run: each read by another reader than the code that wrote it."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
import sys
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from deploy.detections import Detections
from deploy.frames import Record
from deploy.georeference import Georeference
from deploy.sink_formats import FORMATS
from deploy.sinks import open_sinks, unused_name, write_image
from tests.deploy.drawn_records import NAMES, boxes, frame, record
from tests.deploy.read_wkb import polygons

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


def features(path: Path) -> list[dict]:
    content = json.loads(path.read_bytes())
    assert content.keys() == {"type", "features"}
    return content["features"]


def shoelace(ring) -> float:
    (x0, y0), total = ring[0], 0.0
    for (x1, y1), (x2, y2) in pairwise(ring):
        total += (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    return total


def test_coco_holds_every_box(tmp_path):
    records = [record(i) for i in range(9)]
    run(tmp_path, records, ["coco"])
    content = json.loads((tmp_path / "detections.json").read_bytes())
    assert content["info"] == INFO
    assert content["categories"] == [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)]
    assert [(i["id"], i["file_name"], i["width"], i["height"]) for i in content["images"]] == [
        (k, one.name, 400, 400) for k, one in enumerate(records, 1)
    ]
    assert [a["id"] for a in content["annotations"]] == list(range(1, 1 + len(content["annotations"])))
    rows = iter(content["annotations"])
    for k, one in enumerate(records, 1):
        for box, score, class_id in zip(
            one.detections.xyxy, one.detections.score, one.detections.class_id, strict=True
        ):
            row = next(rows)
            assert (row["image_id"], row["category_id"], row["iscrowd"]) == (k, class_id + 1, 0)
            x, y, w, h = row["bbox"]
            assert np.allclose([x, y, x + w, y + h], box, atol=0.011)
            assert row["area"] == pytest.approx(w * h, rel=0.01)
            assert row["score"] == pytest.approx(float(score), abs=6e-6)
    assert next(rows, None) is None


def test_frames_carry_number_and_time(tmp_path):
    run(tmp_path, [frame(0), frame(2), frame(3)], ["coco", "csv"])
    images = json.loads((tmp_path / "detections.json").read_bytes())["images"]
    assert [(i["frame_number"], i["timestamp"]) for i in images] == [(0, 0.0), (2, 0.2), (3, 0.3)]
    rows = list(csv.DictReader((tmp_path / "detections.csv").open(newline="")))
    assert [(r["frame"], r["timestamp"]) for r in rows] == [("2", "0.2")] * 2


def test_csv_is_rfc_4180_and_places_centres(tmp_path):
    records = [record(i) for i in range(9)] + [Record('folder/a "b", c\n.png', (9, 9), boxes(1, 1))]
    run(tmp_path, records, ["csv"])
    data = (tmp_path / "detections.csv").read_bytes()
    assert data.startswith(b"source,frame,timestamp,class,score,x1,y1,x2,y2,lon,lat\r\n")
    assert data.endswith(b"\r\n")
    assert b'"folder/a ""b"", c\n.png"' in data
    rows = iter(csv.DictReader((tmp_path / "detections.csv").open(newline="", encoding="utf-8")))
    for one in records:
        found = one.detections
        for i in range(len(found)):
            row = next(rows)
            assert (row["source"], row["class"]) == (one.name, NAMES[found.class_id[i]])
            assert np.allclose([float(row[k]) for k in ("x1", "y1", "x2", "y2")], found.xyxy[i], atol=0.0051)
            if one.georeference is None:
                assert (row["lon"], row["lat"]) == ("", "")
            else:
                middle = found.xyxy[i].reshape(2, 2).astype(float).mean(axis=0)
                place = one.georeference.to_lonlat(middle[None])[0]
                assert np.allclose([float(row["lon"]), float(row["lat"])], place, atol=6e-9)
    assert next(rows, None) is None


def test_geojson_keeps_rfc_7946(tmp_path):
    records = [record(i) for i in range(9)]
    sinks = run(tmp_path, records, ["geojson"])
    found = iter(features(tmp_path / "detections.geojson"))
    for one in records:
        if one.georeference is None:
            continue
        for box, score, class_id in zip(
            one.detections.xyxy.astype(float), one.detections.score, one.detections.class_id, strict=True
        ):
            feature = next(found)
            assert feature["properties"] == {
                "class": NAMES[class_id],
                "score": round(float(score), 5),
                "source": one.name,
            }
            assert feature["geometry"]["type"] == "Polygon"
            (ring,) = feature["geometry"]["coordinates"]
            assert len(ring) == 5
            assert ring[0] == ring[4]
            assert shoelace(ring) > 0
            x1, y1, x2, y2 = box
            truth = one.georeference.to_lonlat(np.array([[x1, y1], [x1, y2], [x2, y2], [x2, y1]]))
            assert all(np.abs(np.array(ring[:4]) - corner).max(axis=1).min() < 6e-9 for corner in truth)
    assert next(found, None) is None
    text = (tmp_path / "detections.geojson").read_text()
    assert all(len(decimals) >= 7 for decimals in re.findall(r"\[-?\d+\.(\d+),", text))
    assert sinks.notes() == [f"{tmp_path / 'detections.geojson'}: 2 of 9 have no georeference and are not in it"]


def test_gdal_reads_the_same_polygons_from_geojson_and_geopackage(tmp_path):
    from pyogrio import raw, read_info

    antimeridian = Georeference("EPSG:4326", (1e-5, 0, 179.999, 0, -1e-5, -17.0))
    records = [*(record(i) for i in range(9)), Record("fiji.tif", (400, 400), boxes(5, 30), antimeridian), frame(1)]
    run(tmp_path, records)
    written = features(tmp_path / "detections.geojson")
    expected = []
    for feature in written:
        coordinates = feature["geometry"]["coordinates"]
        parts = coordinates if feature["geometry"]["type"] == "MultiPolygon" else [coordinates]
        for (ring,) in parts:
            assert shoelace(ring) > 0
        expected.append([[tuple(point) for point in ring] for (ring,) in parts])
    assert any(len(parts) == 2 for parts in expected)
    for name in ("detections.geojson", "detections.gpkg"):
        meta, _, geometry, fields = raw.read(str(tmp_path / name))
        assert [polygons(data) for data in geometry] == expected
        assert meta["crs"] == "EPSG:4326"
        columns = dict(zip(meta["fields"], fields, strict=True))
        for key in ("class", "score", "source"):
            assert columns[key].tolist() == [feature["properties"][key] for feature in written]
    assert read_info(tmp_path / "detections.gpkg")["geometry_type"] == "MultiPolygon"


def test_sqlite_finds_a_geopackage(tmp_path):
    where = record(0).georeference
    timed = Record("v.mp4", (400, 400), boxes(1, 2), where, 7, 0.25)
    sinks = open_sinks(tmp_path, ["gpkg"], NAMES, info=INFO, interval_s=60)
    for one in (record(0), record(1), timed):
        sinks.add(one)
        for job in sinks._files:
            job.publish()
    sinks.close()
    with sqlite3.connect(tmp_path / "detections.gpkg") as database:
        assert database.execute("PRAGMA application_id").fetchone()[0] == 0x47504B47
        assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        contents = database.execute("SELECT table_name, data_type, srs_id FROM gpkg_contents").fetchall()
        assert contents == [("detections", "features", 4326)]
        low, high = database.execute("SELECT min_x, max_y FROM gpkg_contents").fetchone()
        rows = database.execute("SELECT source, frame, timestamp, class FROM detections ORDER BY fid").fetchall()
    assert [row[:3] for row in rows] == [("scenes/000.tif", None, None)] + [("scenes/001.tif", None, None)] * 2 + [
        ("v.mp4", 7, 0.25)
    ] * 2
    assert {row[3] for row in rows} <= set(NAMES)
    rings = np.concatenate(
        [f["geometry"]["coordinates"][0] for f in geojson_of([record(0), record(1), timed], tmp_path)]
    )
    assert low == pytest.approx(rings[:, 0].min())
    assert high == pytest.approx(rings[:, 1].max())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["detections.gpkg", "other", "records.jsonl"]


def geojson_of(records, tmp_path: Path) -> list[dict]:
    run(tmp_path / "other", records, ["geojson"])
    return features(tmp_path / "other/detections.geojson")


def test_a_run_without_georeference_still_gives_valid_files(tmp_path):
    from pyogrio import raw

    sinks = run(tmp_path, [Record("a.png", (9, 9), boxes(0, 2))])
    assert features(tmp_path / "detections.geojson") == []
    assert len(raw.read(str(tmp_path / "detections.gpkg"))[2]) == 0
    assert [note.split(": ")[1] for note in sinks.notes()] == ["1 of 1 have no georeference and are not in it"] * 2


def test_overlays_are_numbered_and_frames_have_their_folder(tmp_path):
    image = np.full((40, 60, 3), 90, np.uint8)
    found = Detections([[10, 10, 30, 30]], [0.9], [0])
    records = [
        Record("one/a.png", (40, 60), found, image=image),
        Record("two/a.png", (40, 60), Detections.empty(), image=image),
        Record("huge.tif", (90000, 90000), found),
        frame(0, "rtsp://host/boat"),
        frame(4, "rtsp://host/boat"),
    ]
    sinks = run(tmp_path, records, ["overlay"])
    names = sorted(p.relative_to(tmp_path / "overlays").as_posix() for p in (tmp_path / "overlays").rglob("*.*"))
    assert names == ["a.jpg", "a_2.jpg", "boat/000000.jpg", "boat/000004.jpg"]
    drawn = cv2.imread(str(tmp_path / "overlays/a.jpg")).astype(int)
    assert np.abs(drawn - 90).max() > 60
    assert np.abs(cv2.imread(str(tmp_path / "overlays/a_2.jpg")).astype(int) - 90).max() < 4
    why = "(in part, too large, or no frame of a video)"
    assert sinks.notes() == [f"{tmp_path / 'overlays'}: 1 of 5 were not drawn {why}"]


def test_the_video_holds_every_frame_in_order_at_its_rate(tmp_path):
    frames = [frame(i, "clip.mp4") for i in range(12)]
    sinks = run(tmp_path, [*frames, record(0)], ["video"])
    reader = cv2.VideoCapture(str(tmp_path / "videos/clip.mkv"))
    assert reader.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    levels = []
    while (read := reader.read())[0]:
        levels.append(float(np.median(read[1])))
    assert np.allclose(levels, [5 * i for i in range(12)], atol=4)
    assert "1 of 13 were not drawn" in sinks.notes()[0]


def test_a_stream_that_changes_its_size_goes_on_in_another_file_and_one_frame_is_a_video(tmp_path):
    records = [frame(0, "s"), frame(1, "s"), frame(2, "s", (96, 128)), frame(3, "s", (96, 128)), frame(0, "t")]
    run(tmp_path, records, ["video"], fps=5)
    counts = {}
    for path in sorted((tmp_path / "videos").iterdir()):
        reader = cv2.VideoCapture(str(path))
        counts[path.name] = (
            reader.get(cv2.CAP_PROP_FRAME_HEIGHT),
            sum(1 for _ in iter(lambda r=reader: r.grab(), False)),
        )
    assert counts == {"s.mkv": (48, 2), "s_2.mkv": (96, 2), "t.mkv": (48, 1)}
    run(tmp_path / "one", [frame(0, "t")], ["video"])
    assert cv2.VideoCapture(str(tmp_path / "one/videos/t.mkv")).read()[0]


def test_a_run_that_fails_before_its_first_record_leaves_the_earlier_result(tmp_path):
    run(tmp_path, [record(0)])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    run(tmp_path, [], overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    run(tmp_path, [record(1)], overwrite=True)
    assert all(path.read_bytes() != data for path, data in before.items())
    assert len(json.loads((tmp_path / "detections.json").read_bytes())["images"]) == 1


@pytest.mark.parametrize(
    ("formats", "told"),
    [
        (["csv", "geojosn"], "format 'geojosn' is not known; did you mean geojson?"),
        (["GPKG"], "did you mean gpkg?"),
        (["geopackage"], "did you mean gpkg?"),
        (["json"], "did you mean coco? Known: coco, csv, geojson, gpkg, overlay, video"),
        (["xyzzy"], "use coco, csv, geojson, gpkg, overlay, video"),
        ([], "formats must name at least one of coco, csv"),
    ],
)
def test_formats_are_checked(tmp_path, formats, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        open_sinks(tmp_path / "new", formats, NAMES, info=INFO)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (Record("a", (9, 9), Detections([[0, 0, np.nan, 1]], [0.5], [0])), "a: boxes and scores must be finite"),
        (Record("a", (9, 9), Detections([[0, 0, 1, 1]], [0.5], [3])), "class_id must be below 3.* got 3 to 3"),
        (Record("a", (9, 9), Detections([[0, 0, 1, 1]], [0.5], [-1])), "class_id must be below 3.* got -1 to -1"),
        (record(0), "scenes/000.tif is written already; give each image once"),
        (frame(3), "frame 3 of clips/boat.mp4 is written already; .*frames in order"),
        (frame(2), "frame 2 of clips/boat.mp4"),
        (
            Record("far", (9, 9), boxes(0, 1), Georeference("EPSG:4326", (1, 0, 0, 0, 1, 89))),
            "far: pixel .* has no place on the earth",
        ),
    ],
)
def test_a_record_that_cannot_be_written_is_refused_before_anything_is(tmp_path, one, told):
    sinks = open_sinks(tmp_path, FILES, NAMES, info=INFO)
    for good in (record(0), frame(3)):
        sinks.add(good)
    before = (tmp_path / "records.jsonl").read_bytes()
    with pytest.raises(ValueError, match=told):
        sinks.add(one)
    assert (tmp_path / "records.jsonl").read_bytes() == before
    sinks.add(frame(4))
    sinks.close()
    assert len(json.loads((tmp_path / "detections.json").read_bytes())["images"]) == 3


def test_an_output_in_the_way_is_told_and_the_rest_is_kept(tmp_path):
    sinks = open_sinks(tmp_path, ["coco", "csv"], NAMES, info=INFO, interval_s=60)
    sinks.add(record(0))
    (tmp_path / "detections.json").unlink()
    (tmp_path / "detections.json").mkdir()
    sinks.add(record(1))
    told = r"detections.json: cannot be written \(Is a directory\); the 2 finished before are kept in .*records.jsonl"
    with pytest.raises(OSError, match=told):
        sinks.close()
    assert len(list(csv.DictReader((tmp_path / "detections.csv").open(newline="")))) == 3
    (tmp_path / "detections.json").rmdir()
    open_sinks(tmp_path, ["coco", "csv"], NAMES, info=INFO, resume=True).close()
    assert len(json.loads((tmp_path / "detections.json").read_bytes())["images"]) == 2


def test_what_fails_in_the_background_reaches_the_caller(tmp_path):
    sinks = open_sinks(tmp_path, ["coco"], NAMES, info=INFO, interval_s=0.01)
    sinks.add(record(0))
    (tmp_path / "detections.json").unlink()
    (tmp_path / "detections.json").mkdir()

    def go_on():
        for i in range(1, 500):
            sinks.add(record(i))
            time.sleep(0.01)

    with pytest.raises(OSError, match="cannot be written"):
        go_on()
    (tmp_path / "detections.json").rmdir()
    sinks.close()  # and nothing is lost once the cause is gone
    images = json.loads((tmp_path / "detections.json").read_bytes())["images"]
    assert [i["file_name"] for i in images] == [record(i).name for i in range(len(images))]
    assert len(images) == len((tmp_path / "records.jsonl").read_bytes().splitlines()) - 1 > 1


def test_out_that_is_a_file_is_told(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OSError, match="out: cannot be written"):
        open_sinks(tmp_path / "out", ["csv"], NAMES, info=INFO)


def test_geopackage_needs_pyogrio_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    with pytest.raises(ModuleNotFoundError):
        open_sinks(tmp_path / "out", ["csv", "gpkg"], NAMES, info=INFO)
    assert not (tmp_path / "out").exists()


def test_every_format_has_its_own_path():
    assert len(set(FORMATS.values())) == len(FORMATS) == 6


def test_names_are_numbered_before_their_ending():
    taken: set[str] = set()
    assert [unused_name(n, taken) for n in ("a.jpg", "a.jpg", "a.jpg", "b", "b", "a_2.jpg")] == [
        "a.jpg",
        "a_2.jpg",
        "a_3.jpg",
        "b",
        "b_2",
        "a_2_2.jpg",
    ]


def test_a_picture_is_written_whole_or_not_at_all(tmp_path):
    image = np.zeros((4, 4, 3), np.uint8)
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError, match=r"a\.png: cannot be written \(Is a directory\)"):
        write_image(tmp_path / "a.png", image)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(OSError, match=r"cannot encode \.xyz pictures"):
        write_image(tmp_path / "a.xyz", image)
