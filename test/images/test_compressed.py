"""Compressed pictures: `format` is used or refused, depth and mosaics are as in raw messages, damage is seen."""

from __future__ import annotations

import io
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from camera_messages import PATTERNS, SIZE, compressed, encoded, mosaic, pixels, raw, scene
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageOps

from streaming_vla.images.compressed import BAYER, parse
from streaming_vla.images.decode import COMPRESSED, IMAGE, check_message, pixels_of
from streaming_vla.images.encode import PictureOptions, encode_message

# ---------------------------------------------------------------- format


@pytest.mark.parametrize(
    "text",
    [
        "jpeg", "jpg", "JPEG", "", "bgr8; jpeg compressed bgr8", "rgb8; jpeg compressed bgr8",
        "rgba8;jpeg compressed bgr8 ", "yuv422_yuy2; jpeg compressed bgr8", "bayer_grbg8; jpeg compressed bgr8",
        "rgb16; jpeg compressed bgr8", "8UC3; jpeg compressed ",
    ],
)  # fmt: skip
def test_colours_of_every_text_that_is_known(text: str) -> None:
    data = encoded(".jpg", scene())
    assert np.array_equal(pixels(text, data), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("dds", "the format 'dds' is not supported, expected one of jpeg, png, webp, tiff"),
        ("h264", "the format 'h264' is not supported"),
        ("bgr8; avif compressed bgr8", "is not supported"),
        ("bgr8; jpeg2000 compressed bgr8", "is not supported"),
        ("rgb8; qoi compressed", "is not supported"),
        ("nonsense; jpeg compressed bgr8", "is of encoding 'nonsense', which is not supported"),
        ("bgr8; jpeg compressed lab8", "is of encoding 'lab8'"),
        ("bayer_rgbg8; png compressed ", "is of encoding 'bayer_rgbg8'"),
        ("bgr8; jpeg compressed bgr8; more", "is not supported"),
        ("16UC1; compressedDepth zstd", "expected compressedDepth of 16UC1 or 32FC1 as png or rvl"),
        ("64FC1; compressedDepth png", "expected compressedDepth of 16UC1 or 32FC1 as png or rvl"),
        ("jpeg\nforged line", "is not supported"),
    ],
)
def test_texts_that_are_not_known_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_message(compressed(text, encoded(".jpg", scene())), COMPRESSED)


@pytest.mark.parametrize(
    "text", ["rgb8; jpeg compressed rgb8", "bgr8; jpeg compressed", "rgb8; jpeg", "rgb8; png compressed"]
)
def test_colours_that_may_be_exchanged_are_refused(text: str) -> None:
    ending = ".png" if "png" in text else ".jpg"
    with pytest.raises(
        ValueError, match=r"does not say whether red and blue are exchanged, expected '... compressed bgr8'"
    ):
        pixels(text, encoded(ending, scene()))


@pytest.mark.parametrize(
    ("text", "ending", "kind"), [("jpeg", ".png", "png"), ("png", ".jpg", "jpeg"), ("tiff", ".webp", "webp")]
)
def test_data_of_another_codec_are_refused(text: str, ending: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f"its data are {kind}"):
        pixels(text, encoded(ending, scene()))
    with pytest.raises(ValueError, match="its data are another kind"):
        pixels(text, b"GIF89a" + bytes(100))


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except ValueError as error:
        assert "format" in str(error)
        return
    assert found.codec in ("", "jpeg", "png", "webp", "tiff", "rvl")


# ---------------------------------------------------------------- brightness


@pytest.mark.parametrize(("encoding", "ending"), [("mono8", "png"), ("mono8", "jpeg"), ("8UC1", "png"), ("", "png")])
def test_brightness(encoding: str, ending: str) -> None:
    grey = scene()[..., 0]
    found = pixels(f"{encoding}; {ending} compressed " if encoding else ending, encoded(f".{ending}", grey))
    assert np.abs(found.astype(int) - raw("mono8", grey)).max() <= (0 if ending == "png" else 12)
    assert (found[..., 0] == found[..., 2]).all()


def test_wide_brightness_is_not_depth() -> None:
    wide = scene()[..., 0].astype(np.uint16) * 257
    assert np.array_equal(pixels("mono16; png compressed ", encoded(".png", wide)), raw("mono16", wide))
    colours = scene().astype(np.uint16) * 257
    assert np.array_equal(pixels("rgb16; png compressed bgr16", encoded(".png", colours)), scene())
    with pytest.raises(ValueError, match="does not say whether its 16 bit numbers are brightness or depth"):
        pixels("png", encoded(".png", wide))
    with pytest.raises(ValueError, match="it holds brightness only, expected bgr8"):
        pixels("rgb8; png compressed bgr8", encoded(".png", wide))


# ---------------------------------------------------------------- mosaics


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_compressed_mosaic_is_as_the_raw_one(pattern: str) -> None:
    rows = mosaic(scene(), pattern)
    assert BAYER.fullmatch(f"bayer_{pattern}8")
    as_raw = raw(f"bayer_{pattern}8", rows)
    assert np.array_equal(pixels(f"bayer_{pattern}8; png compressed ", encoded(".png", rows)), as_raw)
    wide = rows.astype(np.uint16) * 257
    assert np.array_equal(pixels(f"bayer_{pattern}16; png compressed ", encoded(".png", wide)), as_raw)
    flat = np.full((*SIZE, 3), (10, 20, 200), np.uint8)
    jpeg = pixels(
        f"bayer_{pattern}8; jpeg compressed ", encoded(".jpg", mosaic(flat, pattern), cv2.IMWRITE_JPEG_QUALITY, 98)
    )
    assert np.abs(jpeg[2:-2, 2:-2].astype(int) - (10, 20, 200)).mean() < 4


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (1, 8)])
def test_half_a_mosaic_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"its mosaic is {shape[1]}x{shape[0]} px, expected even numbers"):
        pixels("bayer_rggb8; png compressed ", encoded(".png", np.zeros(shape, np.uint8)))


# ---------------------------------------------------------------- yuv


@pytest.mark.parametrize("kind", ["nv12", "nv21", "yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
def test_yuv_is_as_opencv_has_it(kind: str) -> None:
    """Built of OpenCV's planes, and compared with what OpenCV makes of those."""
    height, width = SIZE
    planes = cv2.cvtColor(scene(), cv2.COLOR_BGR2YUV_I420)
    y = planes[:height]
    u, v = (planes[height + at * height // 4 :][: height // 4].reshape(height // 2, width // 2) for at in (0, 1))
    if kind.startswith("nv"):
        both = np.stack((u, v) if kind == "nv12" else (v, u), axis=-1).reshape(height // 2, width)
        rows, expected = np.vstack((y, both)), cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420)
        message = SimpleNamespace(
            encoding=kind, height=height, width=width, step=width, is_bigendian=0, data=rows.reshape(-1)
        )
        found = pixels_of(check_message(message, IMAGE))
    else:
        full_u, full_v = np.repeat(u, 2, axis=0), np.repeat(v, 2, axis=0)
        first = kind in ("yuv422", "uyvy")
        order = (full_u, y[:, ::2], full_v, y[:, 1::2]) if first else (y[:, ::2], full_u, y[:, 1::2], full_v)
        rows = np.stack(order, axis=-1).reshape(height, width, 2)
        found, expected = raw(kind, rows), cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420)
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert np.abs(found.astype(int) - scene()).mean() < 4  # and of the colours that went in


# ---------------------------------------------------------------- damage

WAYS = {
    "plain": (),
    "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts": (cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    "full colours": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("grey", [False, True])
def test_a_whole_jpeg_is_what_opencv_decodes(way: str, grey: bool) -> None:
    data = encoded(".jpg", scene()[..., 0] if grey else scene(), *WAYS[way])
    assert np.array_equal(pixels("jpeg", data), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


@pytest.mark.parametrize("way", WAYS)
def test_a_jpeg_that_breaks_off_is_refused(way: str) -> None:
    data = encoded(".jpg", scene(), *WAYS[way])
    for end in range(2, len(data), max(1, len(data) // 60)):
        with pytest.raises(ValueError, match="cannot be read"):
            pixels("jpeg", data[:end])


@pytest.mark.parametrize("way", WAYS)
def test_a_jpeg_with_wrong_bytes_is_refused(way: str) -> None:
    data = encoded(".jpg", scene(), *WAYS[way])
    places = range(700, len(data) - 64, 20)
    refused = 0
    for begin in places:
        noise = np.random.default_rng(begin).bytes(64)
        try:
            pixels("jpeg", data[:begin] + noise + data[begin + 64 :])
        except ValueError as error:
            assert "Corrupt JPEG data" in str(error) or "cannot be read" in str(error)
            refused += 1
    assert refused >= 0.9 * len(places)  # the rest makes another valid picture: the format has no checksum


@pytest.mark.parametrize("values", [scene(), scene()[..., 0], scene()[..., 0].astype(np.uint16) * 200])
def test_a_damaged_png_is_refused(values: np.ndarray) -> None:
    text = "mono16; png compressed " if values.dtype == np.uint16 else "png"
    data = encoded(".png", values)
    for place in range(30, len(data) - 12, 50):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        for each in (bytes(damaged), data[:place]):
            with pytest.raises(ValueError, match="cannot be read"):
                pixels(text, each)


# ---------------------------------------------------------------- orientation, and out again


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_a_jpeg_tells_is_used(orientation: int) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Pillow.fromarray(scene()[..., ::-1]).save(stream, "JPEG", exif=exif, quality=98)
    expected = np.asarray(ImageOps.exif_transpose(Pillow.open(stream)))[..., ::-1]
    assert np.abs(pixels("jpeg", stream.getvalue()).astype(int) - expected).max() <= 3


@pytest.mark.parametrize("text", ["bgr8; jpeg compressed bgr8", "bgr8; png compressed bgr8", "webp"])
def test_pictures_go_in_and_out_without_a_shift_of_colour(text: str) -> None:
    codec = next(name for name in ("jpeg", "png", "webp") if name in text)
    for colour in ((0, 0, 0), (255, 255, 255), (20, 20, 230), (230, 20, 20), (30, 200, 40), (128, 128, 128)):
        flat = np.full((32, 32, 3), colour, np.uint8)
        message = check_message(compressed(text, encoded(f".{codec}", flat)), COMPRESSED)
        out = np.asarray(Pillow.open(io.BytesIO(encode_message(message, PictureOptions(32, 92, COMPRESSED)))))[
            ..., ::-1
        ]
        assert np.abs(out.astype(float).mean(axis=(0, 1)) - colour).max() <= 2.5
