"""sensor_msgs/CompressedImage to pixels: what its `format` says is used, or refused by name.

The texts are those of image_transport_plugins: `ENCODING; CODEC compressed PIXELS` where ENCODING is of the picture
before it was compressed and PIXELS of what was given to the codec, `ENCODING; compressedDepth CODEC`, or the codec
alone as many drivers send it.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from streaming_vla.images.encodings import DEPTHS, ENCODINGS, LARGEST_PIXELS, Pixels, check_size, depth_picture
from streaming_vla.images.jpeg import decode_jpeg, upright
from streaming_vla.images.rvl import decode_rvl

MAGICS: dict[str, tuple[bytes, ...]] = {
    "jpeg": (b"\xff\xd8",),
    "png": (b"\x89PNG\r\n\x1a\n",),
    "webp": (b"RIFF",),
    "tiff": (b"II*\0", b"MM\0*"),
}
DEPTH_HEADER = struct.Struct("<iff")  # kind of coding, and the two parameters of inverse depth
RVL_HEADER = struct.Struct("<II")  # width, height
INVERSE_DEPTH = 0
ORIENTATION = 0x0112  # tag of Exif
COLOURS = ("rgb8", "bgr8", "rgba8", "bgra8", "rgb16", "bgr16", "rgba16", "bgra16")
BAYER = re.compile(r"bayer_(rggb|bggr|gbrg|grbg)(8|16)")
_FORMAT = re.compile(r"\s*(?:(\w+)\s*;)?\s*(\w+)?(?:\s+(compressed)(?:\s+(\w+))?)?\s*", re.ASCII)
_DEPTH_FORMAT = re.compile(r"\s*(\w+)\s*;\s*compressedDepth(?:\s+(\w+))?\s*", re.ASCII)


@dataclass(frozen=True)
class Format:
    """What the text of a compressed picture says.

    Args:
        codec: jpeg, png, tiff, webp or rvl; "" where the text says nothing, and the data are looked at.
        encoding: of the picture before it was compressed, "" where the text does not say it.
        pixels: encoding of what was given to the codec, "" where the text does not say it.
        depth: the data have the header of compressed_depth_image_transport.
    """

    codec: str
    encoding: str = ""
    pixels: str = ""
    depth: bool = False


def parse(text: str) -> Format:
    """Return what a `format` says.

    Raises:
        ValueError: it is none, or of a codec or an encoding that is not known.
    """
    if depth := _DEPTH_FORMAT.fullmatch(text):
        found = Format(depth[2] or "png", depth[1], depth=True)
        if found.encoding not in DEPTHS or found.codec not in ("png", "rvl"):
            raise ValueError(
                f"the format {text!r} is not supported, expected compressedDepth of {' or '.join(DEPTHS)} as png or rvl"
            )
        return found
    match = _FORMAT.fullmatch(text)
    codec = ((match[2] if match else None) or "").lower().replace("jpg", "jpeg")
    if match is None or (codec not in MAGICS and text.strip()):
        raise ValueError(f"the format {text!r} is not supported, expected one of {', '.join(MAGICS)}")
    found = Format(codec, match[1] or "", match[4] or "")
    known = {*ENCODINGS, *DEPTHS, *COLOURS}
    for word in (found.encoding, found.pixels):
        if word and word not in known and not BAYER.fullmatch(word):
            raise ValueError(f"the format {text!r} is of encoding {word!r}, which is not supported")
    return found


def decode_compressed(message: Any, depth_limit_m: float) -> Pixels:
    """Return a CompressedImage as [H, W, 3] uint8 BGR.

    Raises:
        ValueError: its format is not supported, its data are of another one, or they are damaged.
    """
    found = parse(message.format)
    data = np.frombuffer(message.data, dtype=np.uint8)
    try:
        if found.depth:
            return depth_picture(_depth_m(data, found), depth_limit_m)
        values, orientation = _decoded(data, found.codec)
        pixels = _pixels(values, found, depth_limit_m)
    except (ValueError, cv2.error) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the compressed picture (format {message.format!r}) cannot be read: {reason}") from error
    return upright(pixels, orientation)


def _decoded(data: npt.NDArray[np.uint8], codec: str) -> tuple[npt.NDArray[Any], int]:
    """Return what the codec holds, [H, W] or [H, W, channels] in the order of OpenCV, and how it is to be turned."""
    content = data.tobytes()
    is_of = next((name for name, magic in MAGICS.items() if content.startswith(magic)), "another kind")
    if is_of != (codec or is_of):
        raise ValueError(f"its data are {is_of}")
    if is_of not in MAGICS:
        raise ValueError(f"its data are none of {', '.join(MAGICS)}")
    orientation = _check_header(content)
    if is_of == "jpeg":
        return decode_jpeg(content), orientation
    values: npt.NDArray[Any] | None = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError("its data are damaged")
    return values, orientation


def _check_header(content: bytes) -> int:
    """Return the orientation that Exif tells, 1 where it does not; ValueError of a picture that is too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is an error
            with Pillow.open(io.BytesIO(content)) as header:  # the size, without decoding
                width, height = header.size
                orientation = header.getexif().get(ORIENTATION, 1) if header.format == "JPEG" else 1
    except Exception as error:  # Pillow's plugins raise what they like, DecompressionBombError among them
        raise ValueError(str(error)) from error
    check_size("picture", width, height)
    return orientation if isinstance(orientation, int) else 1


def _pixels(values: npt.NDArray[Any], found: Format, depth_limit_m: float) -> Pixels:
    """Return decoded values as [H, W, 3] BGR."""
    channels = 1 if values.ndim == 2 else values.shape[2]
    bayer = BAYER.fullmatch(found.encoding)
    if found.encoding in DEPTHS:
        kind, metres = DEPTHS[found.encoding]
        if channels != 1 or values.dtype != kind:
            raise ValueError(f"it holds {_what(values)}, expected depth of {found.encoding}")
        return depth_picture((values * metres).astype(np.float32), depth_limit_m)
    if values.dtype not in (np.uint8, np.uint16) or channels not in (1, 3, 4):
        raise ValueError(f"it holds {_what(values)}, expected brightness or colours")
    if values.dtype == np.uint16:
        if not found.encoding and channels == 1:
            raise ValueError("its format does not say whether its 16 bit numbers are brightness or depth")
        values = values >> 8
    picture: Pixels = np.ascontiguousarray(values, np.uint8)
    if channels > 1:
        if not found.encoding or found.pixels.startswith("bgr") or found.encoding == "8UC3":
            return picture if channels == 3 else cv2.cvtColor(picture, cv2.COLOR_BGRA2BGR)
        # image_transport takes whatever is not "compressed bgr..." for exchanged colours, other programs do not
        raise ValueError("its format does not say whether red and blue are exchanged, expected '... compressed bgr8'")
    if bayer and not found.pixels:  # the mosaic itself
        if picture.shape[0] % 2 or picture.shape[1] % 2:
            raise ValueError(f"its mosaic is {picture.shape[1]}x{picture.shape[0]} px, expected even numbers")
        return ENCODINGS[f"bayer_{bayer[1]}8"].to_bgr(picture)
    if found.encoding and not found.encoding.startswith(("mono", "8UC1")):
        raise ValueError(f"it holds brightness only, expected {found.pixels or found.encoding}")
    return cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)  # type: ignore[no-any-return]


def _depth_m(data: npt.NDArray[np.uint8], found: Format) -> npt.NDArray[np.float32]:
    """Return depth [H, W] in metres of a message of compressed_depth_image_transport, NaN where there is none."""
    if len(data) <= DEPTH_HEADER.size:
        raise ValueError(f"it has {len(data)} bytes, expected a header of {DEPTH_HEADER.size} and a picture")
    kind, a, b = DEPTH_HEADER.unpack(data[: DEPTH_HEADER.size].tobytes())
    body = data[DEPTH_HEADER.size :]
    values = _rvl(body) if found.codec == "rvl" else _decoded(body, "png")[0]
    if values.ndim != 2 or values.dtype != np.uint16:
        raise ValueError(f"it holds {_what(values)}, expected 16 bit numbers")
    if found.encoding != "32FC1":
        return (values * DEPTHS[found.encoding][1]).astype(np.float32)
    if kind != INVERSE_DEPTH or not (np.isfinite(a) and np.isfinite(b) and a > 0):
        raise ValueError(f"its header has coding {kind} and parameters {a:g} and {b:g}, expected inverse depth")
    depth = np.full(values.shape, np.nan, np.float32)
    some = values > 0
    with np.errstate(divide="ignore"):
        depth[some] = np.float32(a) / (values[some].astype(np.float32) - np.float32(b))
    return depth


def _rvl(body: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    if len(body) < RVL_HEADER.size:
        raise ValueError("it has no size")
    width, height = RVL_HEADER.unpack(body[: RVL_HEADER.size].tobytes())
    if not 0 < width * height <= LARGEST_PIXELS:
        raise ValueError(f"it is {width}x{height} px, expected 1 to {LARGEST_PIXELS} px")
    return decode_rvl(body[RVL_HEADER.size :], width * height).reshape(height, width)


def _what(values: npt.NDArray[Any]) -> str:
    return f"{values.dtype} of {1 if values.ndim == 2 else values.shape[2]} channels"
