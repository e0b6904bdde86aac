"""Camera pictures: what is refused, and that what is sent shows what was seen."""

from __future__ import annotations

import array

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import Image

from streaming_vla.images.decode import check_picture
from streaming_vla.images.encode import PictureOptions
from streaming_vla.ros.images import encode_message, picture_message


def image(encoding: str, pixels: np.ndarray, padding: int = 0) -> Image:
    rows = pixels.reshape(pixels.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)))
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=rows.shape[1])
    message.data = array.array("B", rows.tobytes())
    return message


def decoded(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(("encoding", "colour"), [("rgb8", (200, 100, 50)), ("bgr8", (50, 100, 200))])
def test_colours_and_padding(encoding: str, colour: tuple[int, int, int], padding: int) -> None:
    pixels = np.full((40, 60, 3), colour, np.uint8)
    picture = decoded(encode_message(check_picture(image(encoding, pixels, padding)), PictureOptions(32, 92)))
    assert picture.shape == (32, 32, 3)
    assert np.abs(picture.astype(int) - (200, 100, 50)).max() <= 4


def test_grey_is_taken() -> None:
    picture = decoded(
        encode_message(check_picture(image("mono8", np.full((8, 8), 99, np.uint8))), PictureOptions(16, 92))
    )
    assert np.abs(picture.astype(int) - 99).max() <= 2


def test_the_centre_square_is_kept() -> None:
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64] = 255
    assert decoded(encode_message(image("rgb8", pixels), PictureOptions(32, 92))).min() > 240


def test_a_message_holds_the_picture() -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    message = check_picture(picture_message(pixels, "front"))
    assert (message.width, message.height, message.header.frame_id) == (6, 4, "front")
    assert np.array_equal(np.frombuffer(message.data, np.uint8).reshape(4, 6, 3), pixels)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"encoding": "rgb16"}, "encoding 'rgb16' is not supported, expected one of rgb8, bgr8, mono8"),
        ({"width": 0}, "the picture is 0x4 px"),
        ({"step": 10}, "step is 10 bytes, expected at least 18 for 6 px of rgb8"),
        ({"height": 5}, "the data has 72 bytes, expected 90"),
    ],
)
def test_a_picture_that_cannot_be_used_says_why(changes: dict[str, object], complaint: str) -> None:
    message = picture_message(np.zeros((4, 6, 3), np.uint8), "front")
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(ValueError, match=complaint):
        check_picture(message)
