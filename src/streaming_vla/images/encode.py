"""Pixels to the picture that the policy sees: turned upright, the centre square, resized, JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from streaming_vla.images.decode import DEPTH_LIMIT_M, IMAGE, pixels_of
from streaming_vla.images.encodings import Pixels
from streaming_vla.machines.observer_options import ObserverOptions

TURNS = {0: None, 90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


@dataclass(frozen=True)
class PictureOptions:
    """How a camera's messages become the policy's pictures.

    Args:
        size: width and height in pixels.
        quality: of the JPEG, 1 to 100.
        kind: message type of the camera.
        rotation: degrees clockwise that turn the picture upright: 0, 90, 180 or 270.
        depth_limit_m: depth that is shown black.

    Raises:
        ValueError: another rotation.
    """

    size: int
    quality: int
    kind: str = IMAGE
    rotation: int = 0
    depth_limit_m: float = DEPTH_LIMIT_M

    def __post_init__(self) -> None:
        if self.rotation not in TURNS:
            raise ValueError(
                f"camera rotation is {self.rotation}, expected one of {', '.join(map(str, TURNS))} degrees"
            )


def camera_options(options: ObserverOptions) -> dict[str, PictureOptions]:
    """Return how the messages of each camera become pictures, by camera."""
    kinds, rotations = options.of_cameras(options.camera_types), options.of_cameras(options.camera_rotations)
    return {
        camera: PictureOptions(options.image_size, options.jpeg_quality, kinds[camera], rotations[camera])
        for camera in options.cameras
    }


def square(pixels: Pixels, size: int, rotation: int = 0) -> Pixels:
    """Return the turned centre square of [H, W, 3], resized to [size, size, 3]."""
    turn = TURNS[rotation]
    if turn is not None:
        pixels = cv2.rotate(pixels, turn)
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    cut = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    if side == size:
        return cut
    # area averaging is what the policy's training pictures were made with
    resized: Pixels = cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
    return resized


def encode_pixels(pixels: Pixels, quality: int) -> bytes:
    """Return [H, W, 3] BGR, or [H, W] grey, as JPEG."""
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)


def encode_message(message: Any, options: PictureOptions) -> bytes:
    """Return a checked camera message as the policy's JPEG; ValueError when it cannot be decoded."""
    pixels = pixels_of(message, options.kind, options.depth_limit_m)
    return encode_pixels(square(pixels, options.size, options.rotation), options.quality)
