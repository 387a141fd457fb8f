"""The doctor and the NPU: device rights, the vendor's library and wheel, bundles."""

from __future__ import annotations

import grp
import shutil
from pathlib import Path

import pytest

from deploy.doctor import diagnose, examine
from deploy.doctor_machine import Finding, Machine
from deploy.manifest import load_manifest
from tests.deploy import boards
from tests.deploy.boards import Tree, found_on, library, not_ok, plant, wheel, without

ZOO = Path(__file__).resolve().parents[2] / "deploy" / "zoo" / "procedural"


# --- device rights ---------------------------------------------------------------------------------------------------


def closed(root: Path, *names: str) -> dict[str, Finding]:
    machine = Machine(root, {}, may_use=lambda node: node.name not in names)
    return {f.check: f for f in examine(machine)}


def test_a_closed_npu_names_the_group_or_a_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = plant(boards.healthy_board(), tmp_path)
    monkeypatch.setattr(Machine, "group_of", lambda self, node: "render")
    device = closed(root, "renderD129")["NPU device"]
    assert (device.level, device.told) == ("error", "/dev/dri/renderD129 is closed to this user")
    assert device.cure == "sudo usermod -aG render $USER, then log in again"
    monkeypatch.setattr(Machine, "group_of", lambda self, node: None)
    assert 'SUBSYSTEM=="drm", KERNEL=="renderD*", GROUP="render"' in closed(root, "renderD129")["NPU device"].cure


def test_the_group_comes_from_the_node(tmp_path: Path) -> None:
    node = tmp_path / "node"
    node.touch()
    gid = node.stat().st_gid
    assert Machine(tmp_path).group_of(node) == (None if gid == 0 else grp.getgrgid(gid).gr_name)
    assert Machine(tmp_path).group_of(tmp_path / "none") is None


@pytest.mark.parametrize("nodes", [{"dev/rknpu": ""}, {"dev/dri/by-path/platform-fdab0000.npu-render": ""}])
def test_older_builds_name_the_node_otherwise(tmp_path: Path, nodes: Tree) -> None:
    tree = without(boards.healthy_board(), "sys/class/drm", "dev/dri") | nodes
    device = found_on(tree, tmp_path)["NPU device"]
    assert device.level == "ok"
    assert f"/{next(iter(nodes))}" in device.told


def test_a_driver_without_a_node_points_at_the_log(tmp_path: Path) -> None:
    device = found_on(without(boards.healthy_board(), "dev/dri"), tmp_path)["NPU device"]
    assert device.level == "error"
    assert "the kernel has DRM devices" in device.told
    assert "dmesg" in device.cure


# --- the vendor's software -------------------------------------------------------------------------------------------


def test_a_missing_library_says_where_to_get_it(tmp_path: Path) -> None:
    found = found_on(without(boards.healthy_board(), "usr/lib/librknnrt.so"), tmp_path, ZOO)
    assert not_ok(found) == {"runtime library": "error"}
    assert "airockchip/rknn-toolkit2" in found["runtime library"].cure


@pytest.mark.parametrize(
    ("files", "level", "told"),
    [
        ({"usr/lib/librknnrt.so": library("2.5.0", machine=40)}, "error", "no library for aarch64"),
        ({"usr/lib/librknnrt.so": b""}, "error", "no library for aarch64"),
        ({"usr/lib/librknnrt.so": library("")}, "warning", "does not tell its version"),
        (
            {"usr/lib/aarch64-linux-gnu/librknnrt.so": library("2.3.2")},
            "warning",
            "another version in /usr/lib/aarch64",
        ),
        ({"usr/lib/aarch64-linux-gnu/librknnrt.so": library("2.5.0")}, "ok", "2.5.0 in /usr/lib"),
    ],
)
def test_libraries_that_are_not_right(tmp_path: Path, files: Tree, level: str, told: str) -> None:
    library_found = found_on(boards.healthy_board() | files, tmp_path)["runtime library"]
    assert library_found.level == level
    assert told in library_found.told


def test_a_library_elsewhere_needs_a_link_and_the_search_path_comes_first(tmp_path: Path) -> None:
    tree = without(boards.healthy_board(), "usr/lib/librknnrt.so") | {"opt/npu/librknnrt.so": library("2.5.0")}
    assert found_on(tree, tmp_path / "a")["runtime library"].level == "error"
    found = found_on(tree, tmp_path / "b", LD_LIBRARY_PATH="relative:/opt/npu")["runtime library"]
    assert (found.level, found.told) == ("warning", "librknnrt.so 2.5.0 in /opt/npu")
    assert "sudo ln -s /opt/npu/librknnrt.so /usr/lib/librknnrt.so" in found.cure


def test_the_version_is_found_anywhere_in_the_file(tmp_path: Path) -> None:
    big = (
        b"\x7fELF\x02" + bytes(13) + (183).to_bytes(2, "little") + bytes(3_000_000) + b"librknnrt version: 2.0.0b0 (x)"
    )
    found = found_on(boards.healthy_board() | {"usr/lib/librknnrt.so": big}, tmp_path)
    assert "librknnrt.so 2.0.0 in" in found["runtime library"].told
    assert found["wheel"].level == "warning"


def test_without_the_wheel_and_without_onnx_runtime(tmp_path: Path) -> None:
    tree = without(boards.healthy_board(), "usr/lib/python3/dist-packages/rknn", "usr/lib/python3/dist-packages/onnx")
    found = found_on(tree, tmp_path)
    assert not_ok(found) == {"wheel": "warning", "ONNX Runtime": "warning"}
    assert 'pip install ".[board]"' in found["wheel"].cure


def test_an_environment_comes_before_the_system(tmp_path: Path) -> None:
    tree = boards.healthy_board() | wheel("rknn_toolkit_lite2", "2.3.2", "home/me/venv/lib/python3.11/site-packages")
    assert "2.5.0" in found_on(tree, tmp_path)["wheel"].told
    mixed = found_on(tree, tmp_path, VIRTUAL_ENV="/home/me/venv")["wheel"]
    assert (mixed.level, mixed.told) == ("warning", "rknn-toolkit-lite2 2.3.2, but librknnrt.so is 2.5.0")


# --- bundles ---------------------------------------------------------------------------------------------------------


def bundle(folder: Path, **changes: object) -> Path:
    """Return a copy of a shipped bundle whose manifest says something else."""
    shutil.copytree(ZOO, folder)
    load_manifest(ZOO).model_copy(update=changes).save(folder)
    return folder


@pytest.mark.parametrize(
    ("toolkit", "level"), [("2.4.9", "ok"), ("2.5.0", "ok"), ("2.5.1", "error"), ("2.10.0", "error"), (None, "ok")]
)
def test_a_model_may_be_older_than_the_runtime_but_not_newer(tmp_path: Path, toolkit: str | None, level: str) -> None:
    model = bundle(tmp_path / "bundle", toolkit_version=toolkit)
    assert found_on(boards.healthy_board(), tmp_path / "root", model)["model"].level == level
    assert found_on(boards.host(), tmp_path / "host", model)["model"].level == "ok"


def test_a_bundle_for_another_chip_or_without_a_model_for_the_npu(tmp_path: Path) -> None:
    files = {role: file for role, file in load_manifest(ZOO).files.items() if role != "rknn"}
    onnx_only = bundle(tmp_path / "onnx", files=files)
    other = bundle(tmp_path / "other", target="rk3576")
    root = plant(boards.healthy_board(), tmp_path / "root")
    levels = [{f.check: f for f in diagnose(root, b, {})}["model"].level for b in (onnx_only, other)]
    assert levels == ["warning", "error"]


def test_a_broken_bundle_is_a_finding_with_its_cure(tmp_path: Path) -> None:
    root = plant(boards.healthy_board(), tmp_path / "root")
    missing = {f.check: f for f in diagnose(root, tmp_path / "none", {})}["model"]
    assert missing.level == "error"
    assert "is not a bundle" in missing.told
    damaged = bundle(tmp_path / "bundle")
    (damaged / "model.rknn").write_bytes(b"cut off")
    found = {f.check: f for f in diagnose(root, damaged, {})}["model"]
    assert (found.level, found.cure) == ("error", "copy the whole folder again")


def test_a_bundle_for_the_npu_alone_is_an_error_where_there_is_none(tmp_path: Path) -> None:
    files = {role: file for role, file in load_manifest(ZOO).files.items() if role != "onnx"}
    rknn_only = bundle(tmp_path / "rknn", files=files)
    found = found_on(boards.host(), tmp_path / "host", rknn_only)["model"]
    assert found.level == "error"
    assert found.told == "procedural (rknn): only an NPU runs it, and there is none here"
    assert found.cure.startswith("run it on the board, or export the bundle again with its ONNX file")
    assert found_on(boards.healthy_board(), tmp_path / "board", rknn_only)["model"].level == "ok"
