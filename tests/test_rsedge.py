"""The front door: help that teaches, lazy imports, every foreseen error in one line with exit code 2."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import rsedge

ROOT = Path(__file__).resolve().parent.parent
VERBS = ["train", "compare", "data", "export", "verify", "evaluate", "estimate", "bundle", "detect", "gui", "doctor"]
VERBS += ["bench", "demo"]
Calls = list[tuple[Any, ...]]


def run_process(*arguments: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the front door in a process of its own; code: Python to run before it (`sys` and `rsedge` are there)."""
    program = f"import sys, rsedge\n{code}\nrsedge.main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def run(line: str) -> int:
    """Run the front door in this process with the words of a command line."""
    return rsedge.run_command(line.split())


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, function: str, do: Callable[..., None]) -> None:
    """Put a module with one function where a verb would import the real one."""
    fake = ModuleType(module)
    setattr(fake, function, do)
    monkeypatch.setitem(sys.modules, module, fake)


def recorder(calls: Calls) -> Callable[..., None]:
    return lambda *arguments, **_: calls.append(arguments)


def raiser(error: BaseException) -> Callable[..., None]:
    def do(*_: object) -> None:
        raise error

    return do


def help_of(*words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `--help` prints on a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    assert rsedge.run_command([*words, "--help"]) == 0
    return capsys.readouterr().out


def test_help_lists_every_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = help_of(monkeypatch=monkeypatch, capsys=capsys)
    assert all(f" {verb} " in told for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_help_teaches_by_example(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line.strip() for line in help_of(verb, monkeypatch=monkeypatch, capsys=capsys).splitlines()]
    assert "Examples:" in lines
    examples = [line for line in lines if line.startswith("$ ")]
    assert len(examples) >= 2
    assert all(f"rsedge {verb}" in line for line in examples)  # one line each, none joined to its neighbour
    assert all(line.count("rsedge") == 1 for line in examples)
    assert all(len(line) < 80 for line in examples)  # a terminal of 80 columns does not break them


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_parse(verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: Calls = []
    for module, function in [
        ("train.walk", "walk"),
        ("train.compare_command", "run"),
        ("train.data_command", "run"),
        ("train.export", "run"),
        ("train.verify_command", "run"),
        ("train.evaluate_command", "run"),
        ("train.demo", "run"),
        ("deploy.detect_command", "command"),
        ("deploy.bundle_command", "run"),
        ("deploy.doctor_command", "run"),
        ("train.estimate_command", "run"),
        ("gui.gui_command", "run"),
        ("benchmarks.bench_command", "run"),
    ]:
        stand_in(monkeypatch, module, function, recorder(calls))
    monkeypatch.setenv("COLUMNS", "200")
    assert rsedge.run_command([verb, "--help"]) == 0
    examples = [line.split("rsedge ", 1)[1] for line in capsys.readouterr().out.splitlines() if "$ " in line]
    for example in examples:
        assert rsedge.run_command(example.split()) == 0, capsys.readouterr().err
    assert len(calls) == len(examples) >= 2


def test_help_imports_nothing_heavy() -> None:
    code = "import atexit; heavy = {'torch', 'numpy', 'cv2', 'onnx', 'pydantic_settings', 'train', 'deploy'}\n"
    code += "atexit.register(lambda: print('LOADED', sorted(heavy & set(sys.modules))))"
    done = run_process("train", "--help", code=code)
    assert done.returncode == 0
    assert "Examples:" in done.stdout
    assert "LOADED []" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"rsedge {rsedge.__version__}"


def test_arguments_reach_the_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = []
    stand_in(monkeypatch, "train.walk", "walk", recorder(calls))
    stand_in(monkeypatch, "train.evaluate_command", "run", recorder(calls))
    stand_in(monkeypatch, "train.export", "run", recorder(calls))
    stand_in(monkeypatch, "deploy.detect_command", "command", recorder(calls))
    assert run("train r --out d --set a=1 --set b.c=x=y --resume") == 0
    assert run("evaluate m --data r --split val --backend rknn-sim --json f --limit 3") == 0
    assert run("export c.pt --out b --precision fp16 --half-weights") == 0
    assert run("detect b one.jpg rtsp://two --out d --score 0.5 --bands 4,3,2 --every-frame --no-scene --resume") == 0
    assert calls[:-1] == [
        ("r", Path("d"), ["a=1", "b.c=x=y"], True),
        (Path("m"), "r", "val", "rknn-sim", Path("f"), 3, []),
        (Path("c.pt"), Path("b"), "fp16", None, [], True, None),
    ]
    *_, (bundle, sources, out, formats, backend, score, iou, typed, running) = calls
    assert (bundle, sources, out) == (Path("b"), ["one.jpg", "rtsp://two"], Path("d")), "an address is no path"
    assert (formats, backend, score, iou) == ("coco,overlay", "auto", 0.5, 0.7)
    assert (typed["bands"], typed["policy"], typed["scene"]) == ("4,3,2", "block", False)
    assert (running["resume"], running["workers"], running["engine"]) == (True, "threads", "local")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("trian r", "rsedge: No such command 'trian'. Did you mean 'train'?"),
        ("train r --oot d", "rsedge train: No such option: --oot. Did you mean --out?"),
        ("train r", "rsedge train: Missing option '--out'"),
        ("detect b --out d", "rsedge detect: Missing argument 'SOURCE'"),
        ("demo --seed x", "rsedge demo: Invalid value for '--seed'"),
        ("evaluate m --data r --backend gpu", "'torch', 'onnx', 'rknn-sim'"),
        ("evaluate m --data r --limit 0", "rsedge evaluate: Invalid value for '--limit'"),
        ("data r --set", "rsedge data: Option '--set' requires an argument"),
    ],
)
def test_wrong_usage_is_one_line(arguments: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert rsedge.run_command(arguments.split()) == 2
    told = capsys.readouterr().err
    assert expected in told
    assert told.count("\n") == 1
    assert "--help)" in told


class OutOfMemoryError(RuntimeError):
    """Stands for torch's class of this name."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("recipe.toml: train.epochs must be at least 1, got 0"), "train.epochs must be at least 1, got 0"),
        (ValueError("first\n  second\n"), "first; second"),
        (FileNotFoundError("no such recipe: x"), "no such recipe: x"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.json"), "a.json: No such file or directory"),
        (OSError(errno.ENOSPC, "No space left on device", "last.pt"), "last.pt: No space left on device; free some"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied; check its owner"),
        (MemoryError(), "out of memory"),
        (OutOfMemoryError("CUDA out of memory"), "use a smaller batch"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 'pip install ".[host]"'),
        (ModuleNotFoundError("No module named 'rknn.api'", name="rknn.api"), "--no-deps rknn-toolkit2"),
        (ModuleNotFoundError("No module named 'train.x'", name="train.x"), "train.x is missing from this installation"),
        (ImportError("libx.so: cannot open shared object file"), "check_system.sh"),
    ],
)
def test_a_foreseen_error_is_one_line(
    error: Exception, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RSEDGE_DEBUG", raising=False)
    stand_in(monkeypatch, "train.demo", "run", raiser(error))
    assert rsedge.run_command(["demo"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("rsedge demo: ")
    assert expected in told
    assert told.count("\n") == 1


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "train.demo", "run", raiser(KeyError("x")))
    with pytest.raises(KeyError):
        rsedge.run_command(["demo"])


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSEDGE_DEBUG", "1")
    stand_in(monkeypatch, "train.demo", "run", raiser(ValueError("told")))
    with pytest.raises(ValueError, match="told"):
        rsedge.run_command(["demo"])


FAKE_DEMO = """
import types
module = types.ModuleType("train.demo")
sys.modules["train.demo"] = module
def run(*_):
    {body}
module.run = run
"""


def test_ctrl_c_is_one_line() -> None:
    # A shell's background job ignores Ctrl-C and hands that down; what is tested is the process that does not.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += FAKE_DEMO.format(body="import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)")
    done = run_process("demo", code=code)
    assert done.returncode == 130
    assert done.stderr == "\nrsedge: stopped; what was finished is kept\n"


def test_sigterm_is_one_line() -> None:
    code = "import time\n" + FAKE_DEMO.format(
        body="import os, signal; os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)"
    )
    done = run_process("demo", code=code)
    assert done.returncode == 143
    assert done.stderr == "rsedge: stopped by SIGTERM; what was finished is kept\n"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "detect b a.jpg --out d",
            "finished images, frames and tiles are kept; the same command with --resume goes on",
        ),
        ("train r --out d", "after the first epoch, train goes on with --resume"),
        ("bundle m.onnx --classes c --out b", "no bundle was written"),
        ("demo", "what was finished is kept"),
    ],
)
def test_a_stopped_verb_says_how_it_goes_on(
    line: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RSEDGE_DEBUG", raising=False)
    for error, code in ((KeyboardInterrupt(), 130), (rsedge.Terminated(143), 143)):
        for module, function in [
            ("deploy.detect_command", "command"),
            ("train.walk", "walk"),
            ("deploy.bundle_command", "run"),
            ("train.demo", "run"),
        ]:
            stand_in(monkeypatch, module, function, lambda *_, error=error, **__: raiser(error)())
        assert run(line) == code
        assert told in capsys.readouterr().err


def test_a_closed_pipe_is_quiet() -> None:
    code = FAKE_DEMO.format(body="print('x' * 100_000)") + "import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1)"
    done = run_process("demo", code=code)
    assert done.returncode == 141
    assert done.stderr == ""
