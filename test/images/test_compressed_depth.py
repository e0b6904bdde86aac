"""Compressed depth is that of raw messages: PNG, RVL and inverse depth; what cannot be used is refused."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from camera_messages import LIMIT_M, SIZE, encoded, pixels, raw
from hypothesis import given
from hypothesis import strategies as st

from streaming_vla.images.rvl import decode_rvl


def depth_m(seed: int = 1) -> np.ndarray:
    """Return [H, W] float32 metres with holes."""
    random = np.random.default_rng(seed)
    values = cv2.resize(random.uniform(0.3, 6.0, (6, 8)).astype(np.float32), SIZE[::-1])
    values[random.random(SIZE) < 0.2] = np.nan
    return values


def rvl(values: np.ndarray) -> bytes:
    """Return the RVL stream of 16 bit values, as in the paper: nibble by nibble."""
    nibbles: list[int] = []

    def number(value: int) -> None:
        while True:
            value, low = value >> 3, value & 7
            nibbles.append(low | (8 if value else 0))
            if not value:
                return

    flat, at, previous = values.reshape(-1).astype(int).tolist(), 0, 0
    while at < len(flat):
        for empty in (True, False):
            end = at
            while end < len(flat) and (flat[end] == 0) == empty:
                end += 1
            number(end - at)
            for value in flat[at:end] if not empty else ():
                difference, previous = value - previous, value
                number((difference << 1) ^ (difference >> 63))
            at = end
    nibbles += [0] * (-len(nibbles) % 8)
    return b"".join(
        struct.pack("<I", int("".join(f"{n:x}" for n in nibbles[at : at + 8]), 16)) for at in range(0, len(nibbles), 8)
    )


ONES = np.ones((4, 4), np.uint16)


def depth_message(values: np.ndarray, codec: str, a: float = 0.0, b: float = 0.0, kind: int = 0) -> bytes:
    header = struct.pack("<iff", kind, a, b)
    if codec == "rvl":
        return header + struct.pack("<II", values.shape[1], values.shape[0]) + rvl(values)
    return header + encoded(".png", values)


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        ("png", "16UC1; compressedDepth"),
        ("png", "16UC1; compressedDepth png"),
        ("rvl", "16UC1; compressedDepth rvl"),
        ("rvl", " 16UC1 ;compressedDepth  rvl "),
    ],
)
def test_depth_of_16_bits_is_as_the_raw_one(codec: str, text: str) -> None:
    values = np.nan_to_num(depth_m() * 1000).astype(np.uint16)
    assert np.array_equal(pixels(text, depth_message(values, codec)), raw("16UC1", values))


@pytest.mark.parametrize("codec", ["png", "rvl"])
@pytest.mark.parametrize(("quantisation", "farthest"), [(100.0, 10.0), (50.0, 5.0), (130.0, 20.0)])
def test_inverse_depth_is_as_the_raw_one(codec: str, quantisation: float, farthest: float) -> None:
    a = quantisation * (quantisation + 1)
    b = 1 - a / farthest
    metres = depth_m()
    coded = np.where(metres < farthest, a / metres + b, 0)
    message = depth_message(np.nan_to_num(coded).astype(np.uint16), codec, a, b)
    found, expected = (
        pixels(f"32FC1; compressedDepth {codec}", message),
        raw("32FC1", np.where(metres < farthest, metres, np.nan)),
    )
    step_m = metres**2 / a  # what one number more changes
    allowed = 1 + np.nan_to_num(255 * step_m / LIMIT_M)
    assert (np.abs(found[..., 0].astype(int) - expected[..., 0]) <= allowed + 1).all()
    assert ((found == 0) == (expected == 0)).mean() > 0.97


def test_depth_by_the_plain_transport() -> None:
    values = np.nan_to_num(depth_m() * 1000).astype(np.uint16)
    assert np.array_equal(pixels("16UC1; png compressed ", encoded(".png", values)), raw("16UC1", values))
    assert np.array_equal(pixels("32FC1; tiff compressed ", encoded(".tiff", depth_m())), raw("32FC1", depth_m()))
    with pytest.raises(ValueError, match="it holds uint8 of 1 channels, expected depth of 16UC1"):
        pixels("16UC1; jpeg compressed ", encoded(".jpg", (values >> 8).astype(np.uint8)))


@pytest.mark.parametrize(
    ("text", "data", "reason"),
    [
        ("16UC1; compressedDepth png", bytes(12), "it has 12 bytes, expected a header of 12 and a picture"),
        ("16UC1; compressedDepth png", depth_message(np.ones((4, 4), np.uint8), "png"), "it holds uint8 of 1 channels"),
        ("16UC1; compressedDepth png", bytes(12) + b"no picture", "its data are another kind"),
        ("16UC1; compressedDepth png", depth_message(np.ones((9, 9), np.uint16), "png")[:-20], "its data are damaged"),
        ("32FC1; compressedDepth png", depth_message(ONES, "png", 1.0, 0.0, kind=-1), "coding -1"),
        ("32FC1; compressedDepth png", depth_message(ONES, "png", np.nan, 0.0), "parameters nan"),
        ("32FC1; compressedDepth rvl", depth_message(ONES, "rvl", 0.0, 0.0), "parameters 0 and 0"),
        ("16UC1; compressedDepth rvl", bytes(12) + bytes(4), "it has no size"),
        ("16UC1; compressedDepth rvl", bytes(12) + struct.pack("<II", 0, 4) + bytes(8), "it is 0x4 px, expected 1 to"),
        ("16UC1; compressedDepth rvl", bytes(12) + struct.pack("<II", 1 << 20, 1 << 20), "px, expected 1 to"),
        ("16UC1; compressedDepth rvl", depth_message(ONES, "rvl")[:-4], "does not fit into 16 px"),
        ("16UC1; compressedDepth rvl", bytes(12) + struct.pack("<II", 4, 4) + b"\xff" * 16, "ends after 0 of 16 px"),
        ("16UC1; compressedDepth rvl", bytes(12) + struct.pack("<II", 4, 4) + bytes(16), "has an empty run"),
    ],
)  # fmt: skip
def test_depth_that_cannot_be_used_is_refused(text: str, data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        pixels(text, data)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9), st.integers(0, 65535)), min_size=1, max_size=30))
def test_rvl_of_any_runs_comes_back(runs: list[tuple[bool, int, int]]) -> None:
    random = np.random.default_rng(len(runs))
    parts = [
        np.zeros(length, int) if empty else (base + random.integers(0, 3000, length)) % 65535 + 1
        for empty, length, base in runs
    ]
    values = np.concatenate(parts).astype(np.uint16)
    stream = np.frombuffer(rvl(values), np.uint8)
    assert np.array_equal(decode_rvl(stream, len(values)), values)


@given(st.binary(max_size=80), st.integers(1, 100))
def test_any_bytes_as_rvl_are_decoded_or_refused(data: bytes, count: int) -> None:
    try:
        assert decode_rvl(np.frombuffer(data, np.uint8), count).shape == (count,)
    except ValueError as error:
        assert "RVL" in str(error)
