"""Bytes to read from: a file, or a piece of memory, by position."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Protocol

_SMALL_BYTES = 64
_WINDOW_BYTES = 1 << 14


class Source(Protocol):
    """Something of `size` bytes."""

    size: int

    def read(self, position: int, count: int) -> memoryview:
        """Return the bytes at `position`, fewer than `count` at the end."""


class MemorySource:
    """Bytes in memory; what is read shares them."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._view = memoryview(data)
        self.size = len(self._view)

    def read(self, position: int, count: int) -> memoryview:
        """Return a view of the bytes at `position`."""
        return self._view[position : position + count]


class FileSource:
    """A file; what was appended after it was opened is not seen. A context manager.

    It is read, not mapped: a mapped file that shrinks while it is read kills the process.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size
        self._begin, self._window = 0, memoryview(b"")  # heads of records that lie close to each other

    def read(self, position: int, count: int) -> memoryview:
        """Return the bytes at `position`."""
        if count > _SMALL_BYTES:
            return self._read(position, count)
        offset = position - self._begin
        if offset < 0 or offset + count > len(self._window):
            self._begin, self._window = position, self._read(position, _WINDOW_BYTES)
            offset = 0
        return self._window[offset : offset + count]

    def _read(self, position: int, count: int) -> memoryview:
        parts = []
        count = min(count, self.size - position)
        while count > 0:
            part = os.pread(self._file.fileno(), count, position)
            if not part:  # it shrank
                break
            parts.append(part)
            position, count = position + len(part), count - len(part)
        return memoryview(parts[0] if len(parts) == 1 else b"".join(parts))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> FileSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
