"""From JPEG bytes to pictures of the policy's size, with every size checked before memory is taken."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from streaming_vla.engine.refused import Refused

MAX_JPEG_BYTES = 4 * 1024**2
START, END = b"\xff\xd8", b"\xff\xd9"
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers; the three define tables
ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length
SCAN = 0xDA  # picture data begin: a frame header had to come before


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) in pixels from the header of a JPEG, None when there is none."""
    if not data.startswith(START):
        return None
    place = len(START)
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF or marker in ALONE:
            place += 1 if marker == 0xFF else 2
            continue
        if marker == SCAN:
            return None
        if marker in FRAME_HEADERS:
            if place + 9 > len(data):
                return None
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return None


def decode(data: bytes, camera: str, size: int) -> npt.NDArray[np.uint8]:
    """Return the picture of a JPEG, [size, size, 3], RGB.

    Raises:
        Refused: no complete JPEG, or another size.
    """
    if len(data) > MAX_JPEG_BYTES:
        raise Refused("image_jpeg", f"picture of camera {camera} has {len(data)} bytes, {MAX_JPEG_BYTES} are allowed")
    found = jpeg_size(data)
    if found is None or not data.endswith(END):
        raise Refused("image_jpeg", f"picture of camera {camera} is not a complete JPEG ({len(data)} bytes)")
    if found != (size, size):
        raise Refused(
            "image_size",
            f"picture of camera {camera} is {found[0]} x {found[1]} pixels, the policy needs {size} x {size}; "
            "set the observer's image_size",
        )
    try:
        # an orientation tag must not turn a picture that has been cropped for the policy
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        picture = None
    if picture is None or picture.shape != (size, size, 3):
        raise Refused("image_jpeg", f"picture of camera {camera} has a JPEG header but cannot be decoded")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def decode_all(images: Sequence[bytes], cameras: Sequence[str], size: int) -> npt.NDArray[np.uint8]:
    """Return the pictures of all cameras, [cameras, size, size, 3], RGB.

    Raises:
        Refused: another number of pictures, or see `decode`.
    """
    if len(images) != len(cameras):
        raise Refused(
            "image_count",
            f"observation has {len(images)} pictures, the policy needs {len(cameras)}: {', '.join(cameras)}",
        )
    return np.stack([decode(data, camera, size) for data, camera in zip(images, cameras, strict=True)])
