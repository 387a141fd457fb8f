"""Contexts in child processes: the parent opens no backend and loads no runtime; children outlive a stream."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.backends import opening
from deploy.backends.availability import BackendReport
from deploy.decoding import decoder_of
from deploy.detector import Detector, open_detector
from deploy.manifest import ModelFile, load_manifest, sha256_of
from tests.deploy import fake_npu
from tests.deploy.bright_cells import MANIFEST, cell_of, frame, threads_now
from tests.deploy.noted_opener import NotedOpener
from tests.deploy.test_availability import bundle_of

ROOT = Path(__file__).parents[2]
PROCEDURAL = ROOT / "deploy/zoo/procedural"


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def ended(pids, within_s=8.0):
    deadline = time.monotonic() + within_s
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


def test_children_stay_for_the_next_stream_and_the_parent_opens_nothing(tmp_path):
    opener, seen = NotedOpener(tmp_path / "pids"), []
    with Detector(None, MANIFEST, open_backend=opener, cores=(0, 1), workers="processes") as detector:
        assert opener.pids == [], "not before they are needed"
        assert [len(found) for found in detector.detect([frame(3).image, frame(4).image])] == [1, 1]
        for _ in range(3):
            found = list(detector.stream(map(frame, range(12)), on_start=seen.append))
            assert [cell_of(r) for r in found] == list(range(12))
        abandoned = detector.stream(map(frame, range(50)))
        next(abandoned)
        abandoned.close()
        assert detector.backend.name == "emulated"
        assert len(opener.pids) == 2
        assert os.getpid() not in opener.pids

        # Another decoder travels to the children that are open.
        detector.postprocessor = decoder_of(MANIFEST, score_threshold=0.99)
        assert [len(r.detections) for r in detector.stream(map(frame, range(4)))] == [0] * 4
        detector.postprocessor = decoder_of(MANIFEST)
        assert [cell_of(r) for r in detector.stream(map(frame, range(4)))] == list(range(4))

        # One that dies between two streams is replaced by the next one, which loses nothing.
        victim = opener.pids[0]
        os.kill(victim, signal.SIGKILL)
        assert ended([victim])
        found = list(detector.stream(map(frame, range(30)), on_start=seen.append))
        assert [(cell_of(r), r.error) for r in found] == [(n, None) for n in range(30)]
        deadline = time.monotonic() + 10
        while seen[-1].reopened == 0 and time.monotonic() < deadline:
            time.sleep(0.02)  # the other child may have done it all meanwhile
        assert seen[-1].reopened == 1
        assert len(opener.pids) == 3
    assert ended(opener.pids, 1.0)
    assert threads_now() == set()


def test_children_end_when_nobody_holds_the_detector_any_more(tmp_path):
    opener = NotedOpener(tmp_path / "pids")
    detector = Detector(None, MANIFEST, open_backend=opener, workers="processes")
    detector.prepare()
    assert alive(opener.pids[0])
    del detector
    gc.collect()
    assert ended(opener.pids)


LOADS_NOTHING = """
import sys
from pathlib import Path
from deploy.detector import open_detector
from deploy.frames import Frame

def loaded():
    maps = Path("/proc/self/maps").read_text()
    return [name for name in ("onnxruntime", "librknnrt", "rknnlite") if name in maps or name in sys.modules]

bundle, kind, images = Path(sys.argv[1]), sys.argv[2], __import__(sys.argv[3], fromlist=["x"]).images(4)
with open_detector(bundle, kind, workers="processes", contexts_per_core=1, score_threshold=0.3) as detector:
    name = detector.backend.name
    frames = [Frame(i, str(i), image) for i, image in enumerate(images)]
    apart = [[r.detections for r in detector.stream(frames)] for _ in range(2)] + [detector.detect(images)]
    assert loaded() == [], loaded()
with open_detector(bundle, kind, contexts_per_core=1, score_threshold=0.3) as detector:
    here = detector.detect(images)
    assert loaded(), "the check looks for the right thing"
for found in apart:
    assert all((a.xyxy == b.xyxy).all() and (a.score == b.score).all() for a, b in zip(found, here, strict=True))
print(name, sum(len(found) for found in here))
"""


def run_apart(bundle, kind, images, **environment):
    done = subprocess.run(
        [sys.executable, "-c", LOADS_NOTHING, str(bundle), kind, images],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name, boxes = done.stdout.split()
    assert int(boxes) > 0
    return name


def test_the_parent_loads_no_onnx_runtime():
    assert run_apart(PROCEDURAL, "auto", "tests.deploy.drawn_images") == "onnx"


def test_the_parent_loads_no_vendor_library(tmp_path):
    library = fake_npu.compile_library(tmp_path)
    bundle, manifest = bundle_of(tmp_path / "bundle")
    model = ModelFile(name="model.rknn", sha256=sha256_of(bundle / "model.rknn"))
    manifest.model_copy(update={"files": {"rknn": model}}).save(bundle)
    search = f"{library.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    assert run_apart(bundle, "rknn-capi", "tests.deploy.fake_npu", LD_LIBRARY_PATH=search) == "rknn-capi"


def test_auto_goes_on_to_the_next_kind_when_a_child_cannot_open_one(monkeypatch):
    """The availability check lets the NPU pass here; its library is not there, which only the child notices."""
    reports = [BackendReport(kind, True, "") for kind in ("rknn-capi", "rknn-lite", "onnx")]
    monkeypatch.setattr(opening, "explain_backends", lambda *_: reports)
    tried = []

    def opened(kind):
        tried.append(kind)
        if kind != "onnx":
            raise OSError(f"{kind}: no library")
        return kind

    manifest = load_manifest(PROCEDURAL)
    assert opening.open_as(PROCEDURAL, manifest, "auto", opened) == "onnx"
    assert tried == ["rknn-capi", "rknn-lite", "onnx"]
    assert opening.open_as(PROCEDURAL, manifest, "emulated", lambda kind: kind) == "emulated"
    with pytest.raises(ValueError, match="backend must be one of auto, rknn-capi"):
        open_detector(PROCEDURAL, "rkn", workers="processes")


@dataclass
class Crashing:
    """An opener as a vendor library that takes its process along."""

    how: int

    def __call__(self, core):
        os.kill(os.getpid(), self.how)


@dataclass
class Fatal:
    """An opener that ends its process as it is unpickled."""

    def __call__(self, core):
        raise AssertionError

    def __reduce__(self):
        return os._exit, (3,)  # as the child reads it


def test_a_child_that_crashes_while_it_opens_is_told_at_once():
    for opener, how in ((Crashing(signal.SIGSEGV), "SIGSEGV"), (Fatal(), "exit code 3")):
        detector = Detector(None, MANIFEST, open_backend=opener, workers="processes")
        begin = time.monotonic()
        with pytest.raises(OSError, match=rf"the process of core 0 died \({how}\) while it opened its backend"):
            detector.prepare()
        assert time.monotonic() - begin < 30, "not the patience of an opening"
    assert threads_now() == set()


def test_what_a_child_cannot_open_is_told_when_the_detector_is_opened(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    model = ModelFile(name="model.onnx", sha256=sha256_of(tmp_path / "model.onnx"))
    load_manifest(PROCEDURAL).model_copy(update={"files": {"onnx": model}}).save(tmp_path)
    with pytest.raises(ValueError, match=r"model\.onnx cannot be loaded by ONNX Runtime") as told:
        open_detector(tmp_path, "onnx", workers="processes")
    assert "\n" not in str(told.value)
    assert threads_now() == set()
    assert multiprocessing.active_children() == []
