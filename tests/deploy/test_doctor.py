"""The doctor on captured file trees: what it finds on healthy and sick machines, and how it says so."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from deploy.doctor import TOPICS, diagnose, topic_of
from deploy.doctor_command import as_document, exit_code, print_findings, run
from deploy.doctor_machine import Finding
from tests.deploy import boards
from tests.deploy.boards import Tree, found_on, not_ok, plant, without

ZOO = Path(__file__).resolve().parents[2] / "deploy" / "zoo" / "procedural"
ALL_BOARDS: list[Callable[[], Tree]] = [
    boards.healthy_board,
    boards.untuned_board,
    boards.old_driver,
    boards.mainline_board,
    boards.container,
    boards.host,
    boards.raspberry,
]


def test_a_healthy_board_has_nothing_to_mend(tmp_path: Path) -> None:
    found = found_on(boards.healthy_board(), tmp_path, ZOO)
    assert not_ok(found) == {}
    # Every check there is, but for the one line that a machine without an NPU gets instead.
    assert set(found) == {check for checks in TOPICS.values() for check in checks} - {"NPU"}
    told = {check: f.told for check, f in found.items()}
    assert told["chip"] == "RK3588: RK3588S OPi5"
    assert "6.1.43-rockchip-rk3588" in told["kernel"]
    assert told["driver version"] == "0.9.8"
    assert "/dev/dri/renderD129" in told["NPU device"]
    assert "renderD128" not in told["NPU device"]  # the display's
    assert told["runtime library"] == "librknnrt.so 2.5.0 in /usr/lib"
    assert told["model"].endswith("made by toolkit 2.5.0, runtime 2.5.0")
    assert told["NPU clock"] == "1000 of 1000 MHz, performance"
    assert told["DDR clock"] == "2112 of 2112 MHz, performance"
    assert told["temperature"] == "45 °C at bigcore0, slows down at 85 °C"
    assert told["memory"] == "4981 of 7741 MiB available"
    assert told["threads"] == "8 CPUs (0-7), the big ones are 4-7"
    assert told["NPU load"] == "core 0 0 %, core 1 0 %, core 2 0 %"
    assert told["CPU clock"] == "performance on CPU 0-3 (1.8 GHz), 4-5 (2.3 GHz), 6-7 (2.3 GHz)"


def test_an_untuned_board_is_advised_but_passes(tmp_path: Path) -> None:
    found = found_on(boards.untuned_board(), tmp_path)
    assert not_ok(found) == {"NPU clock": "warning", "DDR clock": "warning", "CPU clock": "warning"}
    assert found["NPU clock"].cure.endswith("echo performance | sudo tee /sys/class/devfreq/fdab0000.npu/governor")
    assert "/sys/class/devfreq/dmc/governor" in found["DDR clock"].cure
    assert found["driver version"].told == "0.9.8"  # from /sys/module, which everybody may read
    assert exit_code(list(found.values())) == 0


def test_an_old_driver_and_an_old_runtime(tmp_path: Path) -> None:
    found = found_on(boards.old_driver(), tmp_path, ZOO)
    assert not_ok(found) == {"driver version": "warning", "wheel": "warning", "model": "error"}
    assert found["driver version"].told == "0.8.2, the runtime asks for 0.8.8 or newer"
    assert "kernel" in found["driver version"].cure
    assert found["model"].told.endswith("made by toolkit 2.5.0, newer than the runtime's 1.4.0")
    assert "bring librknnrt.so to 2.5.0" in found["model"].cure
    assert "export with rknn-toolkit2 1.4.0" in found["model"].cure


def test_mainline_has_the_wrong_driver(tmp_path: Path) -> None:
    found = found_on(boards.mainline_board(), tmp_path)
    assert not_ok(found) == {"NPU driver": "error", "decoders": "warning"}
    assert found["NPU driver"].told.startswith("rocket")
    assert "--backend onnx" in found["NPU driver"].cure
    assert "driver version" not in found  # there is no rknpu to have one
    assert "NPU device" not in found


def test_rknpu_on_a_mainline_kernel_counts(tmp_path: Path) -> None:
    tree = boards.mainline_board() | {
        path: content
        for path, content in boards.healthy_board().items()
        if path.startswith(("sys/module", "sys/class/drm"))
    }
    found = found_on(tree | {"dev/dri/renderD129": ""}, tmp_path)
    assert found["NPU driver"].level == found["NPU device"].level == "ok"


def test_an_npu_that_is_switched_off_in_the_device_tree(tmp_path: Path) -> None:
    tree = without(boards.healthy_board(), "sys/module/rknpu", "sys/kernel/debug", "sys/class/drm", "dev/dri")
    assert "none in kernel 6.1.43" in found_on(tree, tmp_path / "a")["NPU driver"].told
    tree["proc/device-tree/npu@fdab0000/status"] = "disabled\0"
    driver = found_on(tree, tmp_path / "b")["NPU driver"]
    assert driver.level == "error"
    assert "switched off" in driver.told


def test_a_container_without_devices(tmp_path: Path) -> None:
    found = found_on(boards.container(), tmp_path, ZOO)
    assert {c: v for c, v in not_ok(found).items() if v == "error"} == {"chip": "error", "NPU device": "error"}
    assert found["NPU driver"].level == "ok"  # the kernel is the board's
    for check in ("chip", "NPU device"):
        assert "--device /dev/dri" in found[check].cure
        assert "systempaths=unconfined" in found[check].cure
    assert "--device /dev/mpp_service" in found["decoders"].cure
    assert found["kernel"].told.endswith("in a container")


def test_a_host_is_calm(tmp_path: Path) -> None:
    found = found_on(boards.host(), tmp_path, ZOO)
    assert not_ok(found) == {}
    assert found["chip"].told.startswith("a host (x86_64), no RK3588")
    assert not {"NPU driver", "runtime library", "wheel", "NPU clock"} & set(found)
    assert len(found) <= 12


def test_another_board_is_told_what_it_can_do(tmp_path: Path) -> None:
    found = found_on(boards.raspberry(), tmp_path)
    assert not_ok(found) == {"chip": "warning"}
    assert "Raspberry Pi 5" in found["chip"].told
    assert "--backend onnx" in found["chip"].cure


def test_a_root_without_proc_is_no_crash(tmp_path: Path) -> None:
    found = found_on({"etc/hostname": "x"}, tmp_path)
    assert found["memory"].level == "warning"
    assert all(f.level != "error" for f in found.values())
    with pytest.raises(FileNotFoundError, match="no such folder"):
        diagnose(tmp_path / "missing")


def test_this_machine_is_examined_without_a_crash() -> None:
    findings = diagnose()
    assert [f.check for f in findings][:2] == ["chip", "kernel"]
    assert next(f for f in findings if f.check == "kernel").told.startswith("Linux ")


# --- what is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", ALL_BOARDS)
def test_every_finding_has_a_topic_one_line_and_a_cure_where_needed(tmp_path: Path, tree: Callable[[], Tree]) -> None:
    order = [check for checks in TOPICS.values() for check in checks]
    checks = [f.check for f in diagnose(plant(tree(), tmp_path), ZOO, {})]
    assert checks == sorted(checks, key=lambda check: list(TOPICS).index(topic_of(check)))
    assert set(checks) <= set(order)
    for finding in diagnose(tmp_path, ZOO, {}):
        assert "\n" not in finding.told + finding.cure
        assert bool(finding.cure) == (finding.level != "ok")
        assert str(tmp_path) not in finding.told + finding.cure  # paths are the machine's own


def test_a_finding_needs_a_cure_exactly_where_something_is_wrong() -> None:
    with pytest.raises(ValueError, match="a cure belongs to warnings and errors only"):
        Finding("x", "ok", "fine", "do this")
    with pytest.raises(ValueError, match="a cure belongs to warnings and errors only"):
        Finding("x", "error", "broken")
    with pytest.raises(ValueError, match="belongs to no topic"):
        topic_of("unheard of")


def printed(findings: list[Finding], **options: object) -> str:
    out = io.StringIO()
    print_findings(findings, Console(file=out, width=120, highlight=False, **options))  # type: ignore[arg-type]
    return out.getvalue()


@pytest.mark.parametrize("tree", ALL_BOARDS)
def test_the_list_fits_a_screen_and_loses_nothing(tmp_path: Path, tree: Callable[[], Tree]) -> None:
    findings = diagnose(plant(tree(), tmp_path), ZOO, {})
    text = printed(findings)
    assert "\x1b" not in text
    assert len(text.splitlines()) <= 30
    squeezed = "".join(text.split())
    for finding in findings:
        assert "".join(f"{finding.level} {finding.check} ".split()) in squeezed
        assert not finding.cure or f"-> {finding.cure}\n" in text  # unbroken: commands are copied
    assert f"{len(findings)} checks: " in text


def test_colours_only_where_the_terminal_has_them(tmp_path: Path) -> None:
    findings = diagnose(plant(boards.container(), tmp_path), None, {})
    assert "\x1b[" in printed(findings, force_terminal=True, color_system="standard")
    assert "2 errors" in printed(findings).splitlines()[-1]


def test_markup_in_what_is_found_stays_text(tmp_path: Path) -> None:
    tree = boards.healthy_board() | {"proc/device-tree/model": "[red]Board[/red] [/nonsense]\0"}
    assert "[red]Board[/red] [/nonsense]" in printed(diagnose(plant(tree, tmp_path), None, {}))
    assert "\x1b" not in printed([Finding("model", "error", "\x1b[2Jname", "\x1b]0;x\x07 again")])


def test_json_is_one_document_with_a_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = plant(boards.mainline_board(), tmp_path)
    assert run(None, as_json=True, root=root) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["exit_code"], document["root"]) == (1, 1, str(root))
    assert document["counts"]["error"] == sum(f["level"] == "error" for f in document["findings"]) == 1
    assert {frozenset(f) for f in document["findings"]} == {frozenset(("topic", "check", "level", "told", "cure"))}
    assert sum(document["counts"].values()) == len(document["findings"])


def test_the_exit_code_counts_errors_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(None, root=plant(boards.untuned_board(), tmp_path / "a")) == 0
    assert run(None, root=plant(boards.container(), tmp_path / "b")) == 1
    assert "warning" in capsys.readouterr().out
    assert as_document([])["exit_code"] == 0
