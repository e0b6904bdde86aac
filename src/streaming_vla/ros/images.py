"""Camera pictures between ROS messages and pixels; the work is that of `streaming_vla.images`, as for bags."""

from __future__ import annotations

import array

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import Image

from streaming_vla.images.decode import check_message
from streaming_vla.images.encode import camera_options, encode_message

__all__ = ["camera_options", "check_message", "encode_message", "picture_message"]


def picture_message(pixels: npt.NDArray[np.uint8], frame: str) -> Image:
    """Return [H, W, 3] RGB as a message without stamp."""
    height, width, _ = pixels.shape
    image = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    image.header.frame_id = frame
    image.data = array.array("B", pixels.tobytes())  # anything but an array is copied element by element
    return image
