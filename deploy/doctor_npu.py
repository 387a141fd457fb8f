"""What the doctor asks about the NPU: its chip, driver and device, the vendor's runtime, wheel and model versions.

Where the facts come from, all public: the vendor kernel's `rknpu` driver (debugfs, /sys/module, DRM uevents),
mainline's `rocket` driver (drivers/accel/rocket), and the log lines that `librknnrt.so` prints when versions do not
fit. No board was at hand: the file trees of the tests are put together from what owners of boards published.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from pathlib import Path

from .doctor_machine import Finding, Machine, Version, dotted, version_in
from .manifest import Manifest, load_manifest
from .told_errors import told_in_one_line

# Below it `librknnrt.so` 1.5.2 to 2.3.0 logs "recommend to upgrade the driver to the new version: >= 0.8.8".
OLDEST_DRIVER: Version = (0, 8, 8)
# The vendor's wheel looks for the library in /usr/lib; the loader finds it in the other places too.
LIBRARY_PLACES = ("/usr/lib", "/usr/lib64", "/usr/lib/aarch64-linux-gnu", "/usr/local/lib", "/lib")
LIBRARY = "librknnrt.so"

_RUNTIME_VERSION = re.compile(rb"librknnrt version: (\d+\.\d+\.\d+)")
_ELF_AARCH64 = 183  # e_machine of System V ABI for the Arm 64-bit Architecture
_BUSY_PERCENT = 50
_WHEEL = "rknn-toolkit-lite2"

_VENDOR_KERNEL_CURE = (
    "boot the board maker's image or Armbian's vendor kernel (5.10 or 6.1, with rknpu), "
    "or go without the NPU: rsedge detect --backend onnx"
)
_CONTAINER_CURE = (
    "start the container with --device /dev/dri --device /dev/dma_heap --device /dev/mpp_service --device /dev/rga "
    "--security-opt systempaths=unconfined"
)


@dataclass(frozen=True)
class Runtime:
    """One copy of the vendor's library. version: None where its file does not tell it."""

    path: str
    for_aarch64: bool
    version: Version | None


def check_chip(machine: Machine) -> Finding:
    """Say which chip this is; a machine that only trains and converts is no fault."""
    model = (machine.read("/proc/device-tree/model") or "board without a name").split("\n")[0]
    chip = next((name.split(",")[1].upper() for name in machine.compatible if re.match(r"rockchip,rk\d", name)), None)
    if machine.is_rk3588:
        names = [name for name in machine.compatible if re.fullmatch(r"rockchip,rk3588s?", name)]
        return Finding("chip", "ok", f"{names[0].split(',')[1].upper()}: {model}")
    if machine.compatible:
        told = f"no RK3588 but {chip or machine.compatible[-1]}: {model}"
        return Finding("chip", "warning", told, "models are compiled for the RK3588; here use --backend onnx")
    if machine.is_board:
        told = f"a container that hides the device tree, on kernel {machine.kernel}"
        return Finding("chip", "error", told, _CONTAINER_CURE)
    if machine.architecture == "aarch64" and machine.has_rockchip_kernel:
        told = f"kernel {machine.kernel} but no device tree"
        return Finding("chip", "warning", told, "mount /proc and /sys, then run rsedge doctor again")
    told = f"a host ({machine.architecture}), no RK3588: fine for training, converting and the ONNX backend"
    return Finding("chip", "ok", told)


def check_kernel(machine: Machine) -> Finding:
    """Say which kernel runs; whether it serves the NPU is the driver's check."""
    inside = ", in a container" if machine.in_container else ""
    return Finding("kernel", "ok", f"Linux {machine.kernel} on {machine.architecture}{inside}")


def check_driver(machine: Machine) -> Finding:
    """Tell the vendor's `rknpu` driver from mainline's `rocket`, which the vendor's runtime does not know."""
    if _has_rknpu(machine):
        return Finding("NPU driver", "ok", "rknpu, the vendor's")
    uevents = [machine.read(path) or "" for path in machine.glob("/sys/class/accel/accel*/device/uevent")]
    if machine.exists("/sys/module/rocket") or any("DRIVER=rocket" in text for text in uevents):
        told = "rocket, mainline's: the vendor's runtime does not speak to it"
        return Finding("NPU driver", "error", told, _VENDOR_KERNEL_CURE)
    status = machine.read("/proc/device-tree/npu@fdab0000/status")
    if status == "disabled":
        cure = "enable the NPU in the board's configuration (armbian-config, rsetup, orangepi-config) and reboot"
        return Finding("NPU driver", "error", "none: the device tree has the NPU switched off", cure)
    if machine.in_container:
        return Finding("NPU driver", "error", "not to be seen from this container", _CONTAINER_CURE)
    return Finding("NPU driver", "error", f"none in kernel {machine.kernel}", _VENDOR_KERNEL_CURE)


def driver_version(machine: Machine) -> Version | None:
    """Return the version of the `rknpu` driver, from wherever this user may read it."""
    places = (
        "/sys/module/rknpu/version",
        "/sys/kernel/debug/rknpu/version",
        "/sys/kernel/debug/rknpu/driver_version",
        "/proc/rknpu/version",
    )
    return next((found for place in places if (found := version_in(machine.read(place)))), None)


def check_driver_version(machine: Machine) -> Finding | None:
    """Compare the driver with what the vendor's runtime asks for; None without an `rknpu` driver."""
    if not _has_rknpu(machine):
        return None
    version = driver_version(machine)
    if version is None:
        cure = "run as root, debugfs is closed to others: sudo cat /sys/kernel/debug/rknpu/version"
        return Finding("driver version", "warning", "cannot be read by this user", cure)
    if version < OLDEST_DRIVER:
        told = f"{dotted(version)}, the runtime asks for {dotted(OLDEST_DRIVER)} or newer"
        cure = "update the kernel that holds it: a newer image of the board's maker, or Armbian's vendor kernel (0.9.x)"
        return Finding("driver version", "warning", told, cure)
    return Finding("driver version", "ok", dotted(version))


def npu_nodes(machine: Machine) -> list[Path]:
    """Return the device nodes of the `rknpu` driver that are in /dev: a DRM render node, on older builds /dev/rknpu."""
    nodes = []
    for uevent in machine.glob("/sys/class/drm/renderD*/device/uevent"):
        if "DRIVER=rknpu" in (machine.read(uevent) or "").replace("RKNPU", "rknpu"):
            nodes.append(machine.path(f"/dev/dri/{uevent.parts[-3]}"))
    # udev's links resolve to absolute names, which mean another file in a capture.
    nodes += machine.glob("/dev/dri/by-path/platform-*.npu-render") if not nodes else []
    return [node for node in [*nodes, machine.path("/dev/rknpu")] if node.exists()]


def check_device(machine: Machine) -> Finding | None:
    """See whether this user may open the NPU; None without an `rknpu` driver."""
    if not _has_rknpu(machine):
        return None
    nodes = npu_nodes(machine)
    if not nodes:
        if machine.in_container:
            return Finding("NPU device", "error", "none in this container's /dev", _CONTAINER_CURE)
        drm = re.search(r"^\s*\d+ drm$", machine.read("/proc/devices") or "", re.MULTILINE)
        told = f"none in /dev, though the kernel has {'DRM devices' if drm else 'the driver'}"
        return Finding("NPU device", "error", told, "see why it did not start: sudo dmesg | grep -i rknpu")
    closed = next((node for node in nodes if not machine.may_use(node)), None)
    if closed is None:
        return Finding("NPU device", "ok", f"{', '.join(map(machine.shown, nodes))}, this user may use it")
    return Finding(
        "NPU device", "error", f"{machine.shown(closed)} is closed to this user", access_cure(machine, closed)
    )


def access_cure(machine: Machine, node: Path) -> str:
    """Return how a user gets at a device node: the group that owns it, or a rule for udev where root does."""
    group = machine.group_of(node)
    if group:
        return f"sudo usermod -aG {group} $USER, then log in again"
    kind = f'KERNEL=="{node.name}"' if node.parent.name != "dma_heap" else 'SUBSYSTEM=="dma_heap"'
    if node.name.startswith("renderD") or node.name.endswith("-render"):
        kind = 'SUBSYSTEM=="drm", KERNEL=="renderD*"'
    rule = f'{kind}, GROUP="render", MODE="0660"'
    return f"add {rule} to /etc/udev/rules.d/60-rsedge.rules, then sudo usermod -aG render $USER and reboot"


def check_load(machine: Machine) -> Finding | None:
    """Say how busy the cores are, where debugfs is open; None elsewhere. Others' work makes figures meaningless."""
    text = machine.read("/sys/kernel/debug/rknpu/load") or machine.read("/proc/rknpu/load")
    if not text or not (loads := [int(value) for value in re.findall(r"(\d+)\s*%", text)]):
        return None
    told = ", ".join(f"core {i} {load} %" for i, load in enumerate(loads))
    if max(loads) > _BUSY_PERCENT:
        return Finding("NPU load", "warning", told, "another process uses the NPU; stop it before measuring")
    return Finding("NPU load", "ok", told)


def runtimes(machine: Machine) -> list[Runtime]:
    """Return the copies of `librknnrt.so` in LD_LIBRARY_PATH and the usual places, each file once, in that order."""
    own = [place for place in machine.environ.get("LD_LIBRARY_PATH", "").split(":") if place.startswith("/")]
    found: dict[Path, Runtime] = {}
    for place in [*own, *LIBRARY_PLACES]:
        path = machine.path(f"{place}/{LIBRARY}")
        if path.is_file() and (file := path.resolve()) not in found:
            found[file] = Runtime(machine.shown(path), *_read_library(path))
    return list(found.values())


def _read_library(path: Path) -> tuple[bool, Version | None]:
    """Return whether a library is for aarch64, and the version in the string that its own log prints."""
    try:
        with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            aarch64 = data[:5] == b"\x7fELF\x02" and int.from_bytes(data[18:20], "little") == _ELF_AARCH64
            match = _RUNTIME_VERSION.search(data)
            return aarch64, version_in(match[1].decode()) if match else None
    except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
        return False, None


def check_runtime(machine: Machine) -> Finding:
    """Look for the vendor's library: there, for this processor, one copy, where the wheel looks for it."""
    copies = runtimes(machine)
    get = f"rknpu2/runtime/Linux/librknn_api/aarch64/{LIBRARY} of the vendor's repository airockchip/rknn-toolkit2"
    if not copies:
        return Finding("runtime library", "error", f"no {LIBRARY}", f"copy {get} to /usr/lib, then sudo ldconfig")
    first = copies[0]
    if not first.for_aarch64:
        told = f"{first.path} is no library for aarch64"
        return Finding("runtime library", "error", told, f"replace it by {get}")
    if first.version is None:
        told = f"{first.path} does not tell its version"
        return Finding("runtime library", "warning", told, f"if models do not load, replace it by {get}")
    told = f"{LIBRARY} {dotted(first.version)} in {first.path.rpartition('/')[0]}"
    other = next((copy for copy in copies if copy.version != first.version), None)
    if other:
        told += f", another version in {other.path.rpartition('/')[0]}"
        return Finding("runtime library", "warning", told, "keep one, in /usr/lib, or which one is loaded is chance")
    if not machine.exists(f"/usr/lib/{LIBRARY}"):
        cure = f"the vendor's wheel looks in /usr/lib: sudo ln -s {first.path} /usr/lib/{LIBRARY}"
        return Finding("runtime library", "warning", told, cure)
    return Finding("runtime library", "ok", told)


def check_wheel(machine: Machine) -> Finding:
    """Look for the vendor's Python wheel and compare it with the library."""
    text = machine.packages([_WHEEL]).get(_WHEEL)
    wheel, copies = version_in(text), runtimes(machine)
    if text is None or wheel is None:
        cure = 'pip install ".[board]" in the clone'
        return Finding("wheel", "warning", f"{_WHEEL} is not installed: no backend through the vendor's Python", cure)
    told = f"{_WHEEL} {text}"
    library = copies[0].version if copies else None
    if library and library[:2] != wheel[:2]:
        told += f", but {LIBRARY} is {dotted(library)}"
        return Finding("wheel", "warning", told, f"bring {LIBRARY} to {dotted(wheel)}")
    return Finding("wheel", "ok", told)


def check_model(machine: Machine, bundle: Path) -> Finding:
    """Compare the toolkit that compiled a bundle's model with the runtime that is to load it."""
    try:
        manifest = load_manifest(bundle)
    except (OSError, ValueError) as error:
        told, _, cure = (told_in_one_line(error) or str(error)).partition("; ")
        return Finding("model", "error", told, cure or "name a bundle: a folder with a manifest.json")
    return _compare(machine, manifest)


def _compare(machine: Machine, manifest: Manifest) -> Finding:
    toolkit, copies = version_in(manifest.toolkit_version), runtimes(machine)
    held = " and ".join(sorted(role for role in manifest.files if role in ("onnx", "rknn"))) or "no model"
    told = f"{manifest.name} ({held})"
    if manifest.files.get("rknn") is None:
        if machine.is_board:
            return Finding("model", "warning", f"{told}: nothing for the NPU", "export the bundle again with its .rknn")
        return Finding("model", "ok", told)
    if not machine.is_board and "onnx" not in manifest.files:
        cure = "run it on the board, or export the bundle again with its ONNX file for this machine's CPU"
        return Finding("model", "error", f"{told}: only an NPU runs it, and there is none here", cure)
    if machine.is_board and manifest.target != "rk3588":
        return Finding("model", "error", f"{told} is compiled for {manifest.target}", "export it for rk3588")
    if toolkit is None:
        return Finding("model", "ok", f"{told}, does not say which toolkit made it")
    told += f", made by toolkit {dotted(toolkit)}"
    runtime = copies[0].version if copies and machine.is_board else None
    if runtime is None:
        return Finding("model", "ok", told)
    # The runtime's own words: "Invalid RKNN model version 6", or a warning and then operators that it does not have.
    if toolkit > runtime:
        told += f", newer than the runtime's {dotted(runtime)}"
        cure = f"bring {LIBRARY} to {dotted(toolkit)} or newer, or export with rknn-toolkit2 {dotted(runtime)}"
        return Finding("model", "error", told, cure)
    return Finding("model", "ok", f"{told}, runtime {dotted(runtime)}")


def _has_rknpu(machine: Machine) -> bool:
    signs = ("/sys/module/rknpu", "/sys/kernel/debug/rknpu", "/proc/rknpu", "/dev/rknpu")
    return any(map(machine.exists, signs)) or bool(npu_nodes(machine))
