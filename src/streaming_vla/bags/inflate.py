"""Decompression that never takes more memory than it was told, and that returns what comes before a damage."""

from __future__ import annotations

from collections.abc import Callable

import lz4.frame
import zstandard

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAX_BYTES = 1 << 30  # of one chunk or message
_LARGEST_WINDOW_BYTES = 1 << 27  # of zstd; `zstd --long` needs as much
_PIECE_BYTES = 1 << 12  # a piece in which a damage lies is lost


def inflate(name: str, data: memoryview, size: int) -> tuple[bytes | memoryview, str]:
    """Return the content, and what is wrong with it ("" when nothing is).

    Args:
        name: of the compression, "" for none.
        size: that the content should have in bytes.
    """
    if size > MAX_BYTES:
        return b"", f"it claims {size} bytes, more than {MAX_BYTES}"
    if not name:
        return data[:size], "" if len(data) >= size else f"it has {len(data)} of {size} bytes"
    if name not in _WAYS:
        return b"", f"its compression '{name}' is not known, expected zstd, lz4 or none"
    try:
        content = _WAYS[name](data, size)
        trouble = "" if len(content) == size else f"{len(content)} of {size} bytes could be decompressed"
    except (zstandard.ZstdError, RuntimeError, EOFError, MemoryError) as error:
        return b"", f"it cannot be decompressed: {error}"
    return content, trouble


def inflate_message(data: memoryview) -> bytes:
    """Return one message that was compressed by itself (zstd).

    Raises:
        ValueError: it cannot be decompressed.
    """
    content, trouble = inflate("zstd", data, _zstd_size(data))
    if trouble:
        raise ValueError(trouble)
    return bytes(content)


def _zstd_size(data: memoryview) -> int:
    """Return the size of the content that the frame's header tells, MAX_BYTES + 1 when it does not."""
    try:
        size: int = zstandard.get_frame_parameters(data).content_size
    except zstandard.ZstdError:
        return MAX_BYTES + 1
    return min(size, MAX_BYTES + 1)


def _zstd(data: memoryview, size: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW_BYTES)
    if _zstd_size(data) == size:
        try:
            return decompressor.decompress(data)
        except zstandard.ZstdError:
            pass  # in pieces, for what comes before the damage
    reader = decompressor.stream_reader(data)
    return _pieces(reader.read, size)


def _lz4(data: memoryview, size: int) -> bytes:
    try:
        whole: bytes = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size)
        return whole
    except (RuntimeError, EOFError):
        pass  # in pieces, for what comes before the damage
    decompressor = lz4.frame.LZ4FrameDecompressor()
    rest: list[memoryview | bytes] = [data]

    def read(count: int) -> bytes:
        if decompressor.eof:
            return b""
        piece: bytes = decompressor.decompress(rest.pop() if rest else b"", max_length=count)
        return piece

    return _pieces(read, size)


def _pieces(read: Callable[[int], bytes], size: int) -> bytes:
    parts: list[bytes] = []
    left = size
    try:
        while left > 0 and (part := read(min(left, _PIECE_BYTES))):
            parts.append(part)
            left -= len(part)
    except (zstandard.ZstdError, RuntimeError, EOFError):
        pass  # what was read so far is returned; its length tells
    return b"".join(parts)


_WAYS: dict[str, Callable[[memoryview, int], bytes]] = {"zstd": _zstd, "lz4": _lz4}
