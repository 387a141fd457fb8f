"""The board's installer, with the programs that it calls replaced by ones that write down how they were called."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "install_board.sh"
PACKAGES = "python3 python3-venv python3-pyqt5 ca-certificates libstdc++6 libgcc-s1 zlib1g"

# A Python that says which version it is, makes environments of the same kind, and writes down what pip is asked for.
PYTHON = """
case "$*" in
*version_info*) echo {version} ;;
"-m venv "*)
    for last; do :; done
    [ "$(basename "$0")" = "python3" ] || exit 9
    mkdir -p "$last/bin"
    echo "include-system-site-packages = true" > "$last/pyvenv.cfg"
    cp "$0" "$last/bin/python"
    printf '#!/bin/sh\\necho "rsedge $*" >> "$CALLS"\\nexit {doctor}\\n' > "$last/bin/rsedge"
    chmod +x "$last/bin/rsedge"
    ;;
esac
echo "python $*" >> "$CALLS"
case "$*" in
*"pip install"*) exit {pip} ;;
*"pip --version") [ ! -e "$(dirname "$0")/../no pip" ] || exit 1 ;;
esac
exit 0
"""


class Board:
    """A folder of stand-ins for one board, and the calls that they saw."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.clone, self.calls = folder / "bin", folder / "clone of mine", folder / "calls"
        self.bin.mkdir()
        (self.clone / "scripts").mkdir(parents=True)
        shutil.copy(SCRIPT, self.clone / "scripts")
        (self.clone / "pyproject.toml").write_text('board = ["rknn-toolkit-lite2==2.5.0; x"]\n')
        for tool in ("dirname", "basename", "sed", "grep", "head", "ls", "mkdir", "cp", "chmod", "cat", "sh", "env"):
            (self.bin / tool).symlink_to(shutil.which(tool) or "/bin/false")
        self.put("uname", '[ "$1" = -s ] && echo Linux || echo aarch64')
        self.put("id", "echo 1000")
        self.put("sudo", 'echo "sudo $*" >> "$CALLS"; exec "$@"')
        self.put("apt-get", 'echo "apt-get $*" >> "$CALLS"')
        self.put("ldconfig", "true")
        self.installed(PACKAGES)
        self.python()

    def put(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def installed(self, packages: str) -> None:
        self.put("dpkg-query", f'case " {packages} " in *" $4 "*) echo "install ok installed" ;; *) exit 1 ;; esac')

    def python(self, version: str = "3.11", doctor: int = 0, pip: int = 0) -> None:
        self.put("python3", PYTHON.format(version=version, doctor=doctor, pip=pip))

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": str(self.bin), "CALLS": str(self.calls), "PYTHON": str(self.bin / "python3"), **environ}
        script = str(self.clone / "scripts" / "install_board.sh")
        return subprocess.run(
            ["/bin/sh", script, *arguments], env=environ, capture_output=True, text=True, timeout=60, check=False
        )

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_installs_with_nothing_to_fetch_from_apt(board: Board) -> None:
    done = board.run()
    assert done.returncode == 0, done.stderr
    calls = board.called()
    assert not any("apt-get" in call for call in calls)
    assert any(call.endswith(f"-m venv --system-site-packages {board.clone}/.venv") for call in calls)
    assert any(call.endswith(f"-m pip install --disable-pip-version-check {board.clone}[board]") for call in calls)
    assert calls[-1] == "rsedge doctor"
    assert done.stdout.splitlines()[-1] == f"installed: {board.clone}/.venv/bin/rsedge"


def test_fetches_only_what_lacks_and_as_root_only_that(board: Board) -> None:
    board.installed("python3 ca-certificates libstdc++6 libgcc-s1 zlib1g")
    assert board.run().returncode == 0
    calls = board.called()
    lacking = "apt-get install -y --no-install-recommends python3-venv python3-pyqt5"
    assert calls[:2] == ["sudo apt-get update", "apt-get update"]
    assert lacking in calls
    assert sum(call.startswith("sudo") for call in calls) == 2


def test_root_needs_no_sudo_and_others_are_told(board: Board) -> None:
    board.installed("python3")
    (board.bin / "sudo").unlink()
    done = board.run()
    assert done.returncode == 2
    assert "run as root: apt-get install -y python3-venv python3-pyqt5" in done.stderr
    assert board.called() == []
    board.put("id", "echo 0")
    assert board.run().returncode == 0
    assert "apt-get update" in board.called()


def test_no_apt_leaves_the_system_alone(board: Board) -> None:
    board.installed("python3 python3-venv")
    done = board.run("--no-apt")
    assert done.returncode == 0
    assert "not installed: python3-pyqt5" in done.stderr
    assert not any("apt-get" in call for call in board.called())


def test_a_second_run_keeps_the_environment_and_installs_anew(board: Board, tmp_path: Path) -> None:
    where = tmp_path / "an environment"
    assert board.run("--venv", str(where)).returncode == 0
    (where / "kept").touch()
    board.calls.unlink()
    assert board.run("--venv", str(where)).returncode == 0
    assert (where / "kept").exists()
    calls = board.called()
    assert not any("-m venv" in call for call in calls)
    assert sum("pip install" in call for call in calls) == 1


def test_an_environment_that_was_cut_off_is_made_whole(board: Board) -> None:
    assert board.run().returncode == 0
    (board.clone / ".venv" / "no pip").touch()
    board.calls.unlink()
    done = board.run()
    assert done.returncode == 0
    assert "making it whole" in done.stdout
    assert sum("-m venv" in call for call in board.called()) == 1


def test_an_environment_of_another_kind_is_not_touched(board: Board) -> None:
    venv = board.clone / ".venv"
    venv.mkdir()
    (venv / "pyvenv.cfg").write_text("include-system-site-packages = false\n")
    done = board.run()
    assert done.returncode == 2
    assert "was made without --system-site-packages" in done.stderr
    (venv / "pyvenv.cfg").rename(venv / "notes.txt")
    assert "exists and is no environment" in board.run().stderr
    assert [p.name for p in venv.iterdir()] == ["notes.txt"]


def test_an_environment_of_an_older_python_is_told(board: Board) -> None:
    assert board.run().returncode == 0
    board.python("3.12")
    done = board.run()
    assert done.returncode == 2
    assert "runs Python 3.11, the system's is 3.12 now" in done.stderr


@pytest.mark.parametrize("version", ["3.9", "3.13"])
def test_a_python_without_wheels_is_refused(board: Board, version: str) -> None:
    board.python(version)
    done = board.run()
    assert done.returncode == 2
    assert f"is Python {version}" in done.stderr
    assert not (board.clone / ".venv").exists()


def test_what_pip_cannot_do_is_no_success(board: Board) -> None:
    board.python(pip=1)
    done = board.run()
    assert done.returncode == 2
    assert "pip could not install rsedge" in done.stderr
    assert "rsedge doctor" not in board.called()


@pytest.mark.parametrize(("doctor", "code"), [(0, 0), (1, 1), (2, 2)])
def test_the_doctor_has_the_last_word(board: Board, doctor: int, code: int) -> None:
    board.python(doctor=doctor)
    done = board.run()
    assert done.returncode == code
    assert ("does not run" in done.stderr) == (doctor == 2)


@pytest.mark.skipif(Path("/usr/lib/librknnrt.so").exists(), reason="this machine has the vendor's library")
def test_a_missing_runtime_library_says_where_it_is(board: Board) -> None:
    told = board.run().stderr
    assert "airockchip/rknn-toolkit2" in told
    assert "Take version 2.5.0 or newer" in told
    board.put("ldconfig", "echo '\tlibrknnrt.so (libc6,AArch64) => /opt/lib/librknnrt.so'")
    assert "librknnrt" not in board.run().stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--force"], "unknown option '--force'"),
        (["--venv"], "--venv needs a folder"),
        (["--venv", ""], "needs a folder"),
    ],
)
def test_wrong_options(board: Board, arguments: list[str], told: str) -> None:
    done = board.run(*arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert board.called() == []


def test_another_machine_is_sent_to_make_install(board: Board) -> None:
    board.put("uname", '[ "$1" = -s ] && echo Linux || echo x86_64')
    done = board.run()
    assert done.returncode == 2
    assert "make install" in done.stderr
    assert board.called() == []


def test_a_failing_apt_get_stops_before_anything_is_made(board: Board) -> None:
    board.installed("python3")
    board.put("apt-get", "exit 100")
    done = board.run()
    assert done.returncode == 2
    assert "apt-get update failed" in done.stderr
    assert not (board.clone / ".venv").exists()


def test_help_is_the_comment_at_its_top(board: Board) -> None:
    done = board.run("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Install rsedge on an RK3588 board")
    assert "set -u" not in done.stdout


def test_the_real_python_makes_such_an_environment(board: Board, tmp_path: Path) -> None:
    made = tmp_path / "real"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", str(made)], check=True)
    text = (made / "pyvenv.cfg").read_text()
    assert "include-system-site-packages = true" in text  # the line that the script reads
    # The script takes it as its own and goes on to pip, which refuses this clone before it looks for anything.
    (board.clone / "pyproject.toml").write_text("no TOML [")
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    done = board.run("--venv", str(made), PYTHON=sys.executable, PATH=f"{board.bin}:{os.environ['PATH']}", **offline)
    assert done.returncode == 2
    assert "install_board.sh: pip could not install rsedge" in done.stderr
