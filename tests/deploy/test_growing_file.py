"""Documents that grow: equal to a document written at once, valid at any moment, whole or untouched on a full disk."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.growing_file import GrowingDocument

PIECES = ('{"first": [\n', '\n], "ä": 1, "second": [\n', "\n]}\n")


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from(["", "publish", "spill"]))))
def test_any_mix_of_steps_gives_the_whole_document(steps, tmp_path_factory):
    path = tmp_path_factory.mktemp("doc") / "d.json"
    document = GrowingDocument(path, PIECES)
    first, second = [], []
    for a, b, then in steps:
        new_first = [f"a{len(first) + i}" for i in range(a)]
        new_second = [f"b{len(second) + i}ß" for i in range(b)]
        first += new_first
        second += new_second
        document.append([json.dumps(v) for v in new_first], [json.dumps(v, ensure_ascii=False) for v in new_second])
        if then == "publish":
            document.publish()
            assert json.loads(path.read_bytes()) == {"first": first, "ä": 1, "second": second}
        elif then == "spill":
            document._write(publish=False)
    document.publish()
    document.close()
    assert json.loads(path.read_bytes()) == {"first": first, "ä": 1, "second": second}
    assert (
        path.read_text("utf-8")
        == PIECES[0]
        + ",\n".join(json.dumps(v) for v in first)
        + PIECES[1]
        + ",\n".join(json.dumps(v, ensure_ascii=False) for v in second)
        + PIECES[2]
    )
    assert [p.name for p in path.parent.iterdir()] == ["d.json"]


def test_what_is_spilled_has_no_name_until_it_is_published(tmp_path):
    path = tmp_path / "d.json"
    path.write_text("earlier")
    document = GrowingDocument(path, ("[", "]"))
    for i in range(40):
        document.append([json.dumps("x" * (1 << 20)), str(i)])
        document.spill()
    assert path.read_text() == "earlier"
    assert document._pending_bytes <= 33 << 20
    document.publish()
    assert json.loads(path.read_text())[1::2] == list(range(40))


def test_a_reader_never_sees_half_a_document_and_pairs_stay_together(tmp_path):
    path = tmp_path / "d.json"
    document = GrowingDocument(path, PIECES)
    document.publish()
    stop = threading.Event()
    failures = []

    def publish():
        while not stop.is_set():
            document.publish()

    thread = threading.Thread(target=publish)
    thread.start()
    seen = 0
    try:
        for i in range(400):
            document.append([str(i)], [str(-i), str(-i)])
            if i % 4 == 0:
                content = json.loads(path.read_bytes())
                n = len(content["first"])
                if n < seen or content["first"] != list(range(n)) or len(content["second"]) != 2 * n:
                    failures.append(i)
                seen = n
    finally:
        stop.set()
        thread.join()
    document.publish()
    assert failures == []
    assert json.loads(path.read_bytes())["first"] == list(range(400))


ROOT = Path(__file__).resolve().parents[2]

FULL = """
import json, resource, signal, sys
from pathlib import Path
from deploy.growing_file import GrowingDocument
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
document = GrowingDocument(path, ("[", "]"))
document.append(["1", "2"])
document.publish()
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
document.append(['"' + "x" * 9000 + '"'])
try:
    document.publish()
except OSError as error:
    print(error.errno, error.strerror)
print(json.loads(path.read_text()))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
document.append(["3"])
document.publish()
content = json.loads(path.read_text())
print(content[:2], len(content[2]), content[3:], [p.name for p in path.parent.iterdir()])
"""


def test_a_refused_write_leaves_the_old_document_and_loses_nothing(tmp_path):
    path = tmp_path / "d.json"
    command = [sys.executable, "-c", FULL, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told, old, new = done.stdout.splitlines()
    assert told == f"{errno.EFBIG} {path}: cannot be written (File too large)"
    assert old == "[1, 2]"
    assert new == "[1, 2] 9000 [3] ['d.json']"


def test_a_folder_in_the_way_is_told(tmp_path):
    (tmp_path / "d.json").mkdir()
    document = GrowingDocument(tmp_path / "d.json", ("[", "]"))
    with pytest.raises(OSError, match=r"d\.json: cannot be written \(Is a directory\)"):
        document.publish()
