"""Arrays of a message: which kinds of numbers are taken, and an array over bytes that came, without a copy."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.policies.remote.messages import WireError

Array = npt.NDArray[Any]
MOST_DIMENSIONS = 8
NUMBER = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")  # truth values, whole numbers, floating point


def number_type(name: object) -> np.dtype[Any]:
    """Return the numpy type of a name like "<f4".

    Raises:
        WireError: it is none of numbers (objects, text, records), which nobody unpickles here.
    """
    if not isinstance(name, str) or not NUMBER.fullmatch(name):
        raise WireError(f"an array is of type {str(name)[:40]!r}, only numbers are taken (|u1, <i8, <f4, ...)")
    return np.dtype(name)


def check_writable(array: Array | np.generic) -> None:
    """Refuse an array that the other end would have to unpickle, and other kinds that are no numbers."""
    number_type(array.dtype.str)


def array_over(data: object, dtype: np.dtype[Any], shape: object, order: str = "C") -> Array:
    """Return an array, read only, over bytes that came.

    Args:
        data: bytes of the numbers.
        shape: list or tuple of sizes.
        order: "C", or "F" when the first index is the fastest.

    Raises:
        WireError: the bytes are not as many as the shape says.
    """
    if not isinstance(data, bytes):
        raise WireError(f"an array's numbers are a {type(data).__name__}, expected bytes")
    if not isinstance(shape, Sequence) or not all(type(size) is int and size >= 0 for size in shape):
        raise WireError(f"an array has the shape {str(shape)[:60]!r}, expected a list of sizes")
    if len(shape) > MOST_DIMENSIONS:
        raise WireError(f"an array has {len(shape)} dimensions, at most {MOST_DIMENSIONS} are taken")
    expected = math.prod(shape) * dtype.itemsize
    if expected != len(data):
        raise WireError(
            f"an array of shape {tuple(shape)} and type {dtype.str} has {len(data)} bytes, expected {expected}"
        )
    try:
        return np.ndarray(tuple(shape), dtype, data, order="F" if order == "F" else "C")
    except ValueError as error:  # without numbers, but with sizes that no machine has
        raise WireError(f"an array has the shape {tuple(shape)}: {error}") from error
