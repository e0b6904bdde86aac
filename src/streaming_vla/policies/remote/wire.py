"""The messages of openpi: msgpack with numpy arrays, byte for byte as openpi-client's msgpack_numpy writes them.

An array is a map with keys in bytes: b"__ndarray__" true, b"data" the numbers in C order, b"dtype", b"shape"; a numpy
scalar is b"__npgeneric__" true, b"data" its value, b"dtype". Ordinary maps have keys in text. Nothing is unpickled.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streaming_vla.policies.remote.arrays import array_over, check_writable, number_type
from streaming_vla.policies.remote.messages import WireError, pack_message, unpack_message

__all__ = ["WireError", "pack", "unpack"]


def pack(value: Any) -> bytes:
    """Return a value as a message: None, truth values, numbers, text, bytes, lists, maps, numpy arrays and scalars.

    Raises:
        WireError: something in it has no form on the wire, or an array is not of numbers.
    """
    return pack_message(value, _plain)


def unpack(data: bytes, most_bytes: int) -> Any:
    """Return the value of a message. Its arrays are read only and share memory with `data`; tuples come as lists.

    Raises:
        WireError: the message is longer than `most_bytes`, no msgpack, has too many values, or an array that is not of
            numbers or whose size is not that of its bytes.
    """
    return unpack_message(data, most_bytes, _restored)


def _plain(value: Any) -> dict[bytes, Any]:
    if isinstance(value, np.ndarray):
        check_writable(value)
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        check_writable(value)
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise WireError(f"a {type(value).__name__} has no form in a message of openpi")


def _restored(found: dict[Any, Any]) -> Any:
    if b"__ndarray__" in found:
        return array_over(found.get(b"data"), number_type(found.get(b"dtype")), found.get(b"shape"))
    if b"__npgeneric__" in found:
        dtype, number = number_type(found.get(b"dtype")), found.get(b"data")
        if not isinstance(number, (bool, int, float)):
            raise WireError(f"a number of type {dtype.str} is a {type(number).__name__}")
        try:
            return dtype.type(number)
        except (OverflowError, ValueError) as error:
            raise WireError(f"{number} is no number of type {dtype.str}") from error
    return found
