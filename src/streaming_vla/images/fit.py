"""A camera's picture made square as a policy wants it: the middle, or the whole with padding."""

from __future__ import annotations

import cv2
import numpy as np

from streaming_vla.images.encode import square
from streaming_vla.images.encodings import Pixels


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
