"""Camera messages to the picture that the policy sees: turned upright, square, JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2

from streaming_vla.images.decode import DEPTH_LIMIT_M, IMAGE, pixels_of
from streaming_vla.images.encodings import Pixels
from streaming_vla.images.fit import TURNS, fit, turned
from streaming_vla.machines.observer_options import ObserverOptions


@dataclass(frozen=True)
class PictureOptions:
    """How a camera's messages become the policy's pictures.

    Args:
        size: width and height in pixels.
        quality: of the JPEG, 1 to 100.
        kind: message type of the camera.
        rotation: degrees clockwise that turn the picture upright: 0, 90, 180 or 270.
        depth_limit_m: depth that is shown black.
        fit, pad_value: how it becomes square, see PolicySpec.

    Raises:
        ValueError: another rotation.
    """

    size: int
    quality: int
    kind: str = IMAGE
    rotation: int = 0
    depth_limit_m: float = DEPTH_LIMIT_M
    fit: str = "crop"
    pad_value: int = 0

    def __post_init__(self) -> None:
        if self.rotation not in TURNS:
            raise ValueError(
                f"camera rotation is {self.rotation}, expected one of {', '.join(map(str, TURNS))} degrees"
            )


def camera_options(options: ObserverOptions) -> dict[str, PictureOptions]:
    """Return how the messages of each camera become pictures, by camera."""
    kinds, rotations = options.of_cameras(options.camera_types), options.of_cameras(options.camera_rotations)
    return {
        camera: PictureOptions(
            options.image_size,
            options.jpeg_quality,
            kinds[camera],
            rotations[camera],
            fit=options.image_fit,
            pad_value=options.image_pad_value,
        )
        for camera in options.cameras
    }


def encode_pixels(pixels: Pixels, quality: int) -> bytes:
    """Return [H, W, 3] BGR, or [H, W] grey, as JPEG."""
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)


def encode_message(message: Any, options: PictureOptions) -> bytes:
    """Return a checked camera message as the policy's JPEG; ValueError when it cannot be decoded."""
    pixels = pixels_of(message, options.kind, options.depth_limit_m)
    fitted = fit(turned(pixels, options.rotation), options.size, options.fit, options.pad_value)
    return encode_pixels(fitted, options.quality)
