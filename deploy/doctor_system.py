"""What the doctor asks about the rest of the machine: clocks, heat, memory, threads, decoders, ONNX Runtime and Qt."""

from __future__ import annotations

import re
from pathlib import Path

from .doctor_machine import Finding, Machine
from .doctor_npu import access_cure
from .phrases import listed, phrase, together

# ONNX Runtime on a huge scene stays below 600 MB; less than the first leaves the kernel killing processes.
LEAST_MEMORY_MIB = 300
GOOD_MEMORY_MIB = 1024
# The chip's own trip points count; this where a kernel shows none (rk3588.dtsi: passive 85, critical 115 degrees).
THROTTLE_C, CRITICAL_C = 85.0, 115.0

_STEADY_GOVERNORS = ("performance",)
_CV2_WITH_QT = ("opencv-python", "opencv-contrib-python")
_CV2_WITHOUT_QT = ("opencv-python-headless", "opencv-contrib-python-headless")


def check_npu_clock(machine: Machine) -> Finding:
    """Say how fast the NPU runs and whether it may slow down."""
    return _check_devfreq(machine, "NPU clock", "/sys/class/devfreq/*npu*")


def check_ddr_clock(machine: Machine) -> Finding:
    """Say how fast the memory runs: post-processing and letterboxing wait for it."""
    return _check_devfreq(machine, "DDR clock", "/sys/class/devfreq/*dmc*")


def _check_devfreq(machine: Machine, check: str, pattern: str) -> Finding:
    folder = next(iter(machine.glob(pattern)), None)
    governor = machine.read(folder / "governor") if folder else None
    if folder is None or governor is None:
        return Finding(check, "ok", phrase("this kernel shows no scaling"))
    steps = [int(step) for step in (machine.read(folder / "available_frequencies") or "").split() if step.isdigit()]
    now, limit = machine.integer(folder / "cur_freq"), machine.integer(folder / "max_freq")
    top = max([*steps, limit or 0])
    told = governor
    if now is not None:
        told = phrase("{now:.0f} of {top:.0f} MHz, {governor}", now=now / 1e6, top=top / 1e6, governor=governor)
    place = machine.shown(folder)
    if limit and limit < top:
        told = phrase("{told}, held at {limit:.0f} MHz or less", told=told, limit=limit / 1e6)
        return Finding(check, "warning", told, f"echo {top} | sudo tee {place}/max_freq")
    if governor in _STEADY_GOVERNORS or (now is not None and now == top):
        return Finding(check, "ok", told)
    cure = phrase("for even times: echo performance | sudo tee {place}/governor", place=place)
    return Finding(check, "warning", told, cure)


def check_cpu_clock(machine: Machine) -> Finding:
    """Say how the CPU's clusters are governed; slow clocks between frames lengthen the slowest per cent."""
    clusters: dict[str, list[str]] = {}  # governor -> its clusters
    policies = machine.glob("/sys/devices/system/cpu/cpufreq/policy*")
    for policy in policies:
        governor = machine.read(policy / "scaling_governor") or phrase("unknown")
        top = machine.integer(policy / "cpuinfo_max_freq")
        cpus = _short_list(_cpus(machine.read(policy / "related_cpus") or policy.name.removeprefix("policy")))
        clusters.setdefault(governor, []).append(f"{cpus} ({top / 1e6:.1f} GHz)" if top else cpus)
    if not clusters:
        return Finding("CPU clock", "ok", phrase("this kernel shows no scaling"))
    if not machine.is_board:
        told: str = phrase(
            "{governors} on {count} clusters or cores", governors=together(list(clusters)), count=len(policies)
        )
        return Finding("CPU clock", "ok", told)
    told = listed([phrase("{governor} on CPU {cpus}", governor=g, cpus=", ".join(c)) for g, c in clusters.items()])
    if set(clusters) <= set(_STEADY_GOVERNORS):
        return Finding("CPU clock", "ok", told)
    cure = phrase(
        "for even times: echo performance | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
    )
    return Finding("CPU clock", "warning", told, cure)


def check_temperature(machine: Machine) -> Finding:
    """Compare the hottest sensor with the trip points at which its kernel slows the chip down or stops it."""
    zones = []
    for zone in machine.glob("/sys/class/thermal/thermal_zone*"):
        milli = machine.integer(zone / "temp")
        if milli is not None and milli > 0:  # a sensor without power answers 0 or below
            zones.append((milli / 1000, machine.read(zone / "type") or zone.name, zone))
    if not zones:
        return Finding("temperature", "ok", phrase("no sensors shown"))
    # What counts is the distance to the zone's own limit: a battery and a CPU do not share one.
    celsius, name, throttle, critical = max(
        ((c, n, *_trips(machine, z)) for c, n, z in zones), key=lambda zone: zone[0] - zone[2]
    )
    told = phrase(
        "{celsius:.0f} °C at {sensor}, slows down at {throttle:.0f} °C",
        celsius=celsius,
        sensor=name.removesuffix("-thermal"),
        throttle=throttle,
    )
    if celsius >= critical - 10:
        cure = phrase("switch off and cool: at {critical:.0f} °C it stops by itself", critical=critical)
        return Finding("temperature", "error", told, cure)
    if celsius >= throttle - 5:
        cure = phrase("add a heat sink or a fan; throughput falls from here on")
        return Finding("temperature", "warning", told, cure)
    return Finding("temperature", "ok", told)


def _trips(machine: Machine, zone: Path) -> tuple[float, float]:
    """Return where a zone begins to throttle and where it stops the machine, in degrees Celsius.

    Vendor kernels list two passive points: the first wakes the regulator up, the second is where it slows down.
    """
    found: dict[str, list[float]] = {"passive": [], "critical": []}
    for kind in machine.glob(f"{machine.shown(zone)}/trip_point_*_type"):
        milli = machine.integer(kind.with_name(kind.name.replace("_type", "_temp")))
        if milli is not None and milli > 0:
            found.setdefault(machine.read(kind) or "", []).append(milli / 1000)
    return max(found["passive"], default=THROTTLE_C), min(found["critical"], default=CRITICAL_C)


def check_memory(machine: Machine) -> Finding:
    """Say how much memory a new process may still have."""
    numbers = dict(re.findall(r"^(\w+):\s+(\d+) kB$", machine.read("/proc/meminfo") or "", re.MULTILINE))
    if "MemAvailable" not in numbers:
        return Finding("memory", "warning", phrase("/proc/meminfo does not tell"), phrase("mount /proc"))
    free, total = int(numbers["MemAvailable"]) // 1024, int(numbers.get("MemTotal", 0)) // 1024
    told = phrase("{free} of {total} MiB available", free=free, total=total)
    if free < LEAST_MEMORY_MIB:
        return Finding("memory", "error", told, phrase("stop what is not needed (the desktop first), or add swap"))
    if free < GOOD_MEMORY_MIB:
        cure = phrase("stop what is not needed before huge scenes or several models")
        return Finding("memory", "warning", told, cure)
    return Finding("memory", "ok", told)


def check_threads(machine: Machine) -> Finding:
    """See which CPUs this process may use, whether the big ones are among them, and what OMP_NUM_THREADS asks for."""
    status = machine.read("/proc/self/status") or ""
    match = re.search(r"^Cpus_allowed_list:\s*(\S+)$", status, re.MULTILINE)
    online = _cpus(machine.read("/sys/devices/system/cpu/online") or "")
    allowed = _cpus(match[1]) if match else online
    if online:
        allowed = [cpu for cpu in allowed if cpu in online]
    if not allowed:
        return Finding("threads", "ok", phrase("the kernel does not tell which CPUs may be used"))
    big = _big_cores(machine, online or allowed)
    told: str = phrase("{count} CPUs ({cpus})", count=len(allowed), cpus=_short_list(allowed))
    if big:
        told = phrase("{told}, the big ones are {cpus}", told=told, cpus=_short_list(big))
    wanted = machine.environ.get("OMP_NUM_THREADS", "")
    if wanted:
        told = listed([told, f"OMP_NUM_THREADS={wanted}"])
    if big and not set(big) <= set(allowed):
        told = phrase("{told}: not all of them may be used", told=told)
        cure = phrase(
            "start it with taskset -c {cpus}, or give the container or service all CPUs", cpus=_short_list(online)
        )
        return Finding("threads", "warning", told, cure)
    if wanted and not (wanted.isdigit() and 0 < int(wanted) <= len(allowed)):
        cure = phrase("unset OMP_NUM_THREADS, or set it to 1 to {most}", most=len(allowed))
        return Finding("threads", "warning", told, cure)
    return Finding("threads", "ok", told)


def _big_cores(machine: Machine, cpus: list[int]) -> list[int]:
    """Return the CPUs of the fastest kind, by the scheduler's capacity or the top clock; none where all are alike.

    The RK3588's two big clusters may differ by a few per cent from chip to chip, hence the margin.
    """
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        speed = {cpu: machine.integer(f"/sys/devices/system/cpu/cpu{cpu}/{name}") for cpu in cpus}
        known = [value for value in speed.values() if value]
        if len(known) == len(cpus) and min(known) < 0.9 * max(known):
            return [cpu for cpu, value in speed.items() if value and value >= 0.9 * max(known)]
    return []


def _cpus(text: str) -> list[int]:
    """Return the CPUs of a kernel's list, such as "0-3,6" or "0 1 2 3 6"."""
    ranges = (part.partition("-") for part in text.replace(",", " ").split())
    return [cpu for first, _, last in ranges if first.isdigit() for cpu in range(int(first), int(last or first) + 1)]


def _short_list(cpus: list[int]) -> str:
    """Return a list of CPUs as taskset takes it: 0-3,6."""
    runs: list[list[int]] = []
    for cpu in cpus:
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def check_decoders(machine: Machine) -> Finding:
    """Look for the board's video decoder: kernel node, rights, and a program that drives it."""
    if not machine.is_board:
        return Finding("decoders", "ok", phrase("videos are decoded on the CPU"))
    if not machine.exists("/dev/mpp_service"):
        told = phrase("no /dev/mpp_service: videos are decoded on the CPU")
        cure = phrase("vendor kernels have it; in a container add --device /dev/mpp_service")
        return Finding("decoders", "warning", told, cure)
    nodes = [machine.path("/dev/mpp_service"), machine.path("/dev/rga"), *machine.glob("/dev/dma_heap/system*")]
    closed = next((node for node in nodes if node.exists() and not machine.may_use(node)), None)
    if closed is not None:
        told = phrase("{node} is closed to this user", node=machine.shown(closed))
        return Finding("decoders", "warning", told, access_cure(machine, closed))
    programs = []
    plugin = "/usr/lib/aarch64-linux-gnu/gstreamer-1.0/libgstrockchipmpp.so"
    if (
        machine.run(["gst-inspect-1.0", "--exists", "mppvideodec"]) is not None
        if machine.live
        else machine.exists(plugin)
    ):
        programs.append("GStreamer mppvideodec")
    if machine.live and "_rkmpp" in (machine.run(["ffmpeg", "-hide_banner", "-decoders"]) or ""):
        programs.append("ffmpeg rkmpp")
    nodes_there = "/dev/mpp_service" + (", /dev/rga" if machine.exists("/dev/rga") else "")
    if not programs:
        told = phrase("{nodes}, but no program drives it: videos are decoded on the CPU", nodes=nodes_there)
        cure = phrase("apt install gstreamer1.0-rockchip1, or ffmpeg with rkmpp, from the board maker's packages")
        return Finding("decoders", "warning", told, cure)
    told = phrase("{programs} on {nodes}", programs=together(programs), nodes=nodes_there)
    return Finding("decoders", "ok", told)


def check_onnx_runtime(machine: Machine) -> Finding:
    """Look for ONNX Runtime, which runs a bundle's ONNX file on any machine's CPU."""
    found = machine.packages(["onnxruntime", "onnxruntime-gpu"])
    if found:
        return Finding("ONNX Runtime", "ok", ", ".join(f"{name} {version}" for name, version in found.items()))
    extra = "board" if machine.is_board else "host"
    told = phrase("not installed: no backend on the CPU")
    return Finding("ONNX Runtime", "warning", told, phrase('pip install ".[{extra}]" in the clone', extra=extra))


def check_qt(machine: Machine) -> Finding:
    """Look for OpenCV's own Qt plugins, which make a PyQt5 window abort, and for two OpenCVs in one folder."""
    found = machine.packages([*_CV2_WITH_QT, *_CV2_WITHOUT_QT, "pyqt5"])
    opencv = [name for name in (*_CV2_WITH_QT, *_CV2_WITHOUT_QT) if name in found]
    with_qt = [name for name in opencv if name in _CV2_WITH_QT]
    qt = found.get("pyqt5")
    told = listed([
        *([f"{name} {found[name]}" for name in opencv] or [phrase("no OpenCV")]),
        f"PyQt5 {qt}" if qt else phrase("no PyQt5"),
    ])  # fmt: skip
    plugins = machine.environ.get("QT_QPA_PLATFORM_PLUGIN_PATH", "")
    if "cv2" in Path(plugins).parts:
        told = phrase("QT_QPA_PLATFORM_PLUGIN_PATH points into OpenCV: a window aborts")
        return Finding("Qt", "warning", told, "unset QT_QPA_PLATFORM_PLUGIN_PATH")
    if len(opencv) > 1:
        told = phrase("{told}: both write the folder cv2", told=told)
        return Finding("Qt", "warning", told, _reinstall(opencv))
    if with_qt and qt:
        told = phrase("{told}: OpenCV's Qt plugins make a PyQt5 window abort", told=told)
        return Finding("Qt", "warning", told, _reinstall(with_qt[:1]))
    return Finding("Qt", "ok", told)


def _reinstall(opencv: list[str]) -> str:
    return phrase("pip uninstall -y {names}, then pip install opencv-python-headless", names=" ".join(opencv))
