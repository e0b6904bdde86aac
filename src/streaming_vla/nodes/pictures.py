"""Camera pictures between ROS messages, arrays and JPEG; pure functions."""

from __future__ import annotations

import array

import cv2
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import Image

CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}


def check_picture(image: Image) -> Image:
    """Return `image` when it can be used.

    Raises:
        ValueError: unknown encoding, or a size, step and data length that do not belong together.
    """
    channels = CHANNELS.get(image.encoding)
    if channels is None:
        raise ValueError(f"encoding '{image.encoding}' is not supported, expected one of {', '.join(CHANNELS)}")
    if image.width < 1 or image.height < 1:
        raise ValueError(f"the picture is {image.width}x{image.height} px, expected at least 1x1")
    if image.step < image.width * channels:
        raise ValueError(
            f"step is {image.step} bytes, expected at least {image.width * channels} "
            f"for {image.width} px of {image.encoding}"
        )
    if len(image.data) != image.step * image.height:
        raise ValueError(
            f"the data has {len(image.data)} bytes, expected {image.step * image.height} (step {image.step} x "
            f"height {image.height})"
        )
    return image


def encode_picture(image: Image, size: int, quality: int) -> bytes:
    """Return the centre square of a checked `image`, resized to `size` x `size` px, as JPEG."""
    channels = CHANNELS[image.encoding]
    rows = np.frombuffer(image.data, dtype=np.uint8).reshape(image.height, image.step)
    pixels = rows[:, : image.width * channels].reshape(image.height, image.width, channels)
    side = min(image.height, image.width)
    top, left = (image.height - side) // 2, (image.width - side) // 2
    square = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    if image.encoding == "rgb8":
        square = cv2.cvtColor(square, cv2.COLOR_RGB2BGR)
    elif image.encoding == "mono8":
        square = cv2.cvtColor(square, cv2.COLOR_GRAY2BGR)
    if side != size:  # area averaging is what the policy's training pictures were made with
        interpolation = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        square = cv2.resize(square, (size, size), interpolation=interpolation)
    _, data = cv2.imencode(".jpg", square, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def picture_message(pixels: npt.NDArray[np.uint8], frame: str) -> Image:
    """Return [H, W, 3] RGB as a message without stamp."""
    height, width, _ = pixels.shape
    image = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    image.header.frame_id = frame
    image.data = array.array("B", pixels.tobytes())  # anything but an array is copied element by element
    return image
