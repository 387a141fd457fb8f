"""The doctor's trial of the NPU: on a board only, in a child process, against a stand-in of the vendor's library."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deploy.doctor_machine import Finding, Machine
from deploy.doctor_transfers import check_transfers, compare_in_a_child
from deploy.manifest import load_manifest
from tests.deploy import boards
from tests.deploy import fake_npu as npu
from tests.deploy.boards import found_on, plant

ZOO = Path(__file__).resolve().parents[2] / "deploy" / "zoo" / "procedural"


class Board(Machine):
    """A machine that says it is a live board."""

    live = True
    is_board = True


BOARD = Board(Path("/"))


def never(bundle: Path) -> bool:
    raise AssertionError("nothing was to be run")


def test_on_a_board_both_answers_count() -> None:
    agree = check_transfers(BOARD, ZOO, compare=lambda bundle: bundle == ZOO)
    assert (agree.level, agree.told) == ("ok", "all ways to move data to and from the NPU give the same, bit for bit")
    differ = check_transfers(BOARD, ZOO, compare=lambda bundle: False)
    assert differ.level == "error"
    assert "--backend rknn-lite" in differ.cure


def test_what_keeps_it_from_an_answer_is_a_warning() -> None:
    def refused(bundle: Path) -> bool:
        raise OSError("rknn_init: failed")

    found = check_transfers(BOARD, ZOO, compare=refused)
    assert (found.level, found.told) == ("warning", "could not be compared (rknn_init: failed)")
    assert f"rsedge detect {ZOO} IMAGE" in found.cure


def test_elsewhere_the_reason_is_told(tmp_path: Path) -> None:
    host = Machine(Path("/"), {})
    assert check_transfers(host, ZOO, compare=never).told == "not compared: no NPU here"
    captured = Machine(plant(boards.healthy_board(), tmp_path / "board"), {})
    assert check_transfers(captured, ZOO, compare=never).told == "not compared: a capture has no NPU"
    errors = [Finding("NPU device", "error", "closed", "open it")]
    assert check_transfers(BOARD, ZOO, errors, never).told == "not compared: the errors above come first"
    shutil.copytree(ZOO, tmp_path / "onnx")
    manifest = load_manifest(ZOO)
    files = {role: file for role, file in manifest.files.items() if role == "onnx"}
    manifest.model_copy(update={"files": files}).save(tmp_path / "onnx")
    assert check_transfers(BOARD, tmp_path / "onnx", (), never).told == "not compared: the bundle holds no .rknn"


def test_without_a_bundle_there_is_no_line(tmp_path: Path) -> None:
    assert "transfers" not in found_on(boards.host(), tmp_path / "a")
    assert found_on(boards.host(), tmp_path / "b", ZOO)["transfers"].level == "ok"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return npu.compile_library(tmp_path_factory.mktemp("runtime"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    model = npu.write_model(tmp_path / "model.rknn", npu.outputs())
    npu.manifest_of(model, npu.outputs()).save(tmp_path)
    return tmp_path


def test_a_child_compares_with_the_vendors_interface(library: Path, bundle: Path) -> None:
    assert compare_in_a_child(bundle, library=library) is True


def test_a_child_that_fails_says_why(library: Path, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"none\.so cannot be loaded"):
        compare_in_a_child(bundle, library=tmp_path / "none.so")
    (bundle / "model.rknn").write_text("no model\n")
    with pytest.raises(OSError, match="rknn_init") as caught:
        compare_in_a_child(bundle, library=library)
    assert "Traceback" not in str(caught.value)
    with pytest.raises(OSError, match=r"no answer within 0\.01 s"):
        compare_in_a_child(bundle, library=library, timeout_s=0.01)


def test_a_child_that_crashes_is_told(bundle: Path, tmp_path: Path, library: Path, monkeypatch) -> None:
    monkeypatch.setattr("deploy.doctor_transfers._PROGRAM", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(OSError, match="the runtime ended its process by SIGSEGV"):
        compare_in_a_child(bundle, library=library)
