"""The journal: what is read back is what was written, wherever it was cut; other settings and damage are told."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deploy.detections import Detections
from deploy.frames import Record
from deploy.georeference import Georeference
from deploy.journal import Journal
from tests.deploy.drawn_records import NAMES, frame, record

ROOT = Path(__file__).resolve().parents[2]
INFO = {"bundle": "b", "score": 0.25, "tile_hw": [512, 512]}


def make(path: Path, info=None, names=NAMES, formats=("csv",)) -> Journal:
    return Journal(path, INFO if info is None else info, names, formats)


def write(path: Path, records, **kwargs) -> None:
    journal = make(path, **kwargs)
    journal.begin()
    for one in records:
        journal.append(one)
    journal.close()


def read(path: Path, **kwargs) -> tuple[list[Record], Journal]:
    records: list[Record] = []
    journal = make(path, **kwargs)
    journal.resume(records.append)
    return records, journal


def assert_same(a: Record, b: Record) -> None:
    assert (a.name, a.size_hw, a.georeference, a.frame_number, a.timestamp_s) == (
        b.name,
        b.size_hw,
        b.georeference,
        b.frame_number,
        b.timestamp_s,
    )
    for field in ("xyxy", "score", "class_id"):
        first, second = getattr(a.detections, field), getattr(b.detections, field)
        assert first.dtype == second.dtype
        assert first.tobytes() == second.tobytes()


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=30, deadline=None)
@given(
    xyxy=hnp.arrays(np.float32, st.tuples(st.integers(0, 5), st.just(4)), elements=finite),
    score=st.floats(0, 1, width=32),
    name=st.text(max_size=20) | st.just("bad \udcff byte\n\\"),
    where=st.none() | st.tuples(*[st.floats(-1e7, 1e7).filter(lambda v: v != 0)] * 6),
    frame_number=st.none() | st.integers(0, 10**7),
    time=st.none() | st.floats(0, 1e6),
)
def test_a_record_comes_back_bit_by_bit(tmp_path_factory, xyxy, score, name, where, frame_number, time):
    path = tmp_path_factory.mktemp("journal") / "records.jsonl"
    n = len(xyxy)
    found = Detections(xyxy, np.full(n, score, np.float32), np.arange(n))
    georeference = None if where is None else Georeference("EPSG:32633", where)
    one = Record(name, (123, 45678), found, georeference, frame_number, time)
    write(path, [one])
    records, journal = read(path)
    journal.close()
    assert len(records) == 1
    assert_same(one, records[0])


def test_a_journal_cut_at_any_byte_holds_its_whole_lines_and_goes_on(tmp_path):
    path = tmp_path / "records.jsonl"
    originals = [record(i) for i in range(3)]
    write(path, originals)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 4
    for cut in {*range(0, len(whole), 7), *ends, *(end - 1 for end in ends), *(end + 1 for end in ends[:-1])}:
        path.write_bytes(whole[:cut])
        records, journal = read(path)
        kept = max(0, sum(end <= cut for end in ends) - 1)
        assert len(records) == kept
        if not journal.is_open:  # cut in its first line: nothing was finished
            assert cut < ends[0]
            journal.begin()
        for one in originals[len(records) :]:
            journal.append(one)
        journal.close()
        assert path.read_bytes() == whole


def test_done_tells_images_and_frames(tmp_path):
    path = tmp_path / "records.jsonl"
    journal = make(path)
    journal.begin()
    for one in (record(0), frame(0), frame(1), frame(5), frame(2, "clips/b.mp4")):
        journal.append(one)
    journal.finish("clips/b.mp4")
    journal.close()
    done = make(path).resume(lambda _: None)
    assert done.has("scenes/000.tif")
    assert not done.has("scenes/001.tif")
    assert done.has("clips/boat.mp4", 5)
    assert done.has("clips/boat.mp4", 3)  # dropped, and never to come again
    assert not done.has("clips/boat.mp4", 6)
    assert not done.has("clips/boat.mp4")
    assert done.has("clips/b.mp4")
    assert done.has("clips/b.mp4", 9)


def test_frames_of_an_unfinished_video_are_dropped_where_it_is_drawn(tmp_path):
    path = tmp_path / "records.jsonl"
    formats = ("csv", "video")
    journal = make(path, formats=formats)
    journal.begin()
    for one in (record(0), frame(0, "a.mp4"), frame(1, "a.mp4")):
        journal.append(one)
    journal.finish("a.mp4")
    for one in (frame(0, "b.mp4"), frame(1, "b.mp4")):
        journal.append(one)
    journal.close()
    for _ in range(2):  # the second time there is nothing left to drop
        records, journal = read(path, formats=formats)
        assert [(r.name, r.frame_number) for r in records] == [("scenes/000.tif", None), ("a.mp4", 0), ("a.mp4", 1)]
        journal.close()
    assert b"b.mp4" not in path.read_bytes()
    assert not (tmp_path / "records.jsonl.part").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"info": {**INFO, "score": 0.3}}, r"was written with score 0\.25, this run has 0\.3; use the settings"),
        ({"info": {**INFO, "iou": 0.5}}, r"with iou none, this run has 0\.5"),
        ({"names": ["ship"]}, r"class names ship, storage tank.*this run has ship"),
        ({"formats": ["csv", "overlay"]}, "written without overlay.*leave overlay out"),
        ({"formats": ["video"]}, "written without video"),
    ],
)
def test_another_run_is_refused_and_its_journal_untouched(tmp_path, change, told):
    path = tmp_path / "records.jsonl"
    write(path, [record(0)])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=told) as caught:
        read(path, **change)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    _, journal = read(path)  # free again
    journal.close()


def test_tuples_in_the_settings_are_the_lists_that_they_are_read_back_as(tmp_path):
    path = tmp_path / "records.jsonl"
    write(path, [record(0)], info={**INFO, "tile_hw": (512, 512)})
    records, journal = read(path)
    journal.close()
    assert len(records) == 1


def test_formats_that_are_made_from_the_journal_may_change(tmp_path):
    path = tmp_path / "records.jsonl"
    write(path, [record(0), record(1)], formats=("csv", "overlay"))
    records, journal = read(path, formats=("coco",))
    assert len(records) == 2
    journal.append(record(2))
    journal.close()
    assert json.loads(path.read_bytes().splitlines()[0])["formats"] == ["coco"]
    with pytest.raises(ValueError, match="without overlay"):  # the last record has no picture
        read(path, formats=("coco", "overlay"))


@pytest.mark.parametrize("line", [0, 1])
def test_damage_in_the_middle_is_told_with_its_line(tmp_path, line):
    path = tmp_path / "records.jsonl"
    write(path, [record(0), record(1)])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = b"{" + lines[line][10:]
    path.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=rf"line {line + 1} is damaged; choose another output folder"):
        read(path)


def test_a_journal_of_another_version_is_told(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"journal": 9, "info": {}}\n')
    with pytest.raises(ValueError, match="a journal of version 9, this rsedge goes on with 2"):
        read(path)


HOLD = """
import sys
from pathlib import Path
from deploy.journal import Journal
journal = Journal(Path(sys.argv[1]), {}, [], [])
journal.begin()
print("ready", flush=True)
sys.stdin.read()
"""


def test_two_processes_cannot_write_one_journal(tmp_path):
    path = tmp_path / "records.jsonl"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        journal = Journal(path, {}, [], [])
        for attempt in (journal.begin, journal.check_free, lambda: journal.resume(lambda _: None)):
            with pytest.raises(OSError, match="another run is writing into this folder; wait for its end"):
                attempt()
        other.kill()
        other.wait()
    journal.begin()
    journal.close()


FULL = """
import resource, signal, sys
from pathlib import Path
from deploy.journal import Journal
from tests.deploy.drawn_records import NAMES, record
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]), {}, NAMES, [])
journal.begin()
resource.setrlimit(resource.RLIMIT_FSIZE, (2500, resource.RLIM_INFINITY))
for i in range(100):
    try:
        journal.append(record(i))
    except OSError as error:
        print(i, error.errno, error.strerror)
        break
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append(record(i))
"""


def test_a_refused_line_leaves_the_journal_as_it_was(tmp_path):
    path = tmp_path / "records.jsonl"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    i, code, told = done.stdout.strip().split(" ", 2)
    assert (int(code), told) == (errno.EFBIG, f"{path}: cannot be written (File too large)")
    records, journal = read(path, info={}, formats=())
    journal.close()
    assert [r.name for r in records] == [record(k).name for k in range(int(i) + 1)]
    for k, one in enumerate(records):
        assert_same(replace(record(k), image=None), one)
