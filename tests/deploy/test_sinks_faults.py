"""Runs that end hard: killed at any moment, disk full, no permission. What was finished is there, whole, and once."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from deploy.sinks import open_sinks
from tests.deploy.drawn_records import NAMES, record

ROOT = Path(__file__).resolve().parents[2]
FORMATS = ("coco", "csv", "geojson", "gpkg", "overlay")
COUNT = 400

RUN = """
import sys
from pathlib import Path
from deploy.sinks import open_sinks
from tests.deploy.drawn_records import NAMES, record
out, formats, count, resume = Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]), sys.argv[4] == "resume"
sinks = open_sinks(out, formats, NAMES, info={}, resume=resume, interval_s=0.005)
for i in range(count):
    one = record(i)
    if not sinks.done.has(one.name):
        sinks.add(one)
        print(i, flush=True)
sinks.close()
print("end", flush=True)
"""


def start(out: Path, resume: bool, count: int = COUNT) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(out), ",".join(FORMATS), str(count), "resume" if resume else "new"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def journaled(out: Path) -> list[str]:
    """Return the names of the journal's whole lines, read without its own reader."""
    lines = (out / "records.jsonl").read_bytes().split(b"\n")[1:-1]
    return [json.loads(line)["name"] for line in lines]


def expected(names: list[str]) -> dict[str, list]:
    """Return what each file has to hold for these records: (source, score) of each box, in order."""
    records = [record(int(Path(name).stem), with_image=False) for name in names]
    rows = [(r.name, round(s, 5)) for r in records for s in r.detections.score.tolist()]
    placed = [(r.name, round(s, 5)) for r in records if r.georeference for s in r.detections.score.tolist()]
    return {"all": rows, "placed": placed}


def contents(out: Path) -> dict[str, list]:
    """Read every file with another reader than its writer."""
    coco = json.loads((out / "detections.json").read_bytes())
    file_of = {image["id"]: image["file_name"] for image in coco["images"]}
    text = (out / "detections.csv").read_bytes().decode()
    whole = text[: text.rindex("\r\n") + 2]  # a line without its end was cut off
    geojson = json.loads((out / "detections.geojson").read_bytes())
    with sqlite3.connect(f"{(out / 'detections.gpkg').as_uri()}?mode=ro", uri=True) as database:
        assert database.execute("PRAGMA quick_check").fetchone()[0] == "ok"
        rows = database.execute("SELECT source, score FROM detections ORDER BY fid").fetchall()
    return {
        "images": list(file_of.values()),
        "coco": [(file_of[a["image_id"]], a["score"]) for a in coco["annotations"]],
        "csv": [(r["source"], float(r["score"])) for r in csv.DictReader(whole.splitlines())],
        "geojson": [(f["properties"]["source"], f["properties"]["score"]) for f in geojson["features"]],
        "gpkg": rows,
    }


def check_after_kill(out: Path, reported: int) -> None:
    names = journaled(out)
    assert names == [record(i).name for i in range(len(names))]  # in order, none twice
    assert reported <= len(names) <= reported + 1
    found = contents(out)
    truth = expected(names)
    # In the journal and the table at once; the documents may be a moment behind, but hold whole records.
    assert found["csv"] == truth["all"] or found["csv"] == expected(names[:-1])["all"]
    assert found["images"] == names[: len(found["images"])]
    assert found["coco"] == expected(found["images"])["all"]
    last = {name: 0 for name in names}
    for name, _ in truth["placed"]:
        last[name] += 1
    for kind in ("geojson", "gpkg"):
        assert found[kind] == truth["placed"][: len(found[kind])]
        sources = [name for name, _ in found[kind]]
        assert all(sources.count(name) == last[name] for name in sources[-1:])
    for name in names:
        picture = out / "overlays" / f"{Path(name).stem}.jpg"
        assert cv2.imread(str(picture)) is not None


def test_killed_at_any_moment_and_resumed_it_equals_a_run_that_was_not(tmp_path):
    rng = random.Random(7)
    out = tmp_path / "out"
    reported, kills = 0, 0
    for attempt in range(40):
        child = start(out, resume=attempt > 0)
        assert child.stdout is not None
        ended = False
        # The first kills come early, later ones further on; the very last run is left alone.
        stop_at = rng.randrange(1, 120) if attempt < 5 else COUNT + 1
        for seen, line in enumerate(child.stdout, 1):
            if line.strip() == "end":
                ended = True
                break
            reported = int(line) + 1
            if seen == stop_at:
                time.sleep(rng.uniform(0, 0.01))
                child.send_signal(signal.SIGKILL)
                reported += sum(1 for rest in child.stdout if rest.strip() != "end")
                break
        child.wait()
        child.stdout.close()
        if ended:
            break
        assert child.returncode == -signal.SIGKILL
        kills += 1
        check_after_kill(out, reported)
    assert kills >= 3
    plain = tmp_path / "plain"
    sinks = open_sinks(plain, FORMATS, NAMES, info={})
    for i in range(COUNT):
        sinks.add(record(i))
    sinks.close()
    files = sorted(p.relative_to(plain) for p in plain.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    for name in files:
        if name.suffix != ".gpkg":
            assert (out / name).read_bytes() == (plain / name).read_bytes(), name
    assert contents(out) == contents(plain)
    assert contents(out)["gpkg"] == expected([record(i).name for i in range(COUNT)])["placed"]


VIDEO = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from deploy.sinks import open_sinks
from tests.deploy.drawn_records import NAMES, frame
sinks = open_sinks(Path(sys.argv[1]), ["video"], NAMES, info={})
noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
for i in range(60):
    sinks.add(replace(frame(i, "v.mp4"), image=np.roll(noise, i, axis=1)))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_video_of_a_killed_run_can_be_played(tmp_path):
    done = subprocess.run([sys.executable, "-c", VIDEO, str(tmp_path)], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    path = tmp_path / "videos/v.mkv"
    reader = cv2.VideoCapture(str(path))
    count = sum(1 for _ in iter(lambda: reader.grab(), False))
    # Without the last groups of pictures and the 256 KiB that FFmpeg had not handed to the system.
    assert 60 > count >= 30


LIMITED = """
import resource, signal, sys
from dataclasses import replace
import numpy as np
from pathlib import Path
from deploy.sinks import open_sinks
from deploy.told_errors import told_in_one_line
from tests.deploy.drawn_records import NAMES, frame, record
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
out, formats, limit = Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3])
make = frame if formats == ["video"] else record
if formats[-1] in ("video", "overlay"):
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    small, make = make, lambda i: replace(small(i), image=np.roll(noise, i, axis=1))
count = 60 if formats == ["video"] else 400
sinks = open_sinks(out, formats, NAMES, info={}, interval_s=0.01)
sinks.add(make(0))
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
done = 1
try:
    for i in range(1, count):
        sinks.add(make(i))
        done += 1
except OSError as error:
    print(told_in_one_line(error))
try:
    sinks.close()
except OSError as error:
    print(told_in_one_line(error))
print(done)
"""


@pytest.mark.parametrize(
    ("formats", "limit", "names"),
    [
        ("coco,csv,geojson", 20_000, r"detections\.(json|csv|geojson)"),
        ("gpkg", 110_000, r"detections\.gpkg"),  # the empty file has 98 KB
        ("csv,overlay", 10_000, r"001\.jpg"),
        ("video", 300_000, r"boat\.mkv"),
    ],
)
def test_a_file_that_takes_no_more_is_told_and_what_was_finished_stays(tmp_path, formats, limit, names):
    command = [sys.executable, "-c", LIMITED, str(tmp_path), formats, str(limit)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    *told, done = run.stdout.splitlines()
    assert 1 <= len(told) <= 2
    for line in told:
        # Which file meets the limit first is a matter of time; the journal's own may come before.
        assert re.search(rf"/({names}|records\.jsonl): ", line), line
        assert re.search(r"the \d+ finished before are kept in .*records\.jsonl, --resume goes on after them", line)
    assert any(re.search(rf"/({names}): ", line) for line in told)
    if formats != "video":
        assert len(journaled(tmp_path)) - int(done) in (0, 1)
    if formats.startswith("coco"):
        json.loads((tmp_path / "detections.json").read_bytes())
        json.loads((tmp_path / "detections.geojson").read_bytes())
    if "csv" in formats:
        rows = list(csv.reader((tmp_path / "detections.csv").open(newline="")))
        assert {len(row) for row in rows} == {11}
    if formats == "gpkg":
        with sqlite3.connect(tmp_path / "detections.gpkg") as database:
            assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            rows = database.execute("SELECT source, score FROM detections ORDER BY fid").fetchall()
        assert len(rows) > 0
        assert rows == expected(journaled(tmp_path))["placed"][: len(rows)]
    assert not list(tmp_path.rglob("*.part*"))
    # With room again, the same folder goes on to the end.
    if formats != "video":
        sinks = open_sinks(tmp_path, formats.split(","), NAMES, info={}, resume=True)
        for i in range(400):
            if not sinks.done.has(record(i).name):
                sinks.add(record(i))
        sinks.close()
        assert journaled(tmp_path) == [record(i).name for i in range(400)]
    else:
        assert len(journaled(tmp_path)) == 60


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 6 MB; skip where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if os.getuid() != 0 or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("formats", ["coco,csv,geojson,gpkg,overlay", "video"])
def test_a_full_disk_is_told_and_what_was_finished_stays(small_disk, formats):
    out = small_disk / "out"
    out.mkdir()
    filler = small_disk / "filler"
    # Little is left for the run; the video sink takes the last 4 MB for full, as OpenCV does not tell.
    filler.write_bytes(bytes((1 << 20 if formats == "video" else 4 << 20) + (1 << 19)))
    command = [sys.executable, "-c", LIMITED, str(out), formats, "0"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    *told, done = run.stdout.splitlines()
    assert told
    assert all(f"{out}/" in line and line.endswith("; free some space and run again") for line in told)
    assert all("No space left on device" in line or "full" in line for line in told)
    assert len(journaled(out)) - int(done) in (0, 1)
    assert not list(out.rglob("*.part*"))
    if formats == "video":
        reader = cv2.VideoCapture(str(out / "videos/boat.mkv"))
        assert sum(1 for _ in iter(lambda: reader.grab(), False)) == int(done)
        return
    found = contents(out)
    truth = expected(journaled(out))
    assert found["coco"] == expected(found["images"])["all"]
    for kind, key in (("csv", "all"), ("geojson", "placed"), ("gpkg", "placed")):
        assert found[kind] == truth[key][: len(found[kind])]
        assert len(found[kind]) > 0
    filler.unlink()
    open_sinks(out, formats.split(","), NAMES, info={}, resume=True).close()
    assert contents(out)["coco"] == truth["all"]
    assert contents(out)["gpkg"] == truth["placed"]


DENIED = """
import os, sys
from pathlib import Path
from deploy.sinks import open_sinks
from deploy.told_errors import told_in_one_line
from tests.deploy.drawn_records import NAMES, record
out = Path(sys.argv[1])
one = record(3)  # not georeferenced: PROJ need not be readable for nobody
sinks = open_sinks(out, ["csv", "overlay"], NAMES, info={})
if os.getuid() == 0:
    os.setuid(65534)
try:
    sinks.add(one)
except OSError as error:
    print(told_in_one_line(error))
sinks.close()
"""


def test_a_folder_without_permission_is_told(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o555)
    run = subprocess.run(
        [sys.executable, "-c", DENIED, str(out)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith("check its owner and mode, or choose another folder")
    assert str(out) in run.stdout
    assert len(run.stdout.splitlines()) == 1
    assert os.listdir(out) == []
