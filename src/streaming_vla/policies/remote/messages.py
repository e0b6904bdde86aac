"""msgpack messages of strangers: how many values they hold and how deep is known before anything is made of them.

A message of a few bytes can claim a list of four thousand million values, and every byte of a message can be an empty
map; so the headers are walked first, which allocates nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

MOST_VALUES = 4096  # keys count too; a message with two pictures has about thirty
MOST_DEPTH = 16
# bytes behind the header of a value of fixed size, by its first byte
FIXED = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8,
    0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
}  # fmt: skip
# bytes that the length takes, by the first byte
BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # of bytes and text
LISTS = {0xDC: 2, 0xDD: 4}
MAPS = {0xDE: 2, 0xDF: 4}


class WireError(ValueError):
    """A message cannot be read or written; the text is one sentence that says why."""


def pack_message(value: Any, default: Callable[[Any], Any]) -> bytes:
    """Return a value as msgpack.

    Args:
        default: makes plain values of what msgpack does not know; may raise WireError.

    Raises:
        WireError: something in it has no form on the wire.
    """
    try:
        packed: bytes = msgpack.packb(value, default=default)
    except WireError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"the message cannot be written: {_line(error)}") from error
    return packed


def unpack_message(data: bytes, most_bytes: int, hook: Callable[[dict[Any, Any]], Any]) -> Any:
    """Return the value of a message.

    Args:
        data: the message.
        most_bytes: that it may have.
        hook: makes what a map stands for; may raise WireError.

    Raises:
        WireError: it is too large, has too many values or too deep ones, or is no msgpack.
    """
    if len(data) > most_bytes:
        raise WireError(f"the message has {len(data)} bytes, at most {most_bytes} are taken")
    _walk(data)
    try:
        return msgpack.unpackb(data, object_hook=hook)
    except WireError:
        raise
    except (ValueError, TypeError, RecursionError) as error:  # no UTF-8, a key that is no text
        raise WireError(f"the message is no msgpack that is taken: {_line(error)}") from error


def _walk(data: bytes) -> None:
    """Check by the headers that a message is one whole value of few parts."""
    position, count = 0, 0
    left = [1]  # values that are still to come, of every list and map around
    while left:
        if left[-1] == 0:
            left.pop()
            continue
        left[-1] -= 1
        count += 1
        if count > MOST_VALUES:
            raise WireError(f"the message has more than {MOST_VALUES} values")
        size, inside = _header(data, position)
        position += size
        if position > len(data):
            raise WireError(f"the message is cut: it ends after {len(data)} bytes, within a value")
        if inside:
            if inside > MOST_VALUES:
                raise WireError(f"the message claims a list or map of {inside} values, at most {MOST_VALUES} are taken")
            if len(left) > MOST_DEPTH:
                raise WireError(f"the message is more than {MOST_DEPTH} levels deep")
            left.append(inside)
    if position < len(data):
        raise WireError(f"the message goes on for {len(data) - position} bytes behind its value")


def _header(data: bytes, at: int) -> tuple[int, int]:
    """Return the bytes that a value takes without the values in it, and how many those are."""
    if at >= len(data):
        raise WireError(f"the message is cut: it ends after {len(data)} bytes, before a value")
    first = data[at]
    if first < 0x80 or first >= 0xE0:  # a small number
        return 1, 0
    if first < 0x90:
        return 1, 2 * (first & 0x0F)
    if first < 0xA0:
        return 1, first & 0x0F
    if first < 0xC0:
        return 1 + (first & 0x1F), 0
    if first in FIXED:
        return 1 + FIXED[first], 0
    width = BYTES.get(first) or LISTS.get(first) or MAPS.get(first)
    if width is None:
        raise WireError(f"the message holds an extension of msgpack (byte 0x{first:02x}), none is taken")
    length = int.from_bytes(data[at + 1 : at + 1 + width], "big")
    if first in BYTES:
        return 1 + width + length, 0
    return 1 + width, length if first in LISTS else 2 * length


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
