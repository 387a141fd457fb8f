"""Which backends work here and why the others do not, on captured machines; what "auto" makes of it."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deploy.backends import availability, opening, rknn_abi
from deploy.backends.availability import BackendReport, explain_backends
from deploy.backends.opening import KINDS, open_backend
from deploy.detector import open_detector
from deploy.frames import Frame
from deploy.manifest import Manifest, ModelFile, sha256_of
from tests.deploy import boards, fake_npu, fake_rknnlite

ALL = ["rknn-capi", "rknn-lite", "onnx", "emulated", "rknn-sim"]


def bundle_of(folder: Path, **change: object) -> tuple[Path, Manifest]:
    """Write a bundle with an .rknn for the C stand-in and an .onnx that is there; returns it and its manifest."""
    folder.mkdir()
    model = fake_npu.write_model(folder / "model.rknn", fake_npu.outputs())
    (folder / "model.onnx").write_bytes(b"onnx")
    files = {
        "rknn": ModelFile(name=model.name, sha256="0" * 64),
        "onnx": ModelFile(name="model.onnx", sha256="0" * 64),
    }
    return folder, fake_npu.manifest_of(model, fake_npu.outputs(), **{"files": files, **change})


def explained(tree: boards.Tree, tmp_path: Path, **change: object) -> dict[str, BackendReport]:
    bundle, manifest = bundle_of(tmp_path / "bundle", **change)
    reports = explain_backends(bundle, manifest, root=boards.plant(tree, tmp_path / "root"), environ={})
    assert [report.kind for report in reports] == ALL
    assert all(report.reason and "\n" not in report.reason for report in reports)
    return {report.kind: report for report in reports}


def test_every_kind_is_explained() -> None:
    assert sorted(["auto", *ALL]) == sorted(KINDS)


def test_on_a_healthy_board_everything_works_but_the_simulator(tmp_path: Path) -> None:
    reports = explained(boards.healthy_board(), tmp_path)
    assert [kind for kind in ALL if not reports[kind].usable] == ["rknn-sim"]
    assert reports["rknn-capi"].reason == "librknnrt.so 2.5.0 in /usr/lib, rknpu driver 0.9.8"
    assert reports["rknn-lite"].reason == f"rknn-toolkit-lite2 2.5.0, {reports['rknn-capi'].reason}"
    assert reports["onnx"].reason == "ONNX Runtime 1.22.0 on the CPU"


OBSTACLES: list[tuple[str, Callable[[], boards.Tree], dict, str]] = [
    ("mainline kernel", boards.mainline_board, {}, "rocket, mainline's: the vendor's runtime does not speak to it"),
    ("host", boards.host, {}, r"no Rockchip NPU here \(x86_64\); the .rknn needs a board with a rk3588"),
    ("raspberry", boards.raspberry, {}, r"no Rockchip NPU here \(aarch64\)"),
    (
        "container",
        boards.container,
        {},
        "^chip: a container that hides the device tree, on kernel .*start the container with --device /dev/dri",
    ),
    (
        "no library",
        lambda: boards.without(boards.healthy_board(), "usr/lib/librknnrt"),
        {},
        r"runtime library: no librknnrt\.so; copy",
    ),
    (
        "library for x86",
        lambda: boards.healthy_board() | {"usr/lib/librknnrt.so": boards.library("2.5.0", machine=62)},
        {},
        "is no library for aarch64",
    ),
    ("no device", lambda: boards.without(boards.healthy_board(), "dev/dri"), {}, "NPU device: none in /dev"),
    ("old runtime", boards.old_driver, {}, r"made by toolkit 2\.5\.0, newer than the runtime's 1\.4\.0; bring"),
    ("another chip's model", boards.healthy_board, {"target": "rk3568"}, "compiled for rk3568, this is a rk3588"),
]


@pytest.mark.parametrize(("tree", "change", "reason"), [case[1:] for case in OBSTACLES], ids=[c[0] for c in OBSTACLES])
def test_what_keeps_both_backends_off_the_npu(tree, change, reason, tmp_path: Path) -> None:
    reports = explained(tree(), tmp_path, **change)
    for kind in ("rknn-capi", "rknn-lite"):
        assert not reports[kind].usable
        assert re.search(reason, reports[kind].reason), reports[kind].reason
        assert "; " in reports[kind].reason  # the cure
    assert reports["onnx"].usable
    assert reports["emulated"].usable


def test_what_keeps_the_wrapper_alone(tmp_path: Path) -> None:
    tree = boards.without(boards.healthy_board(), "usr/lib/python3/dist-packages/rknn_toolkit_lite2")
    reports = explained(tree, tmp_path)
    assert reports["rknn-capi"].usable
    assert reports["rknn-lite"] == BackendReport(
        "rknn-lite",
        False,
        'the vendor\'s wrapper rknn-toolkit-lite2 is not installed; pip install ".[board]" in the clone',
    )
    elsewhere = boards.without(boards.healthy_board(), "usr/lib/librknnrt") | {
        "usr/local/lib/librknnrt.so": boards.library("2.5.0")
    }
    bundle, manifest = bundle_of(tmp_path / "second")
    root = boards.plant(elsewhere, tmp_path / "elsewhere")
    found = {report.kind: report for report in explain_backends(bundle, manifest, root=root, environ={})}
    assert found["rknn-capi"].usable
    assert not found["rknn-lite"].usable
    assert found["rknn-lite"].reason.endswith("sudo ln -s /usr/local/lib/librknnrt.so /usr/lib/librknnrt.so")


def test_what_a_bundle_lacks(tmp_path: Path) -> None:
    bundle, manifest = bundle_of(tmp_path / "bundle")
    root = boards.plant(boards.healthy_board(), tmp_path / "root")

    def reason(kind: str, manifest: Manifest) -> str:
        report = next(r for r in explain_backends(bundle, manifest, root=root, environ={}) if r.kind == kind)
        assert not report.usable
        return report.reason

    only = {role: manifest.model_copy(update={"files": {role: manifest.files[role]}}) for role in manifest.files}
    assert reason("rknn-capi", only["onnx"]).endswith("holds no rknn file (it has: onnx); export it with its .rknn")
    assert "holds no onnx file (it has: rknn); export the bundle again" in reason("onnx", only["rknn"])
    assert "holds no onnx file" in reason("emulated", only["rknn"])
    (bundle / "model.rknn").unlink()
    (bundle / "model.onnx").unlink()
    for kind in ("rknn-capi", "rknn-lite", "onnx"):
        assert "is missing; copy the whole bundle again" in reason(kind, manifest)
    unequipped = boards.plant(boards.without(boards.healthy_board(), "usr/lib/python3"), tmp_path / "bare")
    (bundle / "model.onnx").write_bytes(b"onnx")
    found = {r.kind: r for r in explain_backends(bundle, manifest, root=unequipped, environ={})}
    assert found["onnx"].reason == "onnxruntime is not installed; pip install onnxruntime"


def test_this_machine_is_explained_without_opening_anything(tmp_path: Path) -> None:
    bundle, manifest = bundle_of(tmp_path / "bundle")
    onnx = next(report for report in explain_backends(bundle, manifest) if report.kind == "onnx")
    assert onnx.usable  # the file is no model, which nobody looked at
    assert onnx.reason.startswith("ONNX Runtime 1.")


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Make this machine pass for a healthy board, with the C stand-in as its runtime, and yield a bundle for it."""
    library = fake_npu.compile_library(tmp_path)
    bundle, manifest = bundle_of(tmp_path / "bundle")
    root = boards.plant(boards.healthy_board(), tmp_path / "root")
    captured = explain_backends(bundle, manifest, root=root, environ={})
    monkeypatch.setattr(opening, "explain_backends", lambda *_: captured)
    monkeypatch.setattr(opening, "on_a_board", lambda: True)
    monkeypatch.setattr(rknn_abi, "LIBRARY", str(library))
    vendor = fake_rknnlite.install(monkeypatch)
    return bundle, manifest, fake_npu.Control(library), vendor


def test_auto_takes_the_npus_own_integers_first(board, caplog: pytest.LogCaptureFixture) -> None:
    bundle, manifest, control, _ = board
    backend = open_backend(bundle, manifest, core=2)
    assert backend.name == "rknn-capi"
    assert "rknn_set_core_mask 4" in control.calls
    batch = fake_npu.images(1)
    for got, want in zip(backend.infer(batch), fake_npu.expected(batch, fake_npu.outputs()), strict=True):
        np.testing.assert_array_equal(got, want)
    backend.close()
    assert control.left() == (0, 0, 0, 0)
    assert not caplog.records


def test_auto_goes_on_where_a_runtime_fails_and_says_so(board, caplog: pytest.LogCaptureFixture) -> None:
    bundle, manifest, control, vendor = board
    control.fail("rknn_init", -3)
    backend = open_backend(bundle, manifest, core=1)
    assert backend.name == "rknn-lite"
    assert ("init_runtime", None, 2) in vendor.calls
    backend.close()
    assert [(record.name, record.levelno) for record in caplog.records] == [("rsedge.backends", logging.WARNING)]
    assert "not on the NPU through rknn-capi: " in caplog.text
    assert "RKNN_ERR_DEVICE_UNAVAILABLE (-3), the NPU cannot be opened" in caplog.text
    vendor.answers = {"init_runtime": -1}
    with pytest.raises(ValueError, match="cannot be loaded by ONNX Runtime"):  # its own error, as the last resort
        open_backend(bundle, manifest)
    assert "not on the NPU through rknn-lite: " in caplog.text


def test_auto_does_not_go_on_where_the_model_is_not_the_manifests(board) -> None:
    # Another runtime might not notice: the wrapper cannot see a scale.
    bundle, manifest, _, vendor = board
    changed = [fake_npu.Output(o.name, o.hw, o.channels, o.scale * 2, o.zero_point) for o in fake_npu.outputs()]
    fake_npu.write_model(bundle / "model.rknn", changed)
    with pytest.raises(ValueError, match="must have scale"):
        open_backend(bundle, manifest)
    assert vendor.calls == []


@pytest.mark.parametrize("kind", ["rknn-capi", "rknn-lite"])
def test_kinds_by_name(kind: str, board) -> None:
    bundle, manifest, _, _ = board
    backend = open_backend(bundle, manifest, kind, core=0)
    assert backend.name == kind
    backend.close()
    backend.close()
    no_rknn = manifest.model_copy(update={"files": {"onnx": manifest.files["onnx"]}})
    with pytest.raises(ValueError, match=r"holds no rknn file \(it has: onnx\); export the bundle again with its rknn"):
        open_backend(bundle, no_rknn, kind)


def test_nothing_that_opens_is_told_in_one_line(board, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, manifest, _, _ = board
    reports = [BackendReport(kind, False, "no NPU") for kind in ("rknn-capi", "rknn-lite")]
    monkeypatch.setattr(opening, "explain_backends", lambda *_: [*reports, BackendReport("onnx", False, "no file")])
    with pytest.raises(ValueError, match=r"no backend opens .*: rknn-capi and rknn-lite: no NPU; onnx: no file$"):
        open_backend(bundle, manifest)


def test_a_core_that_is_none_is_no_reason_to_leave_the_npu(board) -> None:
    bundle, manifest, _, _ = board
    with pytest.raises(ValueError, match="core must be 0, 1 or 2, or None for any, got 7"):
        open_backend(bundle, manifest, core=7)


def test_contexts_open_in_many_threads_at_once(board) -> None:
    bundle, manifest, control, _ = board
    opened: list = []
    threads = [
        threading.Thread(target=lambda n=n: opened.append(open_backend(bundle, manifest, "rknn-capi", core=n % 3)))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 6
    assert control.count("rknn_init") == 6
    for backend in opened:
        backend.close()
    assert control.left() == (0, 0, 0, 0)


def test_on_a_board_is_read_from_the_machine(tmp_path: Path) -> None:
    assert availability.on_a_board(boards.plant(boards.mainline_board(), tmp_path / "a"), {})
    assert not availability.on_a_board(boards.plant(boards.host(), tmp_path / "b"), {})


def test_a_stream_over_six_contexts_finds_what_one_finds(board) -> None:
    bundle, manifest, control, _ = board
    manifest.model_copy(
        update={
            "files": {
                role: ModelFile(name=file.name, sha256=sha256_of(bundle / file.name))
                for role, file in manifest.files.items()
            }
        }
    ).save(bundle)
    detector = open_detector(bundle, score_threshold=0.95)
    assert detector.backend.name == "rknn-capi"
    images = fake_npu.images(30)
    alone = [detector.detect([image])[0] for image in images]
    # One context breaks once: it is replaced, and its image is tried again.
    control.fail("rknn_run", -2, after=10, times=1)
    frames = [Frame(number, str(number), image) for number, image in enumerate(images)]
    results = list(detector.stream(frames))
    detector.close()
    assert [result.error for result in results] == [None] * 30
    for result, want in zip(results, alone, strict=True):
        np.testing.assert_array_equal(result.detections.xyxy, want.xyxy)
    assert sum(len(found.score) for found in alone) > 1000
    assert sorted({line for line in control.calls if "core_mask" in line}) == [
        f"rknn_set_core_mask {m}" for m in (1, 2, 4)
    ]
    assert control.count("rknn_init") == 1 + 6 + 1
    assert control.left() == (0, 0, 0, 0)
