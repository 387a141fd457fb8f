#!/bin/bash
# Try scripts/install_board.sh in an arm64 Debian that qemu runs on this machine: what a board gets, without a board.
#
#   scripts/test_board_userland.sh [DIR]    DIR: folder of the userland (default /tmp/rsedge-arm64); made once, then reused
#
# Needs root, 4 GB of disk, the network, and Debian's qemu-user-static, binfmt-support and debootstrap. SUITE=bookworm,
# MIRROR=URL of the packages (default: debootstrap's own). Takes about half an hour the first time: qemu is 10 to 30
# times slower than a board, so no time measured here means anything. There is no NPU, no device tree and no board's
# kernel in there: the last step shows what the vendor's wheel and rsedge say about that. Not part of make test.
#
# Exit code: 0 when everything before the last step worked and the last step failed as it should.
set -euo pipefail

fail() {
    echo "test_board_userland.sh: $*" >&2
    exit 2
}

here=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-/tmp/rsedge-arm64}
suite=${SUITE:-bookworm}

[ "$(id -u)" = 0 ] || fail "needs root, for debootstrap and chroot"
for tool in debootstrap qemu-aarch64-static git; do
    command -v "$tool" >/dev/null || fail "no $tool; apt-get install qemu-user-static binfmt-support debootstrap git"
done

# --- the userland ------------------------------------------------------------------------------------------------------

# The kernel hands arm64 programs to qemu once it is registered; the F flag opens qemu now, so the chroot needs no copy.
if [ ! -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]; then
    [ -e /proc/sys/fs/binfmt_misc/register ] || mount -t binfmt_misc none /proc/sys/fs/binfmt_misc ||
        fail "this kernel has no binfmt_misc, qemu cannot be registered"
    update-binfmts --enable qemu-aarch64
fi
if [ ! -e "$dir/.made" ]; then
    echo "== debootstrap $suite arm64 into $dir"
    # ${MIRROR:-} is left out where it is empty: unquoted on purpose.
    debootstrap --arch=arm64 --foreign --variant=minbase --include=ca-certificates "$suite" "$dir" ${MIRROR:-}
    chroot "$dir" /debootstrap/debootstrap --second-stage
    touch "$dir/.made"
fi

mounted=
cleanup() { for place in $mounted; do umount "$place"; done; }
trap cleanup EXIT
mount -t proc proc "$dir/proc"
mounted="$dir/proc"
# No /sys: it describes this machine's x86 CPUs, and ONNX Runtime for Arm dies of a segmentation fault over them.
mount --bind /dev "$dir/dev"
mounted="$dir/dev $mounted"

# How this machine reaches its packages: name servers, certificates, pip's settings. All of it stays in $dir.
cp -L /etc/resolv.conf "$dir/etc/resolv.conf"
[ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$dir/etc/pip.conf"
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$dir/etc/ssl/certs/"
mapfile -t forwarded < <(env | grep -E '^(PIP_(CERT|INDEX_URL|DEFAULT_TIMEOUT)|SSL_CERT_(FILE|DIR)|[a-z]+_proxy|[A-Z]+_PROXY)=' || true)

inside() {
    chroot "$dir" /usr/bin/env -i HOME=/root LANG=C.UTF-8 TERM=dumb COLUMNS=120 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        OMP_NUM_THREADS="${OMP_NUM_THREADS:-}" "${forwarded[@]}" /bin/sh -c "cd /root/rsedge && $1"
}

echo "== the clone"
rm -rf "$dir/root/rsedge.new"
mkdir -p "$dir/root/rsedge.new" "$dir/root/rsedge"
(cd "$here" && git ls-files -z --cached --others --exclude-standard | xargs -0 sh -c 'for f; do [ ! -f "$f" ] || printf "%s\0" "$f"; done' sh |
    tar --null -T - -cf -) | tar -C "$dir/root/rsedge.new" -xf -
[ ! -d "$dir/root/rsedge/.venv" ] || mv "$dir/root/rsedge/.venv" "$dir/root/rsedge.new/.venv"
rm -rf "$dir/root/rsedge"
mv "$dir/root/rsedge.new" "$dir/root/rsedge"

# --- the installation, twice -------------------------------------------------------------------------------------------

for turn in first second; do
    echo "== scripts/install_board.sh, $turn time"
    code=0
    inside "scripts/install_board.sh" || code=$?
    [ $code -le 1 ] || fail "install_board.sh ended with $code"
done

# --- what must work ----------------------------------------------------------------------------------------------------

echo "== every board module imports, and what the extra and apt brought"
inside ".venv/bin/python - <<'END'
import importlib, pathlib, platform, sys
modules = [p for p in sorted(pathlib.Path('deploy').rglob('*.py')) if p.parts[1] != 'convert' and p.stem[:2] != '__']
for path in modules:
    importlib.import_module('.'.join(path.with_suffix('').parts))
import cv2, onnxruntime, pyogrio, rasterio, rknnlite.api
from PyQt5 import QtCore, QtWidgets
window = QtWidgets.QApplication(['', '-platform', 'offscreen'])
print(len(modules), 'modules on', platform.machine(), 'Python', sys.version.split()[0], 'PyQt5', QtCore.PYQT_VERSION_STR)
print('rasterio', rasterio.__version__, 'pyogrio', pyogrio.__version__, 'onnxruntime', onnxruntime.__version__, 'cv2', cv2.__version__)
bad = {'torch', 'onnx'} & set(sys.modules)
assert not bad, bad
END"

echo "== rsedge doctor"
inside ".venv/bin/rsedge doctor deploy/zoo/procedural" || [ $? = 1 ]
inside ".venv/bin/rsedge doctor --json > /root/doctor.json || [ \$? = 1 ]; python3 -m json.tool /root/doctor.json > /dev/null"

echo "== rsedge detect through ONNX Runtime, on a drawn scene"
inside ".venv/bin/python - <<'END'
import cv2
from deploy.procedural import draw_scene
cv2.imwrite('/root/scene.png', draw_scene(5).image[..., ::-1])
END"
inside "rm -rf /root/found && .venv/bin/rsedge detect deploy/zoo/procedural /root/scene.png --backend onnx --out /root/found"
inside "python3 -c \"
import json
found = json.load(open('/root/found/detections.json'))
assert len(found['annotations']) > 0, 'nothing found'
print(len(found['annotations']), 'boxes in detections.json')\""

# --- what must fail, and how -------------------------------------------------------------------------------------------

cat > "$dir/root/wheel.py" <<'END'
from rknnlite.api import RKNNLite

lite = RKNNLite()
print("load_rknn:", lite.load_rknn("deploy/zoo/procedural/model.rknn"))
code = lite.init_runtime(core_mask=RKNNLite.NPU_CORE_0)
print("init_runtime:", code)
assert code != 0, "an NPU in qemu?"
END

npu_backends() {
    inside ".venv/bin/python -c 'from deploy.backends.opening import KINDS
print(*(kind for kind in KINDS if kind.startswith(\"rknn\") and kind != \"rknn-sim\"))'"
}

without_npu() {
    inside ".venv/bin/python /root/wheel.py"
    for backend in $(npu_backends); do
        code=0
        inside ".venv/bin/rsedge detect deploy/zoo/procedural /root/scene.png --backend $backend --out /root/npu" || code=$?
        [ $code = 2 ] || fail "--backend $backend ended with $code, not with 2"
    done
    inside "rm -rf /root/npu && .venv/bin/rsedge detect deploy/zoo/procedural /root/scene.png --out /root/npu"
}

echo "== without a device tree: the vendor's wheel, rsedge's backends for the NPU, and auto, which does without"
without_npu

echo "== with the device tree of a Rock 5B, but neither driver nor library"
# procfs takes no new files: a folder with the few that matter stands in its place.
facts=$(mktemp -d)
mkdir -p "$facts/device-tree" "$facts/self"
printf 'radxa,rock-5b\0rockchip,rk3588\0' > "$facts/device-tree/compatible"
printf 'Radxa ROCK 5B\0' > "$facts/device-tree/model"
cp /proc/meminfo /proc/version /proc/cpuinfo "$facts/"
umount "$dir/proc"
mount --bind "$facts" "$dir/proc"
without_npu
code=0
inside ".venv/bin/rsedge doctor deploy/zoo/procedural" || code=$?
[ $code = 1 ] || fail "rsedge doctor ended with $code on a board without a driver, not with 1"
echo "== all as it should be"
