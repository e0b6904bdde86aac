"""Camera messages of any kind to BGR pixels; what cannot be used is refused before memory is taken for it.

A message is anything with the fields of its ROS type: those of rclpy and those that are read from a bag are alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streaming_vla.images.compressed import decode_compressed, parse
from streaming_vla.images.encodings import DEPTHS, ENCODINGS, Pixels, check_size, depth_picture
from streaming_vla.images.points import range_picture

IMAGE, COMPRESSED, POINTS = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/PointCloud2"
TYPES = (IMAGE, COMPRESSED, POINTS)
DEPTH_LIMIT_M = 5.0


def check_picture(image: Any) -> Any:
    """Return a sensor_msgs/Image when it can be used.

    Raises:
        ValueError: unknown encoding, or a size, step and data length that do not belong together.
    """
    if image.encoding not in ENCODINGS and image.encoding not in DEPTHS:
        known = ", ".join([*ENCODINGS, *DEPTHS])
        raise ValueError(f"encoding {image.encoding!r} is not supported, expected one of {known}")
    if image.width < 1 or image.height < 1:
        raise ValueError(f"the picture is {image.width}x{image.height} px, expected at least 1x1")
    check_size("picture", image.width, image.height)
    pixel_bytes, rows, (down, along) = _layout(image)
    if image.height % down or image.width % along:
        raise ValueError(
            f"the picture is {image.width}x{image.height} px, expected multiples of {along}x{down} for {image.encoding}"
        )
    if image.step < image.width * pixel_bytes:
        raise ValueError(
            f"step is {image.step} bytes, expected at least {image.width * pixel_bytes} "
            f"for {image.width} px of {image.encoding}"
        )
    if len(image.data) != image.step * rows:
        raise ValueError(
            f"the data has {len(image.data)} bytes, expected {image.step * rows} (step {image.step} x {rows} rows)"
        )
    return image


def check_message(message: Any, kind: str) -> Any:
    """Return a message of type `kind` (one of `TYPES`) when it can be used; ValueError when it cannot."""
    if kind == IMAGE:
        return check_picture(message)
    if kind == POINTS:
        check_size("picture of points", message.width, message.height)
    if kind == COMPRESSED:
        parse(message.format)
        if not len(message.data):
            raise ValueError(f"the compressed picture (format {message.format!r}) has no data")
    return message


def pixels_of(message: Any, kind: str = IMAGE, depth_limit_m: float = DEPTH_LIMIT_M) -> Pixels:
    """Return a checked camera message as [H, W, 3] uint8 BGR.

    Args:
        kind: one of `TYPES`.
        depth_limit_m: depth that is shown black; nearer is brighter.

    Raises:
        ValueError: the content cannot be decoded.
    """
    if kind == COMPRESSED:
        return decode_compressed(message, depth_limit_m)
    if kind == POINTS:
        return depth_picture(range_picture(message), depth_limit_m)
    pixel_bytes, rows, _ = _layout(message)
    used = np.frombuffer(message.data, dtype=np.uint8).reshape(rows, message.step)[:, : message.width * pixel_bytes]
    if message.encoding in DEPTHS:
        number, metres = DEPTHS[message.encoding]
        values = np.ascontiguousarray(used).view(f"{'>' if message.is_bigendian else '<'}{number}")
        return depth_picture((values * metres).astype(np.float32), depth_limit_m)
    encoding = ENCODINGS[message.encoding]
    if encoding.kind == "u2" and message.is_bigendian:
        used = np.ascontiguousarray(used).view(">u2").astype("<u2").view(np.uint8)
    return encoding.to_bgr(used)


def _layout(image: Any) -> tuple[int, int, tuple[int, int]]:
    """Return the bytes of a pixel, the rows of bytes, and the pixels (down, along) that share a colour."""
    if image.encoding in DEPTHS:
        return np.dtype(DEPTHS[image.encoding][0]).itemsize, image.height, (1, 1)
    encoding = ENCODINGS[image.encoding]
    return encoding.pixel_bytes, encoding.rows(image.height), encoding.shared
