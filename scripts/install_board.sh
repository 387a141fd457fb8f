#!/bin/sh
# Install rsedge on an RK3588 board with Debian or Ubuntu (arm64): apt packages, an environment, the board extra, a check.
#
#   scripts/install_board.sh                apt packages, .venv, rsedge with the board extra; ends with rsedge doctor
#   scripts/install_board.sh --no-apt       leave the system alone; what lacks is named
#   scripts/install_board.sh --venv DIR     the environment stands in DIR, not in .venv
#
# Run it again after each update of the clone: what is there stays, rsedge itself is installed anew. Only apt-get needs
# root; as another user the script calls sudo for it. PYTHON=/path/to/python overrides /usr/bin/python3.
#
# PyQt5 has no aarch64 wheel, so the window's Qt is Debian's python3-pyqt5; the environment sees it through
# --system-site-packages, which works for the Python that the package was built for: the system's own.
#
# Exit code: 0 installed and rsedge doctor found no error. 1 installed, rsedge doctor found errors. 2 not installed.
set -u

fail() {
    echo "install_board.sh: $*" >&2
    exit 2
}

here=$(cd "$(dirname "$0")/.." && pwd) || exit 2
venv=$here/.venv
apt=yes
while [ $# -gt 0 ]; do
    case $1 in
    --no-apt) apt=no ;;
    --venv)
        [ $# -ge 2 ] && [ -n "$2" ] || fail "--venv needs a folder"
        venv=$2
        shift
        ;;
    -h | --help)
        sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *) fail "unknown option '$1'; use --no-apt, --venv DIR or --help" ;;
    esac
    shift
done

machine=$(uname -m)
if [ "$(uname -s)" != Linux ] || [ "$machine" != aarch64 ]; then
    fail "this is for the board (64-bit Arm Linux), here is $(uname -s) on $machine; on a host run make install"
fi
[ -f "$here/pyproject.toml" ] || fail "$here holds no pyproject.toml; run the script out of a clone of rsedge"

# --- what apt brings ---------------------------------------------------------------------------------------------------

# The wheels carry their own codecs, BLAS and GDAL; readelf over them leaves these beside glibc and Debian's Python.
packages="python3 python3-venv python3-pyqt5 ca-certificates libstdc++6 libgcc-s1 zlib1g"

missing=
for package in $packages; do
    state=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) || state=
    [ "$state" = "install ok installed" ] || missing="$missing $package"
done
missing=${missing# }

if [ -n "$missing" ] && [ "$apt" = no ]; then
    echo "install_board.sh: --no-apt, and these packages are not installed: $missing" >&2
elif [ -n "$missing" ]; then
    command -v apt-get >/dev/null 2>&1 || fail "there is no apt-get here; install Python 3.10 to 3.12 with venv and" \
        "PyQt5 by this system's own means, then run again with --no-apt"
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null 2>&1 ||
            fail "packages are missing and there is no sudo; run as root: apt-get install -y $missing"
        as_root=sudo
    fi
    echo "installing with apt-get: $missing"
    $as_root apt-get update || fail "apt-get update failed; look at the network and the clock of the board"
    # $missing is a list: unquoted on purpose.
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing ||
        fail "apt-get could not install: $missing"
fi

# --- the environment ---------------------------------------------------------------------------------------------------

python=${PYTHON:-/usr/bin/python3}
command -v "$python" >/dev/null 2>&1 || fail "there is no $python; install python3, or name one with PYTHON="
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "$python does not run"
case $version in
3.10 | 3.11 | 3.12) ;;
*) fail "$python is Python $version, rknn-toolkit-lite2 has wheels for 3.10 to 3.12 here; use Debian 12, Ubuntu 22.04" \
    "or 24.04, or name another Python with PYTHON=" ;;
esac

if [ -e "$venv/pyvenv.cfg" ]; then
    grep -Eqi '^include-system-site-packages *= *true' "$venv/pyvenv.cfg" ||
        fail "$venv was made without --system-site-packages and cannot see python3-pyqt5; remove it, or take --venv DIR"
    made=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || made=nothing
    [ "$made" = "$version" ] ||
        fail "$venv runs Python $made, the system's is $version now; remove it, or take --venv DIR"
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        echo "$venv has no pip, a run before this one was cut off; making it whole"
        "$python" -m venv --system-site-packages "$venv" || fail "$python could not mend $venv; remove it and run again"
    fi
elif [ -e "$venv" ] && [ -n "$(ls -A "$venv" 2>/dev/null)" ]; then
    fail "$venv exists and is no environment; take --venv DIR"
else
    echo "making $venv with $python"
    "$python" -m venv --system-site-packages "$venv" ||
        fail "$python could not make $venv; is python3-venv installed, and may you write there?"
fi
echo "installing rsedge with the board extra into $venv"
"$venv/bin/python" -m pip install --disable-pip-version-check "$here[board]" ||
    fail "pip could not install rsedge; the lines above say why. Run again when that is mended"

# --- the vendor's runtime library --------------------------------------------------------------------------------------

# rknn-toolkit-lite2 does not bring it and looks for it in /usr/lib; its licence lets nobody but the vendor hand it out.
if [ ! -e /usr/lib/librknnrt.so ] && ! ldconfig -p 2>/dev/null | grep -q 'librknnrt\.so'; then
    toolkit=$(sed -n 's/.*rknn-toolkit-lite2==\([0-9.]*\).*/\1/p' "$here/pyproject.toml" | head -n 1)
    echo "librknnrt.so, the NPU's runtime library, is not installed. Take version ${toolkit:-of the toolkit} or newer from" \
        "the vendor's repository airockchip/rknn-toolkit2, rknpu2/runtime/Linux/librknn_api/aarch64/librknnrt.so," \
        "copy it to /usr/lib and run: sudo ldconfig" >&2
fi

echo
"$venv/bin/rsedge" doctor
found=$?
echo
if [ $found -gt 1 ]; then
    fail "rsedge is installed but rsedge doctor does not run (exit code $found)"
fi
echo "installed: $venv/bin/rsedge"
exit $found
