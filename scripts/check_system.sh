#!/bin/sh
# Check what pip cannot bring: a Python 3.10 to 3.12 that can make environments, and the system libraries of the wheels.
#
#   scripts/check_system.sh              print the path of the Python to use; exit 2 with the apt-get line if something lacks
#   scripts/check_system.sh --packages   print only the names of the apt packages that lack (nothing: all is there)
#
# PYTHON=/path/to/python overrides the search. Each candidate is run, not only looked up: pyenv leaves shims behind for
# versions that are not active. The wheels of opencv-python-headless, torch, onnxruntime and rknn-toolkit2 carry their own
# codecs, BLAS and OpenMP; readelf over all of them leaves the three libraries below beside glibc. No libGL, no glib.
set -u

mode=${1:-check}
if [ "$mode" != check ] && [ "$mode" != --packages ]; then
    echo "check_system.sh: unknown option '$mode'; use --packages or none" >&2
    exit 2
fi

usable='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'

if [ "$(uname -s)" != Linux ]; then
    echo "rsedge needs Linux (x86_64 or aarch64): rknn-toolkit2 has wheels for nothing else" >&2
    exit 2
fi

find_python() {
    for candidate in ${PYTHON:-python3.12 python3.11 python3.10 python3 python}; do
        path=$(command -v "$candidate" 2>/dev/null) || continue
        if "$path" -c "$usable" >/dev/null 2>&1; then
            "$path" -c 'import sys; print(sys.executable)'
            return 0
        fi
    done
    return 1
}

# Names of apt packages that this Python and the wheels need and that are missing, one a line.
missing_packages() {
    "$1" - <<'END'
import ctypes
import os
import sys

debian_python = os.path.realpath(sys.executable).startswith("/usr/bin/")
try:
    import ensurepip  # noqa: F401
    import venv  # noqa: F401
except ImportError:
    print("python3.%d-venv" % sys.version_info[1] if debian_python else "python3-venv")
for library, package in (("libstdc++.so.6", "libstdc++6"), ("libgcc_s.so.1", "libgcc-s1"), ("libz.so.1", "zlib1g")):
    try:
        ctypes.CDLL(library)
    except OSError:
        print(package)
END
}

# The distribution's own Python, where it is of the right version.
apt_python() {
    for version in 3.12 3.11 3.10; do
        if apt-cache show "python$version-venv" >/dev/null 2>&1; then
            echo "python$version"
            echo "python$version-venv"
            return
        fi
    done
}

if python=$(find_python); then
    missing=$(missing_packages "$python" | sort -u | tr '\n' ' ')
    missing=${missing% }
elif [ -n "${PYTHON:-}" ]; then
    echo "rsedge needs Python 3.10 to 3.12, but PYTHON=$PYTHON is not one (or does not run)" >&2
    exit 2
else
    python=
    missing=$(apt_python | tr '\n' ' ')
    missing=${missing% }
    if [ -z "$missing" ]; then
        echo "rsedge needs Python 3.10 to 3.12 and found none. Install one, for example with 'uv python install 3.12' or" \
            "'pyenv install 3.12', and name it: make install PYTHON=/path/to/python3.12" >&2
        exit 2
    fi
fi

if [ "$mode" = --packages ]; then
    [ -z "$missing" ] || echo "$missing"
    exit 0
fi
if [ -n "$missing" ]; then
    echo "System packages are missing. This line brings them:" >&2
    echo "    sudo apt-get update && sudo apt-get install -y $missing" >&2
    exit 2
fi
echo "$python"
