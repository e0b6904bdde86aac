"""Camera messages with known content, and what becomes of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from streaming_vla.images.decode import COMPRESSED, IMAGE, check_message, pixels_of
from streaming_vla.images.encodings import Pixels

SIZE = (48, 64)
LIMIT_M = 5.0
PATTERNS = ("rggb", "bggr", "gbrg", "grbg")


def compressed(text: str, data: bytes) -> Any:
    return SimpleNamespace(format=text, data=np.frombuffer(data, np.uint8))


def pixels(text: str, data: bytes) -> Pixels:
    return pixels_of(check_message(compressed(text, data), COMPRESSED), COMPRESSED, LIMIT_M)


def raw(encoding: str, rows: np.ndarray) -> Pixels:
    """Return a raw message's picture; rows [H, W * bytes] of any numbers."""
    flat = np.ascontiguousarray(rows).view(np.uint8).reshape(rows.shape[0], -1)
    width = rows.shape[1] if rows.ndim == 3 else flat.shape[1] // rows.dtype.itemsize
    message = SimpleNamespace(
        encoding=encoding, height=rows.shape[0], width=width, step=flat.shape[1], is_bigendian=0, data=flat.reshape(-1)
    )
    return pixels_of(check_message(message, IMAGE), IMAGE, LIMIT_M)


def encoded(ending: str, values: np.ndarray, *options: int) -> bytes:
    return bytes(cv2.imencode(ending, values, list(options))[1])


def scene(seed: int = 0) -> np.ndarray:
    """Return [H, W, 3] uint8 BGR with soft colours."""
    noise = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)


def mosaic(bgr: np.ndarray, pattern: str) -> np.ndarray:
    place = {"b": 0, "g": 1, "r": 2}
    rows = np.zeros(bgr.shape[:2], bgr.dtype)
    for number, letter in enumerate(pattern):
        rows[number // 2 :: 2, number % 2 :: 2] = bgr[number // 2 :: 2, number % 2 :: 2, place[letter]]
    return rows
