"""The machine under examination: its files below a root, its user's rights, and what a finding about it holds."""

from __future__ import annotations

import grp
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Level = Literal["ok", "warning", "error"]
Version = tuple[int, int, int]

_LIVE_ROOT = Path("/")
# A file of /proc or /sys is one page at most; what is longer is no answer of the kernel.
_PAGE = 4096
_COMMAND_TIMEOUT_S = 10.0
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
# A kernel built for Rockchip's chips names itself so: 6.1.43-rockchip-rk3588, 6.1.115-vendor-rk35xx.
_ROCKCHIP_KERNEL = re.compile(r"rockchip|rk35\d\d|rk35xx", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """What one check found. told: the fact, one line. cure: what to do about it, empty where the level is "ok"."""

    check: str
    level: Level
    told: str
    cure: str = ""

    def __post_init__(self) -> None:
        if (self.level == "ok") == bool(self.cure):
            raise ValueError(f"finding {self.check!r}: a cure belongs to warnings and errors only, got {self.cure!r}")


def _run(command: Sequence[str]) -> str | None:
    """Return a command's standard output, None where it is not installed, fails or does not end in time."""
    try:
        done = subprocess.run(
            list(command), stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


@dataclass(frozen=True)
class Machine:
    """One machine, or the captured file tree of one.

    root: "/" for this machine; any other folder is a capture: the same files below it, no command is run.
    environ: the environment variables that count. may_use: whether the user may read and write a device node.
    run: a command's standard output or None; captures know no commands.
    """

    root: Path
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    may_use: Callable[[Path], bool] = lambda node: os.access(node, os.R_OK | os.W_OK)
    run: Callable[[Sequence[str]], str | None] = _run

    @property
    def live(self) -> bool:
        """True for this machine, False for a captured tree."""
        return self.root == _LIVE_ROOT

    def path(self, name: str) -> Path:
        """Return where an absolute path of the machine lies below the root."""
        return self.root / name.lstrip("/")

    def shown(self, path: Path) -> str:
        """Return the machine's own name of a path below the root."""
        return f"/{path.relative_to(self.root)}"

    def glob(self, pattern: str) -> list[Path]:
        """Return the existing paths that match an absolute pattern, sorted so that 2 comes before 10."""
        try:
            found = list(self.root.glob(pattern.lstrip("/")))
        except OSError:
            return []
        return sorted(found, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", str(p))])

    def exists(self, name: str) -> bool:
        """Return whether a path is there; False too where a folder on the way must not be entered."""
        try:
            return self.path(name).exists()
        except OSError:
            return False

    def read(self, path: str | Path) -> str | None:
        """Return the first page of a small text file, stripped; None where it is absent or must not be read.

        Null bytes, which end the strings of a device tree, become newlines.
        """
        file = self.path(path) if isinstance(path, str) else path
        try:
            with open(file, "rb") as handle:
                text = handle.read(_PAGE)
        except OSError:
            return None
        return text.decode("utf-8", errors="replace").replace("\0", "\n").strip()

    def integer(self, path: str | Path) -> int | None:
        """Return the number that a file holds, or None."""
        text = self.read(path)
        return int(text) if text and re.fullmatch(r"-?\d+", text) else None

    @property
    def compatible(self) -> list[str]:
        """The device tree's names of the board and its chip, most particular first; empty without a device tree."""
        names = self.read("/proc/device-tree/compatible") or self.read("/sys/firmware/devicetree/base/compatible")
        return names.split("\n") if names else []

    @property
    def is_rk3588(self) -> bool:
        """True where the device tree names an RK3588 or RK3588S."""
        return any(re.fullmatch(r"rockchip,rk3588s?", name) for name in self.compatible)

    @property
    def architecture(self) -> str:
        """The processor family as `uname -m` says it; of a capture, what /proc/cpuinfo tells."""
        if self.live:
            return platform.machine()
        cpuinfo = self.read("/proc/cpuinfo") or ""
        return "aarch64" if "CPU implementer" in cpuinfo else "x86_64" if "vendor_id" in cpuinfo else "unknown"

    @property
    def kernel(self) -> str:
        """The kernel's release, such as 6.1.43-rockchip-rk3588; "unknown" where /proc/version is not there."""
        words = (self.read("/proc/version") or "").split()
        return words[2] if words[:2] == ["Linux", "version"] and len(words) > 2 else "unknown"

    @property
    def has_rockchip_kernel(self) -> bool:
        """True where the kernel's name says that it was built for Rockchip's chips, the vendor's or mainline."""
        return bool(_ROCKCHIP_KERNEL.search(self.kernel))

    @property
    def in_container(self) -> bool:
        """True inside Docker, Podman or what sets the variable `container`."""
        return self.exists("/.dockerenv") or self.exists("/run/.containerenv") or bool(self.environ.get("container"))

    @property
    def is_board(self) -> bool:
        """True on an RK3588, and in a container that hides the device tree of what must be one."""
        hidden = not self.compatible and self.in_container and self.has_rockchip_kernel
        return self.is_rk3588 or (hidden and self.architecture == "aarch64")

    def group_of(self, node: Path) -> str | None:
        """Return the name of the group that owns a node, None for root's own group."""
        try:
            gid = node.stat().st_gid
        except OSError:
            return None
        if gid == 0:
            return None
        try:
            return grp.getgrgid(gid).gr_name
        except KeyError:
            return str(gid)

    def packages(self, names: Iterable[str]) -> dict[str, str]:
        """Return the versions of the installed Python distributions among `names`, which are in lower case.

        Of this machine: what this interpreter sees. Of a capture: the system's packages and those of VIRTUAL_ENV.
        """
        if self.live:
            places = sys.path
        else:
            system = ["/usr/lib/python3/dist-packages", "/usr/local/lib/python3*/dist-packages"]
            own = self.environ.get("VIRTUAL_ENV")
            patterns = [*([f"{own}/lib/python3*/site-packages"] if own else []), *system]
            places = [str(path) for pattern in patterns for path in self.glob(pattern)]
        found: dict[str, str] = {}
        for name in names:  # by name: reading every distribution's metadata takes a second on a full host
            for distribution in importlib.metadata.distributions(name=name, path=list(places)):
                found.setdefault(name, distribution.version)
        return found


def version_in(text: str | None) -> Version | None:
    """Return the first version number of a text, (2, 3, 0) of both "v2.3" and "2.3.0b1"; None where there is none."""
    match = _VERSION.search(text or "")
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def dotted(version: Version) -> str:
    """Return a version as it is written: (0, 9, 8) is 0.9.8."""
    return ".".join(map(str, version))
