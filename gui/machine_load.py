"""Machine load: memory of this process, temperature and the NPU's cores, from the kernel's own files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Load:
    """What the kernel says; None or empty where it does not. memory_mib: resident, of this process.

    hottest_c: the warmest sensor in degrees Celsius. npu_percent: load of each NPU core, 0 to 100.
    """

    memory_mib: float | None = None
    hottest_c: float | None = None
    npu_percent: tuple[int, ...] = ()


def read_load(root: Path = Path("/")) -> Load:
    """Read the present load; root: of a captured file tree. Takes well below a millisecond."""
    status = _read(root / "proc/self/status")
    resident = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    celsius = []
    for zone in (root / "sys/class/thermal").glob("thermal_zone*/temp"):
        text = _read(zone).strip()
        if re.fullmatch(r"\d+", text) and int(text) > 0:  # a sensor without power answers 0 or below
            celsius.append(int(text) / 1000)
    return Load(
        int(resident[1]) / 1024 if resident else None,
        max(celsius) if celsius else None,
        npu_percent(_read(root / "sys/kernel/debug/rknpu/load")),
    )


def npu_percent(text: str) -> tuple[int, ...]:
    """Return the load of each core from the driver's line, such as "NPU load:  Core0: 12%, Core1:  0%, Core2:  0%,".

    Drivers for chips of one core write "NPU load:  12%". The file is root's, so that most users see nothing.
    """
    cores = re.findall(r"Core(\d+):\s*(\d+)%", text)
    if cores:
        return tuple(int(load) for _, load in sorted((int(core), load) for core, load in cores))
    single = re.search(r"NPU load:\s*(\d+)%", text)
    return (int(single[1]),) if single else ()


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
