"""File trees of machines for the doctor's tests: path -> content, put together from what owners of boards published.

Contents are as the kernel writes them: null-separated device-tree strings, newlines, units. Nodes of /dev are plain
files. Paths and values of the vendor kernels come from public logs of Orange Pi 5 and Rock 5B boards (5.10.110,
6.1.43 and 6.1.115); those of mainline from the `rocket` driver's documentation and logs of 6.18.
"""

from __future__ import annotations

from pathlib import Path

from deploy.doctor import diagnose
from deploy.doctor_machine import Finding

Tree = dict[str, str | bytes]

_RENDER = "sys/class/drm/renderD129/device/uevent"
_CPUINFO_ARM = "processor\t: 0\nBogoMIPS\t: 48.00\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd05\n"


def library(version: str, machine: int = 183) -> bytes:
    """Return what the doctor reads of a librknnrt.so: an ELF header, and the version among other bytes."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + (3).to_bytes(2, "little") + machine.to_bytes(2, "little")
    text = f"librknnrt version: {version} (429f97ae6b@2025-04-09T09:09:27)".encode() if version else b""
    return header + bytes(9000) + b"RKNN_LOG_LEVEL\0" + text + b"\0" + bytes(50)


def wheel(name: str, version: str, place: str = "usr/lib/python3/dist-packages") -> Tree:
    """Return an installed Python distribution."""
    folder = f"{place}/{name.replace('-', '_')}-{version}.dist-info"
    return {f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"}


def zone(number: int, kind: str, milli: int, *trips: tuple[str, int]) -> Tree:
    """Return one thermal zone with its trip points."""
    folder = f"sys/class/thermal/thermal_zone{number}"
    tree: Tree = {f"{folder}/type": f"{kind}\n", f"{folder}/temp": f"{milli}\n"}
    for i, (trip, at) in enumerate(trips):
        tree |= {f"{folder}/trip_point_{i}_type": f"{trip}\n", f"{folder}/trip_point_{i}_temp": f"{at}\n"}
    return tree


def devfreq(name: str, governor: str, now: int, steps: str) -> Tree:
    """Return one device with frequency scaling, in Hz."""
    folder, top = f"sys/class/devfreq/{name}", steps.split()[-1]
    return {
        f"{folder}/governor": f"{governor}\n",
        f"{folder}/cur_freq": f"{now}\n",
        f"{folder}/max_freq": f"{top}\n",
        f"{folder}/available_frequencies": f"{steps}\n",
    }


def _cpus(governor: str) -> Tree:
    """Return the RK3588's three clusters: four A55, two pairs of A76 whose top clocks differ a little."""
    tree: Tree = {"sys/devices/system/cpu/online": "0-7\n"}
    for policy, cpus, top, capacity in (
        (0, "0 1 2 3", 1800000, 414),
        (4, "4 5", 2304000, 1024),
        (6, "6 7", 2256000, 1002),
    ):
        folder = f"sys/devices/system/cpu/cpufreq/policy{policy}"
        tree |= {
            f"{folder}/scaling_governor": f"{governor}\n",
            f"{folder}/related_cpus": f"{cpus}\n",
            f"{folder}/cpuinfo_max_freq": f"{top}\n",
        }
        tree |= {f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": f"{capacity}\n" for cpu in cpus.split()}
    return tree


def _meminfo(total: int, available: int) -> str:
    return f"MemTotal:       {total} kB\nMemFree:         9000 kB\nMemAvailable:   {available} kB\nBuffers: 1 kB\n"


def _status(cpus: str) -> str:
    return f"Name:\tcat\nState:\tR (running)\nCpus_allowed:\tff\nCpus_allowed_list:\t{cpus}\nMems_allowed_list:\t0\n"


def healthy_board() -> Tree:
    """Return an Orange Pi 5 with a 6.1 vendor kernel, everything installed, governors set to performance."""
    soc = [("passive", 75000), ("passive", 85000), ("critical", 115000)]
    return {
        "proc/device-tree/compatible": "rockchip,rk3588s-orangepi-5\0rockchip,rk3588\0",
        "proc/device-tree/model": "RK3588S OPi5\0",
        "proc/device-tree/npu@fdab0000/status": "okay\0",
        "proc/version": "Linux version 6.1.43-rockchip-rk3588 (root@b) (aarch64-none-linux-gnu-gcc 11.2.1) #1 SMP\n",
        "proc/cpuinfo": _CPUINFO_ARM,
        "proc/meminfo": _meminfo(7927000, 5101000),
        "proc/self/status": _status("0-7"),
        "proc/devices": "Character devices:\n  1 mem\n 10 misc\n226 drm\n\nBlock devices:\n179 mmc\n",
        "sys/module/rknpu/version": "0.9.8\n",
        "sys/kernel/debug/rknpu/version": "RKNPU driver: v0.9.8\n",
        "sys/kernel/debug/rknpu/load": "NPU load:  Core0:  0%, Core1:  0%, Core2:  0%,\n",
        "sys/class/drm/renderD128/device/uevent": "DRIVER=rockchip-drm\nOF_NAME=display-subsystem\n",
        _RENDER: "DRIVER=RKNPU\nOF_NAME=npu\nOF_FULLNAME=/npu@fdab0000\nOF_COMPATIBLE_0=rockchip,rk3588-rknpu\n",
        "dev/dri/renderD128": "",
        "dev/dri/renderD129": "",
        "dev/mpp_service": "",
        "dev/rga": "",
        "dev/dma_heap/system": "",
        "usr/lib/librknnrt.so": library("2.5.0"),
        "usr/lib/aarch64-linux-gnu/gstreamer-1.0/libgstrockchipmpp.so": b"\x7fELF",
        **wheel("rknn-toolkit-lite2", "2.5.0"),
        **wheel("onnxruntime", "1.22.0"),
        **wheel("opencv-python-headless", "4.12.0.88"),
        **wheel("PyQt5", "5.15.9"),
        **devfreq("fdab0000.npu", "performance", 1000000000, "300000000 400000000 500000000 600000000 1000000000"),
        **devfreq("dmc", "performance", 2112000000, "528000000 1068000000 1560000000 2112000000"),
        **devfreq("fb000000.gpu", "simple_ondemand", 300000000, "300000000 1000000000"),
        **_cpus("performance"),
        **zone(0, "soc-thermal", 44384, *soc),
        **zone(1, "bigcore0-thermal", 45307),
        **zone(6, "npu-thermal", 43461),
    }


def untuned_board() -> Tree:
    """Return a Rock 5B as its image starts it: every governor on demand, debugfs closed to users."""
    tree = healthy_board() | {
        "proc/device-tree/compatible": "radxa,rock-5b\0rockchip,rk3588\0",
        "proc/device-tree/model": "Radxa ROCK 5B\0",
        "proc/version": "Linux version 6.1.115-vendor-rk35xx (armbian@next) (aarch64-linux-gnu-gcc) #1 SMP\n",
        **devfreq("fdab0000.npu", "rknpu_ondemand", 300000000, "300000000 600000000 1000000000"),
        **devfreq("dmc", "dmc_ondemand", 528000000, "528000000 1068000000 1560000000 2112000000"),
        **_cpus("ondemand"),
    }
    return {path: content for path, content in tree.items() if not path.startswith("sys/kernel/debug")}


def old_driver() -> Tree:
    """Return an early image: kernel 5.10.110 with rknpu 0.8.2, an old runtime beside a new wheel."""
    return healthy_board() | {
        "proc/version": "Linux version 5.10.110-rockchip-rk3588 (root@test) (gcc 10.3.1) #1.1.8 SMP\n",
        "sys/module/rknpu/version": "0.8.2\n",
        "sys/kernel/debug/rknpu/version": "RKNPU driver: v0.8.2\n",
        "usr/lib/librknnrt.so": library("1.4.0"),
    }


def mainline_board() -> Tree:
    """Return a Rock 5B on mainline 6.18: the rocket driver on /dev/accel/accel0, no rknpu, no video decoder's node."""
    gone = (
        "sys/module/rknpu",
        "sys/kernel/debug",
        "sys/class/drm",
        "dev/mpp",
        "dev/rga",
        "sys/class/devfreq",
        "usr/lib/gst",
    )
    tree: Tree = {path: text for path, text in healthy_board().items() if not path.startswith(gone)}
    del tree["dev/dri/renderD129"], tree["proc/device-tree/npu@fdab0000/status"]
    return tree | {
        "proc/device-tree/compatible": "radxa,rock-5b\0rockchip,rk3588\0",
        "proc/device-tree/model": "Radxa ROCK 5B\0",
        "proc/version": "Linux version 6.18.22-current-rockchip64 (build@armbian) (aarch64-linux-gnu-gcc) #1 SMP\n",
        "proc/devices": "Character devices:\n  1 mem\n226 drm\n261 accel\n",
        "sys/module/rocket/refcnt": "0\n",
        "sys/class/accel/accel0/device/uevent": "DRIVER=rocket\nOF_NAME=npu\n",
        "dev/accel/accel0": "",
    }


def container() -> Tree:
    """Return an unprivileged container on a vendor kernel: no device tree, no nodes, the kernel's /sys/module."""
    return {
        ".dockerenv": "",
        "proc/version": "Linux version 6.1.115-vendor-rk35xx (armbian@next) (aarch64-linux-gnu-gcc) #1 SMP\n",
        "proc/cpuinfo": _CPUINFO_ARM,
        "proc/meminfo": _meminfo(7927000, 5101000),
        "proc/self/status": _status("0-7"),
        "proc/devices": "Character devices:\n226 drm\n",
        "sys/module/rknpu/version": "0.9.8\n",
        "dev/null": "",
        "usr/lib/librknnrt.so": library("2.5.0"),
        **wheel("rknn-toolkit-lite2", "2.5.0"),
        **wheel("onnxruntime", "1.22.0"),
        **wheel("opencv-python-headless", "4.12.0.88"),
        **_cpus("performance"),
    }


def host() -> Tree:
    """Return an x86 machine with 16 CPUs, as one trains and converts on."""
    return {
        "proc/version": "Linux version 6.1.0-37-amd64 (debian-kernel@lists.debian.org) (gcc-12) #1 SMP Debian\n",
        "proc/cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: a CPU\n",
        "proc/meminfo": _meminfo(32000000, 21000000),
        "proc/self/status": _status("0-15"),
        "sys/devices/system/cpu/online": "0-15\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "powersave\n",
        **zone(0, "x86_pkg_temp", 48000),
        **wheel("onnxruntime", "1.22.0"),
        **wheel("opencv-python-headless", "4.12.0.88"),
    }


def raspberry() -> Tree:
    """Return an Arm board with another chip."""
    return host() | {
        "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/version": "Linux version 6.6.31+rpt-rpi-2712 (serge@raspberrypi.com) (gcc-12) #1 SMP PREEMPT\n",
        "proc/cpuinfo": _CPUINFO_ARM,
    }


def plant(tree: Tree, root: Path) -> Path:
    """Write a tree below a folder and return the folder."""
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def found_on(tree: Tree, root: Path, bundle: Path | None = None, **environ: str) -> dict[str, Finding]:
    """Plant a tree, examine it with these environment variables alone, and return its findings by check."""
    findings = diagnose(plant(tree, root), bundle, environ)
    assert len({f.check for f in findings}) == len(findings)
    return {f.check: f for f in findings}


def not_ok(found: dict[str, Finding]) -> dict[str, str]:
    """Return check -> level of what is not ok."""
    return {check: f.level for check, f in found.items() if f.level != "ok"}


def without(tree: Tree, *prefixes: str) -> Tree:
    """Return a tree without the paths that begin so."""
    return {path: content for path, content in tree.items() if not path.startswith(prefixes)}
