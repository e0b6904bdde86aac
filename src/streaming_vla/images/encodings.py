"""The pixel encodings of sensor_msgs/Image that are taken, and how each becomes BGR.

Names are those of sensor_msgs/image_encodings.hpp; depth is in millimetres (16UC1) or metres (32FC1), REP 118.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
MM = 1000.0
LARGEST_PIXELS = 1 << 24  # 4096 x 4096: more takes a callback longer than a picture's period


@dataclass(frozen=True)
class Encoding:
    """How rows of bytes become a picture.

    Args:
        pixel_bytes: of one pixel in a row.
        to_bgr: makes [H, W, 3] uint8 BGR of [rows, W * pixel_bytes] uint8.
        shared: pixels that share their colour: (1, 2) two of a row, (2, 2) a square; sizes are multiples of it.
        kind: of the numbers, as NumPy names it.
    """

    pixel_bytes: int
    to_bgr: Callable[[Pixels], Pixels]
    shared: tuple[int, int] = (1, 1)
    kind: str = "u1"

    def rows(self, height: int) -> int:
        """Return the rows of bytes of a picture; colours of squares follow the brightness, half as many rows."""
        return height * 3 // 2 if self.shared == (2, 2) else height


def depth_picture(depth_m: npt.NDArray[np.float32], limit_m: float) -> Pixels:
    """Return depth [H, W] in metres as a picture [H, W, 3]: near is bright, `limit_m` and no measurement are black."""
    measured = np.isfinite(depth_m) & (depth_m > 0)
    grey = np.zeros(depth_m.shape, np.uint8)
    grey[measured] = np.clip(255.0 * (1.0 - depth_m[measured] / limit_m), 0.0, 255.0).astype(np.uint8)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)  # type: ignore[no-any-return]


def _plain(channels: int, code: int | None, shared: tuple[int, int] = (1, 1)) -> Encoding:
    def convert(rows: Pixels) -> Pixels:
        pixels = np.ascontiguousarray(rows).reshape(rows.shape[0], -1, channels)
        return pixels if code is None else cv2.cvtColor(pixels, code)

    return Encoding(channels, convert, shared)


def _bayer(code: int) -> Encoding:
    return Encoding(1, lambda rows: cv2.cvtColor(np.ascontiguousarray(rows), code))


def _semi_planar(code: int) -> Encoding:
    return Encoding(1, lambda rows: cv2.cvtColor(np.ascontiguousarray(rows), code), shared=(2, 2))


def _grey16(rows: Pixels) -> Pixels:
    return cv2.cvtColor((np.ascontiguousarray(rows).view("<u2") >> 8).astype(np.uint8), cv2.COLOR_GRAY2BGR)  # type: ignore[no-any-return]


ENCODINGS = {
    "rgb8": _plain(3, cv2.COLOR_RGB2BGR),
    "bgr8": _plain(3, None),
    "mono8": _plain(1, cv2.COLOR_GRAY2BGR),
    "8UC3": _plain(3, None),
    "rgba8": _plain(4, cv2.COLOR_RGBA2BGR),
    "bgra8": _plain(4, cv2.COLOR_BGRA2BGR),
    "8UC1": _plain(1, cv2.COLOR_GRAY2BGR),
    "mono16": Encoding(2, _grey16, kind="u2"),
    # OpenCV names a pattern by its second row and column, ROS by its first
    "bayer_rggb8": _bayer(cv2.COLOR_BayerBG2BGR),
    "bayer_bggr8": _bayer(cv2.COLOR_BayerRG2BGR),
    "bayer_gbrg8": _bayer(cv2.COLOR_BayerGR2BGR),
    "bayer_grbg8": _bayer(cv2.COLOR_BayerGB2BGR),
    "yuv422": _plain(2, cv2.COLOR_YUV2BGR_UYVY, (1, 2)),
    "uyvy": _plain(2, cv2.COLOR_YUV2BGR_UYVY, (1, 2)),
    "yuv422_yuy2": _plain(2, cv2.COLOR_YUV2BGR_YUY2, (1, 2)),
    "yuyv": _plain(2, cv2.COLOR_YUV2BGR_YUY2, (1, 2)),
    "nv12": _semi_planar(cv2.COLOR_YUV2BGR_NV12),
    "nv21": _semi_planar(cv2.COLOR_YUV2BGR_NV21),
}
DEPTHS = {"16UC1": ("u2", 1.0 / MM), "32FC1": ("f4", 1.0)}  # kind of the numbers, metres per unit


def check_size(what: str, width: int, height: int) -> None:
    """Refuse a picture that is larger than LARGEST_PIXELS, before memory is taken for it.

    Raises:
        ValueError: it is.
    """
    if width * height > LARGEST_PIXELS:
        raise ValueError(
            f"the {what} is {width}x{height} px, expected at most {LARGEST_PIXELS} px: let the driver scale it down"
        )
