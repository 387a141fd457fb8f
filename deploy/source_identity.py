"""Identity of a source: which file it is, however it was named, and whether it is still the same."""

from __future__ import annotations

import os
import stat

# Where it lies, and of a file its size in bytes and the time of its last change in nanoseconds.
Identity = tuple[str] | tuple[str, int, int]


def identity_of(name: str) -> Identity:
    """Return the resolved path of a file with its size and time of change; of addresses and cameras the name alone.

    A name that leads to no file has its resolved path alone.
    """
    if "://" in name or name.isdecimal():
        return (name,)
    try:
        path = os.path.realpath(name)
        found = os.stat(path)
    except FileNotFoundError:
        return (path,)
    except (OSError, ValueError):  # no file can have such a name
        return (name,)
    return (path, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (name,)


def has_changed(then: Identity, now: Identity) -> bool:
    """Tell whether a file has other contents than when it was read, as far as its size and time tell."""
    return then[0] == now[0] and len(then) == len(now) == 3 and then != now
