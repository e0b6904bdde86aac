"""A camera's picture turned upright and made square as a policy wants it: the middle, or the whole with padding."""

from __future__ import annotations

import cv2
import numpy as np

from streaming_vla.images.encodings import Pixels

TURNS = {0: None, 90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


def turned(pixels: Pixels, rotation: int) -> Pixels:
    """Return [H, W, 3] turned clockwise by so many degrees, one of TURNS."""
    turn = TURNS[rotation]
    return pixels if turn is None else np.asarray(cv2.rotate(pixels, turn), np.uint8)


def square(pixels: Pixels, size: int, rotation: int = 0) -> Pixels:
    """Return the turned centre square of [H, W, 3], resized to [size, size, 3]."""
    pixels = turned(pixels, rotation)
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    cut = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    if side == size:
        return cut
    # area averaging is what the policy's training pictures were made with
    resized: Pixels = cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
    return resized


def fit(pixels: Pixels, size: int, how: str, pad_value: int) -> Pixels:
    """Return [H, W, 3] as [size, size, 3]; a picture of that size is returned as it is.

    Args:
        pixels: of any order of colours.
        size: width and height in pixels.
        how: PolicySpec.image_fit.
        pad_value: of the padding, 0 to 255.
    """
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    if how == "crop":
        return square(pixels, size)
    ratio = max(height, width) / size
    rows, columns = max(1, int(height / ratio)), max(1, int(width / ratio))
    fitted: Pixels = np.full((size, size, 3), pad_value, np.uint8)
    above, left = size - rows, size - columns
    if how == "letterbox":
        above, left = above // 2, left // 2
    resized = cv2.resize(np.ascontiguousarray(pixels), (columns, rows), interpolation=cv2.INTER_LINEAR)
    fitted[above : above + rows, left : left + columns] = resized
    return fitted
