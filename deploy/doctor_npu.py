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
from .phrases import listed, phrase, together
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

_VENDOR_KERNEL_CURE = phrase(
    "boot the board maker's image or Armbian's vendor kernel (5.10 or 6.1, with rknpu), "
    "or go without the NPU: rsedge detect --backend onnx"
)
_CONTAINER_CURE = phrase(
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
    name = (machine.read("/proc/device-tree/model") or "").split("\n")[0]
    model = name or phrase("board without a name")
    chip = next((name.split(",")[1].upper() for name in machine.compatible if re.match(r"rockchip,rk\d", name)), None)
    if machine.is_rk3588:
        names = [name for name in machine.compatible if re.fullmatch(r"rockchip,rk3588s?", name)]
        return Finding("chip", "ok", phrase("{chip}: {model}", chip=names[0].split(",")[1].upper(), model=model))
    if machine.compatible:
        told = phrase("no RK3588 but {chip}: {model}", chip=chip or machine.compatible[-1], model=model)
        return Finding("chip", "warning", told, phrase("models are compiled for the RK3588; here use --backend onnx"))
    if machine.is_board:
        told = phrase("a container that hides the device tree, on kernel {kernel}", kernel=machine.kernel)
        return Finding("chip", "error", told, _CONTAINER_CURE)
    if machine.architecture == "aarch64" and machine.has_rockchip_kernel:
        told = phrase("kernel {kernel} but no device tree", kernel=machine.kernel)
        return Finding("chip", "warning", told, phrase("mount /proc and /sys, then run rsedge doctor again"))
    told = phrase(
        "a host ({architecture}), no RK3588: fine for training, converting and the ONNX backend",
        architecture=machine.architecture,
    )
    return Finding("chip", "ok", told)


def check_kernel(machine: Machine) -> Finding:
    """Say which kernel runs; whether it serves the NPU is the driver's check."""
    told = phrase("Linux {kernel} on {architecture}", kernel=machine.kernel, architecture=machine.architecture)
    if machine.in_container:
        told = phrase("{told}, in a container", told=told)
    return Finding("kernel", "ok", told)


def check_driver(machine: Machine) -> Finding:
    """Tell the vendor's `rknpu` driver from mainline's `rocket`, which the vendor's runtime does not know."""
    if _has_rknpu(machine):
        return Finding("NPU driver", "ok", phrase("rknpu, the vendor's"))
    uevents = [machine.read(path) or "" for path in machine.glob("/sys/class/accel/accel*/device/uevent")]
    if machine.exists("/sys/module/rocket") or any("DRIVER=rocket" in text for text in uevents):
        told = phrase("rocket, mainline's: the vendor's runtime does not speak to it")
        return Finding("NPU driver", "error", told, _VENDOR_KERNEL_CURE)
    status = machine.read("/proc/device-tree/npu@fdab0000/status")
    if status == "disabled":
        told = phrase("none: the device tree has the NPU switched off")
        cure = phrase(
            "enable the NPU in the board's configuration (armbian-config, rsetup, orangepi-config) and reboot"
        )
        return Finding("NPU driver", "error", told, cure)
    if machine.in_container:
        return Finding("NPU driver", "error", phrase("not to be seen from this container"), _CONTAINER_CURE)
    told = phrase("none in kernel {kernel}", kernel=machine.kernel)
    return Finding("NPU driver", "error", told, _VENDOR_KERNEL_CURE)


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
        cure = phrase("run as root, debugfs is closed to others: sudo cat /sys/kernel/debug/rknpu/version")
        return Finding("driver version", "warning", phrase("cannot be read by this user"), cure)
    if version < OLDEST_DRIVER:
        told = phrase(
            "{version}, the runtime asks for {oldest} or newer", version=dotted(version), oldest=dotted(OLDEST_DRIVER)
        )
        cure = phrase(
            "update the kernel that holds it: a newer image of the board's maker, or Armbian's vendor kernel (0.9.x)"
        )
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
            return Finding("NPU device", "error", phrase("none in this container's /dev"), _CONTAINER_CURE)
        drm = re.search(r"^\s*\d+ drm$", machine.read("/proc/devices") or "", re.MULTILINE)
        told = (
            phrase("none in /dev, though the kernel has DRM devices")
            if drm
            else phrase("none in /dev, though the kernel has the driver")
        )
        return Finding("NPU device", "error", told, phrase("see why it did not start: sudo dmesg | grep -i rknpu"))
    closed = next((node for node in nodes if not machine.may_use(node)), None)
    if closed is None:
        told = phrase("{nodes}, this user may use it", nodes=", ".join(map(machine.shown, nodes)))
        return Finding("NPU device", "ok", told)
    told = phrase("{node} is closed to this user", node=machine.shown(closed))
    return Finding("NPU device", "error", told, access_cure(machine, closed))


def access_cure(machine: Machine, node: Path) -> str:
    """Return how a user gets at a device node: the group that owns it, or a rule for udev where root does."""
    group = machine.group_of(node)
    if group:
        return phrase("sudo usermod -aG {group} $USER, then log in again", group=group)
    kind = f'KERNEL=="{node.name}"' if node.parent.name != "dma_heap" else 'SUBSYSTEM=="dma_heap"'
    if node.name.startswith("renderD") or node.name.endswith("-render"):
        kind = 'SUBSYSTEM=="drm", KERNEL=="renderD*"'
    rule = f'{kind}, GROUP="render", MODE="0660"'
    return phrase(
        "add {rule} to /etc/udev/rules.d/60-rsedge.rules, then sudo usermod -aG render $USER and reboot", rule=rule
    )


def check_load(machine: Machine) -> Finding | None:
    """Say how busy the cores are, where debugfs is open; None elsewhere. Others' work makes figures meaningless."""
    text = machine.read("/sys/kernel/debug/rknpu/load") or machine.read("/proc/rknpu/load")
    if not text or not (loads := [int(value) for value in re.findall(r"(\d+)\s*%", text)]):
        return None
    told = listed([phrase("core {core} {load} %", core=i, load=load) for i, load in enumerate(loads)])
    if max(loads) > _BUSY_PERCENT:
        return Finding("NPU load", "warning", told, phrase("another process uses the NPU; stop it before measuring"))
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
    file = phrase(
        "rknpu2/runtime/Linux/librknn_api/aarch64/{library} of the vendor's repository airockchip/rknn-toolkit2",
        library=LIBRARY,
    )
    if not copies:
        cure = phrase("copy {file} to /usr/lib, then sudo ldconfig", file=file)
        return Finding("runtime library", "error", phrase("no {library}", library=LIBRARY), cure)
    first = copies[0]
    if not first.for_aarch64:
        told = phrase("{path} is no library for aarch64", path=first.path)
        return Finding("runtime library", "error", told, phrase("replace it by {file}", file=file))
    if first.version is None:
        told = phrase("{path} does not tell its version", path=first.path)
        cure = phrase("if models do not load, replace it by {file}", file=file)
        return Finding("runtime library", "warning", told, cure)
    folder = first.path.rpartition("/")[0]
    told = phrase("{library} {version} in {folder}", library=LIBRARY, version=dotted(first.version), folder=folder)
    other = next((copy for copy in copies if copy.version != first.version), None)
    if other:
        told = phrase("{told}, another version in {folder}", told=told, folder=other.path.rpartition("/")[0])
        cure = phrase("keep one, in /usr/lib, or which one is loaded is chance")
        return Finding("runtime library", "warning", told, cure)
    if not machine.exists(f"/usr/lib/{LIBRARY}"):
        cure = phrase(
            "the vendor's wheel looks in /usr/lib: sudo ln -s {path} /usr/lib/{library}",
            path=first.path,
            library=LIBRARY,
        )
        return Finding("runtime library", "warning", told, cure)
    return Finding("runtime library", "ok", told)


def check_wheel(machine: Machine) -> Finding:
    """Look for the vendor's Python wheel and compare it with the library."""
    text = machine.packages([_WHEEL]).get(_WHEEL)
    wheel, copies = version_in(text), runtimes(machine)
    if text is None or wheel is None:
        told = phrase("{wheel} is not installed: no backend through the vendor's Python", wheel=_WHEEL)
        return Finding("wheel", "warning", told, phrase('pip install ".[{extra}]" in the clone', extra="board"))
    told = phrase("{wheel} {version}", wheel=_WHEEL, version=text)
    library = copies[0].version if copies else None
    if library and library[:2] != wheel[:2]:
        told = phrase("{told}, but {library} is {version}", told=told, library=LIBRARY, version=dotted(library))
        cure = phrase("bring {library} to {version}", library=LIBRARY, version=dotted(wheel))
        return Finding("wheel", "warning", told, cure)
    return Finding("wheel", "ok", told)


def check_model(machine: Machine, bundle: Path) -> Finding:
    """Compare the toolkit that compiled a bundle's model with the runtime that is to load it."""
    try:
        manifest = load_manifest(bundle)
    except (OSError, ValueError) as error:
        told, _, cure = (told_in_one_line(error) or str(error)).partition("; ")
        return Finding("model", "error", told, cure or phrase("name a bundle: a folder with a manifest.json"))
    return _compare(machine, manifest)


def _compare(machine: Machine, manifest: Manifest) -> Finding:
    toolkit, copies = version_in(manifest.toolkit_version), runtimes(machine)
    held = together(sorted(role for role in manifest.files if role in ("onnx", "rknn"))) or phrase("no model")
    told = phrase("{name} ({held})", name=manifest.name, held=held)
    if manifest.files.get("rknn") is None:
        if machine.is_board:
            told = phrase("{told}: nothing for the NPU", told=told)
            return Finding("model", "warning", told, phrase("export the bundle again with its .rknn"))
        return Finding("model", "ok", told)
    if not machine.is_board and "onnx" not in manifest.files:
        told = phrase("{told}: only an NPU runs it, and there is none here", told=told)
        cure = phrase("run it on the board, or export the bundle again with its ONNX file for this machine's CPU")
        return Finding("model", "error", told, cure)
    if machine.is_board and manifest.target != "rk3588":
        told = phrase("{told} is compiled for {target}", told=told, target=manifest.target)
        return Finding("model", "error", told, phrase("export it for rk3588"))
    if toolkit is None:
        return Finding("model", "ok", phrase("{told}, does not say which toolkit made it", told=told))
    told = phrase("{told}, made by toolkit {version}", told=told, version=dotted(toolkit))
    runtime = copies[0].version if copies and machine.is_board else None
    if runtime is None:
        return Finding("model", "ok", told)
    # The runtime's own words: "Invalid RKNN model version 6", or a warning and then operators that it does not have.
    if toolkit > runtime:
        told = phrase("{told}, newer than the runtime's {version}", told=told, version=dotted(runtime))
        cure = phrase(
            "bring {library} to {toolkit} or newer, or export with rknn-toolkit2 {runtime}",
            library=LIBRARY,
            toolkit=dotted(toolkit),
            runtime=dotted(runtime),
        )
        return Finding("model", "error", told, cure)
    return Finding("model", "ok", phrase("{told}, runtime {version}", told=told, version=dotted(runtime)))


def _has_rknpu(machine: Machine) -> bool:
    signs = ("/sys/module/rknpu", "/sys/kernel/debug/rknpu", "/proc/rknpu", "/dev/rknpu")
    return any(map(machine.exists, signs)) or bool(npu_nodes(machine))
