"""A camera's picture as it is stored and sent: area average to the policy's size, then JPEG."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from streaming_vla.images.encode import encode_pixels
from streaming_vla.images.fit import square

JPEG_QUALITY = 92


def encode_frame(picture: npt.NDArray[np.uint8], size: int) -> bytes:
    """Bring an RGB picture [H, W, 3] to [size, size, 3] and encode it as JPEG, as the live observer does."""
    return encode_pixels(square(picture[..., ::-1], size), JPEG_QUALITY)


def decode_frame(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the RGB picture [H, W, 3] of a JPEG.

    Raises:
        ValueError: it is none.
    """
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"a stored picture of {data.size} bytes is not a readable JPEG: record its episode again")
    return np.ascontiguousarray(picture[..., ::-1])


def as_seen(picture: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Send a picture [H, W, 3] through the camera's way to the policy, [size, size, 3]."""
    return decode_frame(np.frombuffer(encode_frame(picture, size), dtype=np.uint8))
