"""The messages of GR00T: msgpack whose arrays are .npy files, byte for byte as gr00t's MsgSerializer writes them.

An array is a map with keys in text: "__ndarray_class__" true, "as_npy" the file. Nothing is unpickled.
"""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np

from streaming_vla.policies.remote.arrays import Array, array_over, check_writable, number_type
from streaming_vla.policies.remote.messages import WireError, pack_message, unpack_message

__all__ = ["pack", "unpack"]
MAGIC = b"\x93NUMPY\x01\x00"  # version 1.0, which numpy writes for numbers
HEADER = re.compile(
    rb"\{'descr': '(?P<type>[ -&(-~]{2,40})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>([0-9]{1,15}, ?)*[0-9]{0,15})\), \} *\n"
)


def pack(value: Any) -> bytes:
    """Return a value as a message: None, truth values, numbers, text, bytes, lists, maps and numpy arrays.

    Raises:
        WireError: something in it has no form on the wire, or an array is not of numbers.
    """
    return pack_message(value, _plain)


def unpack(data: bytes, most_bytes: int) -> Any:
    """Return the value of a message. Its arrays are read only and share memory with it; tuples come as lists.

    Raises:
        WireError: the message is longer than `most_bytes`, no msgpack, has too many values, or an array that is not of
            numbers or whose size is not that of its bytes.
    """
    return unpack_message(data, most_bytes, _restored)


def _plain(value: Any) -> dict[str, Any]:
    if not isinstance(value, np.ndarray):
        raise WireError(f"a {type(value).__name__} has no form in a message of GR00T")
    check_writable(value)
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def _restored(found: dict[Any, Any]) -> Any:
    return _read(found.get("as_npy")) if "__ndarray_class__" in found else found


def _read(file: object) -> Array:
    """Return the array of a .npy file; numpy's own reader takes the memory that a header claims, and evaluates it."""
    if not isinstance(file, bytes) or not file.startswith(MAGIC):
        raise WireError("an array is no .npy file of version 1.0")
    begin = len(MAGIC) + 2
    end = begin + int.from_bytes(file[len(MAGIC) : begin], "little")
    header = HEADER.fullmatch(file[begin:end])
    if header is None:
        raise WireError("an array's .npy header cannot be read")
    shape = [int(size) for size in header["shape"].split(b",") if size.strip()]
    order = "F" if header["fortran"] == b"True" else "C"
    return array_over(file[end:], number_type(header["type"].decode()), shape, order)
