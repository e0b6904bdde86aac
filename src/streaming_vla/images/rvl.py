"""RVL, the depth compression of A. D. Wilson, Fast Lossless Depth Image Compression (2017), decoded with NumPy.

A picture is runs of pixels without and with a measurement in turn. A run is its length; one with measurements is
followed by the difference of each from the one before, zigzag coded. Numbers are groups of three bits in nibbles, the
lowest first, the fourth bit tells that more follow; eight nibbles are a 32 bit word, the first one highest.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LONGEST_NUMBER = 11  # nibbles: 32 bits


def decode_rvl(data: npt.NDArray[np.uint8], pixels: int) -> npt.NDArray[np.uint16]:
    """Return [pixels] values of an RVL stream.

    Raises:
        ValueError: the stream ends before the picture does, or holds a number that no depth has.
    """
    words = data[: len(data) // 4 * 4].reshape(-1, 4)[:, ::-1]  # little endian
    nibbles = np.stack((words >> 4, words & 15), axis=-1).reshape(-1)
    ends = np.flatnonzero(nibbles < 8)
    begins = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    if len(ends) and (ends - begins).max() >= LONGEST_NUMBER:
        raise ValueError("an RVL number has more than 32 bits")
    nibbles = nibbles[: ends[-1] + 1] if len(ends) else nibbles[:0]
    places = np.arange(len(nibbles)) - np.repeat(begins, ends - begins + 1)
    parts = (nibbles & 7).astype(np.int64) << (3 * places)
    numbers = np.add.reduceat(parts, begins) if len(begins) else np.zeros(0, np.int64)
    kept, spans = _runs(numbers, pixels)
    coded = numbers[np.concatenate([np.arange(begin, end) for begin, end in spans])] if spans else numbers[:0]
    values = np.cumsum((coded >> 1) ^ -(coded & 1))
    if len(values) and (values.min() < 0 or values.max() > 0xFFFF):
        raise ValueError("an RVL value is no 16 bit number")
    found = np.zeros(pixels, np.uint16)
    found[np.concatenate([np.arange(begin, end) for begin, end in kept]) if kept else []] = values
    return found


def _runs(numbers: npt.NDArray[np.int64], pixels: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the pixels of each run with measurements, and the numbers that hold them."""
    kept, spans = [], []
    place = number = 0
    while place < pixels:
        if number + 2 > len(numbers):
            raise ValueError(f"the RVL stream ends after {place} of {pixels} px")
        zeros, length = int(numbers[number]), int(numbers[number + 1])
        place, number = place + zeros, number + 2
        if place + length > pixels or number + length > len(numbers):
            raise ValueError(f"an RVL run of {length} px at {place} does not fit into {pixels} px")
        if length:
            kept.append((place, place + length))
            spans.append((number, number + length))
        elif not zeros and place < pixels:
            raise ValueError("an RVL stream has an empty run")
        place, number = place + length, number + length
    return kept, spans
