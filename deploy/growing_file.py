"""Growing files: lines appended whole or not at all, and documents that are valid at any moment.

A JSON document has to be closed behind its last item. Writing over the closing brackets in place would leave an invalid
file where a kill falls between two pages of one write (the kernel gives up a write to a file there). So a document is
written beside the old one and renamed over it; what was written before is copied inside the kernel.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

_SPILL_BYTES = 32 << 20


def append_whole(fd: int, path: Path, data: bytes, size: int) -> None:
    """Append all of `data` to a file of `size` bytes, or nothing. Raises OSError that names `path`."""
    try:
        write_all(fd, data)
    except OSError as error:
        os.ftruncate(fd, size)  # works on a full disk too
        os.lseek(fd, size, os.SEEK_SET)
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> OSError:
    """Return the error that tells which file could not be written and why."""
    return OSError(error.errno, f"{path}: cannot be written ({error.strerror or error})")


class GrowingDocument:
    """A text file of fixed pieces with a list of items between each two of them, published whole.

    path: of the file. pieces: n + 1 texts around n lists; items are joined by a comma and a line end. `append`, `show`
    and `publish` may be called from two threads.
    """

    def __init__(self, path: Path, pieces: Sequence[str]) -> None:
        self.path = path
        self._pieces = [piece.encode("utf-8") for piece in pieces]
        lists = len(pieces) - 1
        self._pending: list[list[bytes]] = [[] for _ in range(lists)]
        self._pending_bytes = 0
        self._lengths = [0] * lists  # of each list in the file that `_fd` reads, which need not have a name yet
        self._shown = [b""] * lists  # what stands behind them for the time being,
        self._shown_lengths = [0] * lists  # and its lengths in that file
        self._fd = -1
        self._lock = threading.Lock()

    def append(self, *lists: Sequence[str]) -> None:
        """Add items to each of the lists, all of them or none in what `publish` writes; what was shown goes."""
        texts = [",\n".join(items).encode("utf-8") for items in lists]
        with self._lock:
            self._shown = [b""] * len(texts)
            for pending, text in zip(self._pending, texts, strict=True):
                if text:
                    pending.append(text)
            self._pending_bytes += sum(map(len, texts))

    def show(self, *lists: Sequence[str]) -> None:
        """Have `publish` write items behind all others, until other ones are shown or the next ones are added."""
        texts = [",\n".join(items).encode("utf-8") for items in lists]
        with self._lock:
            self._shown = texts

    def spill(self) -> None:
        """Move what waits in memory to the disk if it has become much, without publishing it. Raises OSError."""
        if self._pending_bytes > _SPILL_BYTES:
            self._write(publish=False)

    def publish(self) -> None:
        """Bring the file up to date, whole or not at all. Raises OSError; what is there then stays, nothing is lost."""
        self._write(publish=True)

    def close(self) -> None:
        """Let go of the file, without publishing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, publish: bool) -> None:
        with self._lock:
            taken, shown = self._pending, self._shown
            self._pending = [[] for _ in taken]
            self._pending_bytes = 0
        scratch = self.path.with_name(self.path.name + ".part")
        fd = -1
        try:
            fd = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
            lengths, shown_lengths = self._fill(fd, taken, shown)
            if publish:
                os.fsync(fd)  # or a power cut just behind the renaming may leave an empty file
                os.replace(scratch, self.path)
            else:
                scratch.unlink()
        except OSError as error:
            if fd >= 0:
                os.close(fd)
                scratch.unlink(missing_ok=True)
            with self._lock:
                self._pending = [old + new for old, new in zip(taken, self._pending, strict=True)]
                self._pending_bytes = sum(len(text) for texts in self._pending for text in texts)
            raise cannot_write(self.path, error) from error
        self.close()
        self._fd, self._lengths, self._shown_lengths = fd, lengths, shown_lengths

    def _fill(self, fd: int, taken: Sequence[Sequence[bytes]], shown: Sequence[bytes]) -> tuple[list[int], list[int]]:
        """Write the whole document, what `_fd` holds and then what was taken; return the length of each list.

        shown: what comes behind each list, and its length is returned apart.
        """
        offset = len(self._pieces[0])
        lengths, shown_lengths = [], []
        write_all(fd, self._pieces[0])
        lists = zip(self._pieces[1:], self._lengths, self._shown_lengths, taken, shown, strict=True)
        for piece, length, skipped, texts, last in lists:
            copy_bytes(self._fd, offset, fd, length)
            fresh = b",\n".join(texts)
            if length and fresh:
                fresh = b",\n" + fresh
            write_all(fd, fresh)
            lengths.append(length + len(fresh))
            if lengths[-1] and last:
                last = b",\n" + last
            write_all(fd, last)
            shown_lengths.append(len(last))
            write_all(fd, piece)
            offset += length + skipped + len(piece)
        return lengths, shown_lengths


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`: a nearly full disk takes a part, and refuses only the next. Raises OSError."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(fd, view) :]


def copy_bytes(source: int, offset: int, target: int, count: int) -> None:
    """Copy `count` bytes from `offset` of one file to where the other stands. Raises OSError."""
    while count:
        sent = os.sendfile(target, source, offset, count)
        if not sent:
            raise OSError("it was cut short by another program")
        offset += sent
        count -= sent
