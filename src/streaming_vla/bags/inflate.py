"""Decompression that never takes more memory than it was told, and that returns what comes before a damage."""

from __future__ import annotations

from collections.abc import Callable

import lz4.frame
import zstandard

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAX_BYTES = 1 << 29  # of one chunk or message
FREE_BYTES, LARGEST_RATIO = 1 << 26, 1000  # what is larger and was compressed by more is a bomb, no recording
_LARGEST_WINDOW_BYTES = 1 << 27  # of zstd; `zstd --long` needs as much
_PIECE_BYTES = 1 << 12  # a piece in which a damage lies is lost
_ERRORS = (zstandard.ZstdError, RuntimeError, EOFError, MemoryError)


def inflate(name: str, data: memoryview, size: int) -> tuple[bytes | memoryview, str]:
    """Return the content, and what is wrong with it ("" when nothing is).

    Args:
        name: of the compression, "" for none.
        size: that the content should have in bytes.
    """
    if trouble := refusal(len(data), size):
        return b"", trouble
    if not name:
        return data[:size], "" if len(data) >= size else f"it has {len(data)} of {size} bytes"
    if name not in _WAYS:
        return b"", f"its compression '{name}' is not known, expected zstd, lz4 or none"
    whole, pieces = _WAYS[name]
    try:
        content = whole(data, size)
    except _ERRORS:
        content = b""
    if len(content) != size:
        content = pieces(data, size)  # for what comes before the damage
    return content, "" if len(content) == size else f"{len(content)} of {size} bytes could be decompressed"


def refusal(packed: int, size: int) -> str:
    """Return why so many bytes of content are not made of `packed` ones; "" when they are."""
    if size > MAX_BYTES:
        return f"it claims {size} bytes, more than {MAX_BYTES}"
    if size > max(FREE_BYTES, LARGEST_RATIO * packed):
        return f"it claims {size} bytes in {packed}, which no recording is compressed to"
    return ""


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
    return size


def _zstd(data: memoryview, size: int) -> bytes:
    if _zstd_size(data) != size:  # memory is taken by what the frame says
        return b""
    return zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW_BYTES).decompress(data)


def _zstd_pieces(data: memoryview, size: int) -> bytes:
    return _read(zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW_BYTES).stream_reader(data).read, size)


def _lz4(data: memoryview, size: int) -> bytes:
    whole: bytes = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size)
    return whole


def _lz4_pieces(data: memoryview, size: int) -> bytes:
    decompressor = lz4.frame.LZ4FrameDecompressor()
    rest: list[memoryview | bytes] = [data]

    def read(count: int) -> bytes:
        if decompressor.eof:
            return b""
        piece: bytes = decompressor.decompress(rest.pop() if rest else b"", max_length=count)
        return piece

    return _read(read, size)


def _read(read: Callable[[int], bytes], size: int) -> bytes:
    parts: list[bytes] = []
    left = size
    try:
        while left > 0 and (part := read(min(left, _PIECE_BYTES))):
            parts.append(part)
            left -= len(part)
    except _ERRORS:
        pass  # what was read so far is returned; its length tells
    return b"".join(parts)


_Way = Callable[[memoryview, int], bytes]
_WAYS: dict[str, tuple[_Way, _Way]] = {"zstd": (_zstd, _zstd_pieces), "lz4": (_lz4, _lz4_pieces)}
