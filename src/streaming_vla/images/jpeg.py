"""JPEG to pixels, by libjpeg-turbo as OpenCV does, but a damaged picture is refused.

A decoder goes on after damage and fills what it cannot read with grey or with what stood before; OpenCV then returns
the picture as if nothing had happened, and only prints a warning. `simplejpeg` makes the warnings an error.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from streaming_vla.images.encodings import Pixels

MAGIC = b"\xff\xd8"
TURNS = {  # of the orientation tag of Exif: mirrored left to right first, then turned
    1: (False, None),
    2: (True, None),
    3: (False, cv2.ROTATE_180),
    4: (True, cv2.ROTATE_180),
    5: (True, cv2.ROTATE_90_COUNTERCLOCKWISE),
    6: (False, cv2.ROTATE_90_CLOCKWISE),
    7: (True, cv2.ROTATE_90_CLOCKWISE),
    8: (False, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def decode_jpeg(data: bytes) -> Pixels:
    """Return [H, W, 3] uint8 BGR, or [H, W] of a grey JPEG; the size is to be checked before.

    Raises:
        ValueError: it is no JPEG, breaks off, or is damaged where the decoder can see it (a bit that makes another
            valid picture cannot be seen).
    """
    _, _, colours, _ = simplejpeg.decode_jpeg_header(data)
    if colours == "Gray":
        return np.asarray(simplejpeg.decode_jpeg(data, "GRAY")[..., 0])
    return np.asarray(simplejpeg.decode_jpeg(data, "BGR"))


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Return the picture as the orientation tag of Exif says that it is to be seen."""
    mirrored, turn = TURNS.get(orientation, TURNS[1])
    if mirrored:
        pixels = cv2.flip(pixels, 1)
    return pixels if turn is None else cv2.rotate(pixels, turn)
