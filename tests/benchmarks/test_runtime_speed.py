"""The load around the emulated NPU: what is bare, pooled latencies, and the soak with sinks and faults."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import pytest

from benchmarks import runtime_speed, soak
from benchmarks.runtime_speed import INPUT_HW, bare, measure, offered
from deploy.backends.emulated_npu import EmulatedNpu, recorded
from deploy.detections import Detections
from deploy.feeder import SWITCH_S
from deploy.frames import Frame, Result


def drawn_npu(**options):
    layout = runtime_speed.HeadLayout.from_manifest(runtime_speed.manifest_of())
    heads = runtime_speed.draw_heads(layout, runtime_speed.OBJECTS, 1, np.random.default_rng(1))
    return EmulatedNpu(INPUT_HW, recorded(runtime_speed.quantise_heads(heads)), **options)


def test_bare_threads_have_the_runtimes_switch_interval():
    seen = set()

    def wait(seconds):
        seen.add(sys.getswitchinterval())
        time.sleep(seconds)

    before = sys.getswitchinterval()
    npu = drawn_npu(latency_ms=5.0, wait=wait)
    rate = bare(npu, 0.3)
    assert len(seen) == 1
    assert seen.pop() == pytest.approx(SWITCH_S, rel=0.01)
    assert sys.getswitchinterval() == before
    assert 200 < rate <= 600.5
    assert npu.load.overlaps == 0
    assert all(npu.load.calls)


def test_each_offered_frame_counts_from_when_it_was_due():
    late = offered(drawn_npu(), 12, 60)
    assert len(late) == 12
    assert min(late) >= 7.91


def test_latencies_are_pooled_over_rounds(monkeypatch):
    monkeypatch.setattr(runtime_speed, "OFFERED_FRAMES", 25)
    monkeypatch.setattr(runtime_speed, "OFFERED_PER_S", 100)
    found = measure(2, 0.15)
    assert found["offered_frames"] == 26
    assert found["offered_p50_ms"] <= found["offered_p99_ms"] <= found["offered_worst_ms"]
    assert found["of_bare"]["bare"] == 1.0
    low, high = found["of_bare_range"]["saturation"]
    assert low <= found["of_bare"]["saturation"] <= high


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--seconds", "0"]])
def test_wrong_numbers_are_refused(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["runtime_speed", *words])
    with pytest.raises(SystemExit):
        runtime_speed.main()
    assert "must be above 0" in capsys.readouterr().err


def test_a_soak_with_sinks_and_faults(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(soak, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(soak, "HANG_S", 0.4)
    monkeypatch.setattr(soak, "HANGS", 20)
    words = ["--frames", "1500", "--sinks", "csv,coco", "--faults", "0.02", "--json", str(tmp_path / "soak.json")]
    assert soak.main(words) == 0
    document = json.loads((tmp_path / "soak.json").read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == document
    # 2 % of 1500 calls is 30, a twentieth of it 1.5; four standard deviations around.
    assert 8 <= document["failed"] <= 52
    assert document["hung"] <= 8
    written = 1500 - document["failed"] - document["hung"]
    assert document["written"] == {"journal": written, "csv": written, "coco": written}
    assert document["two_threads_in_one_context"] == 0
    assert len(document["resident_mb"]) == 20


def test_a_soak_without_either():
    found = soak.measure(300)
    assert (found["failed"], found["hung"], found["written"]) == (0, 0, None)


def test_the_soak_sees_what_is_wrong():
    def result(number, cell=None, error=None):
        x, y = (cell or 0) % soak.GRID * 8, (cell or 0) // soak.GRID * 8
        box = np.array([[x, y, x + 8, y + 8]], np.float32)
        found = Detections.empty() if cell is None else Detections(box, np.ones(1, np.float32), np.zeros(1, np.int32))
        return Result(Frame(number, "drawn", np.zeros((8, 8, 3), np.uint8)), found, error=error)

    told = {"failed": 0, "hung": 0}
    soak.check(result(70, 70 % 64), 70, told, False)
    with pytest.raises(ValueError, match="frame 4 was wanted, 5 came"):
        soak.check(result(5, 5), 4, told, False)
    with pytest.raises(ValueError, match="frame 5 has the boxes of another one"):
        soak.check(result(5, 6), 5, told, False)
    with pytest.raises(ValueError, match="frame 5 failed: emulated fault"):
        soak.check(result(5, error=RuntimeError("emulated fault on core 1")), 5, told, False)
    with pytest.raises(ValueError, match="frame 5 failed: something else"):
        soak.check(result(5, error=RuntimeError("something else")), 5, told, True)
    soak.check(result(5, error=RuntimeError("emulated fault on core 1")), 5, told, True)
    soak.check(result(6, error=TimeoutError("no answer from core 2 within 1 s")), 6, told, True)
    assert told == {"failed": 1, "hung": 1}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--frames", "0"], "--frames must be at least 1"),
        (["--faults", "2"], "--faults must be a share from 0 to 0.5"),
        (["--sinks", "csv,gpkg"], "--sinks must be csv, coco or both, got 'gpkg'"),
    ],
)
def test_wrong_options_of_the_soak(words, told, capsys):
    with pytest.raises(SystemExit):
        soak.main(words)
    assert told in capsys.readouterr().err
