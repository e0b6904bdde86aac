"""Camera messages of every kind become the right colours, and what cannot be used is refused with a sentence."""

from __future__ import annotations

import zlib
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_vla.images.decode import COMPRESSED, IMAGE, POINTS, check_message, check_picture, pixels_of
from streaming_vla.images.encode import PictureOptions, camera_options, encode_message
from streaming_vla.images.encodings import DEPTHS, ENCODINGS
from streaming_vla.images.fit import square
from streaming_vla.machines.observer_options import ObserverOptions

SIZE = (24, 32)
COLOUR = (40, 120, 200)  # BGR


def message(encoding: str, rows: np.ndarray, height: int, width: int, big: bool = False, padding: int = 0) -> Any:
    rows = np.pad(np.ascontiguousarray(rows).view(np.uint8).reshape(rows.shape[0], -1), ((0, 0), (0, padding)))
    return SimpleNamespace(
        encoding=encoding, height=height, width=width, step=rows.shape[1], is_bigendian=int(big), data=rows.reshape(-1)
    )


def picture() -> np.ndarray:
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:] = COLOUR
    return pixels


def mosaic(pattern: str) -> np.ndarray:
    place = {"b": 0, "g": 1, "r": 2}
    rows = np.zeros(SIZE, np.uint8)
    for number, letter in enumerate(pattern):
        rows[number // 2 :: 2, number % 2 :: 2] = COLOUR[place[letter]]
    return rows


def yuv(kind: str) -> np.ndarray:
    full = cv2.cvtColor(picture(), cv2.COLOR_BGR2YUV_I420)
    height, width = SIZE
    y = full[:height]
    u = full[height : height + height // 4].reshape(height // 2, width // 2)
    v = full[height + height // 4 :].reshape(height // 2, width // 2)
    if kind in ("nv12", "nv21"):
        pair = (u, v) if kind == "nv12" else (v, u)
        return np.vstack([y, np.stack(pair, axis=-1).reshape(height // 2, width)])
    first, second = np.repeat(u, 2, axis=0), np.repeat(v, 2, axis=0)
    order = (first, y[:, 0::2], second, y[:, 1::2]) if kind == "uyvy" else (y[:, 0::2], first, y[:, 1::2], second)
    return np.stack(order, axis=-1).reshape(height, 2 * width)


ROWS = {
    "rgb8": picture()[..., ::-1],
    "bgr8": picture(),
    "8UC3": picture(),
    "rgba8": cv2.cvtColor(picture(), cv2.COLOR_BGR2RGBA),
    "bgra8": cv2.cvtColor(picture(), cv2.COLOR_BGR2BGRA),
    **{f"bayer_{pattern}8": mosaic(pattern) for pattern in ("rggb", "bggr", "gbrg", "grbg")},
    "yuv422": yuv("uyvy"),
    "uyvy": yuv("uyvy"),
    "yuv422_yuy2": yuv("yuyv"),
    "yuyv": yuv("yuyv"),
    "nv12": yuv("nv12"),
    "nv21": yuv("nv21"),
}


def test_every_encoding_is_tried() -> None:
    assert set(ROWS) | {"mono8", "8UC1", "mono16"} == set(ENCODINGS)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", ROWS)
def test_colours(encoding: str, padding: int) -> None:
    rows = ROWS[encoding]
    pixels = pixels_of(check_picture(message(encoding, rows, *SIZE, padding=padding)))
    assert pixels.shape == (*SIZE, 3)
    inside = pixels[2:-2, 2:-2].astype(int)  # a mosaic has no neighbours at its edge
    assert np.abs(inside - COLOUR).max() <= 4


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey(encoding: str) -> None:
    assert (pixels_of(check_picture(message(encoding, np.full(SIZE, 99, np.uint8), *SIZE))) == 99).all()


@pytest.mark.parametrize("big", [False, True])
def test_wide_numbers_in_both_orders(big: bool) -> None:
    order = ">" if big else "<"
    grey = message("mono16", np.full(SIZE, 0x6301, f"{order}u2"), *SIZE, big=big)
    assert (pixels_of(check_picture(grey)) == 0x63).all()
    for encoding, values in (
        ("16UC1", np.full(SIZE, 1250, f"{order}u2")),
        ("32FC1", np.full(SIZE, 1.25, f"{order}f4")),
    ):
        depth = pixels_of(check_picture(message(encoding, values, *SIZE, big=big)), depth_limit_m=5.0)
        assert (depth == 191).all()  # 255 * (1 - 1.25 / 5)


def test_depth_without_a_measurement_is_black() -> None:
    values = np.full(SIZE, np.nan, np.float32)
    values[0, :4] = (0.0, np.inf, -1.0, 9.0)
    assert (pixels_of(check_picture(message("32FC1", values, *SIZE)), depth_limit_m=5.0) == 0).all()


@pytest.mark.parametrize(("ending", "format_"), [(".jpg", "rgb8; jpeg compressed bgr8"), (".png", "png")])
def test_compressed(ending: str, format_: str) -> None:
    _, data = cv2.imencode(ending, picture())
    found = pixels_of(check_message(SimpleNamespace(format=format_, data=data.reshape(-1)), COMPRESSED), COMPRESSED)
    assert np.abs(found.astype(int) - COLOUR).max() <= 4


def test_compressed_depth() -> None:
    _, data = cv2.imencode(".png", np.full(SIZE, 1250, np.uint16))
    both = np.concatenate([np.zeros(12, np.uint8), data.reshape(-1)])
    found = pixels_of(SimpleNamespace(format="16UC1; compressedDepth png", data=both), COMPRESSED, 5.0)
    assert (found == 191).all()


def cloud(points: np.ndarray, height: int, names: str = "xyz") -> Any:
    packed = np.zeros((points.shape[0], 4), np.float32)  # with 4 bytes of padding, as drivers do
    packed[:, :3] = points
    fields = [SimpleNamespace(name=name, offset=4 * place, datatype=7, count=1) for place, name in enumerate(names)]
    width = points.shape[0] // height
    return SimpleNamespace(
        fields=fields, height=height, width=width, point_step=16, row_step=16 * width, is_bigendian=False,
        data=packed.view(np.uint8).reshape(-1),
    )  # fmt: skip


def test_points_of_a_depth_camera_keep_their_places() -> None:
    points = np.zeros((6 * 8, 3), np.float32)
    points[:, 2] = 2.5
    points[3, 2] = np.nan
    found = pixels_of(cloud(points, 6), POINTS, 5.0)
    assert found.shape == (6, 8, 3)
    assert found[0, 3, 0] == 0
    assert found[5, 7, 0] == 127


def test_points_of_a_scanner_are_seen_from_its_origin() -> None:
    found = pixels_of(
        cloud(np.array([[2.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 9.0]]), 1), POINTS, 4.0
    )
    assert found.shape == (64, 512, 3)
    assert found[32, 256, 0] == 191  # the nearer of two ahead
    assert found[32, 128, 0] == 63  # to the left
    assert (found > 0).sum() == 2 * 3  # straight up is outside


def test_points_that_cannot_be_used() -> None:
    with pytest.raises(ValueError, match="has no z; its fields are 'x', 'y', 'i'"):
        pixels_of(cloud(np.zeros((4, 3)), 2, "xyi"), POINTS)
    broken = cloud(np.zeros((4, 3)), 2)
    broken.width = 9
    with pytest.raises(ValueError, match="does not fit together"):
        pixels_of(broken, POINTS)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (message("rgb16", np.zeros((4, 24), np.uint8), 4, 4), "encoding 'rgb16' is not supported"),
        (message("nv12", np.zeros((7, 4), np.uint8), 5, 4), "is 4x5 px, expected multiples of 2x2 for nv12"),
        (message("yuyv", np.zeros((4, 6), np.uint8), 4, 3), "is 3x4 px, expected multiples of 2x1 for yuyv"),
        (message("32FC1", np.zeros((4, 8), np.uint8), 4, 4), "step is 8 bytes, expected at least 16"),
        (message("mono8", np.zeros((1, 8), np.uint8), 8192, 8192), "is 8192x8192 px, expected at most 16777216 px"),
        (message("16UC1", np.zeros((3, 8), np.uint8), 4, 4), "the data has 24 bytes, expected 32"),
    ],
)
def test_pictures_that_cannot_be_used(made: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_picture(made)


@pytest.mark.parametrize(
    "data", [np.zeros(0, np.uint8), np.full(50, 7, np.uint8), np.frombuffer(b"\xff\xd8\xff", np.uint8)]
)
def test_compressed_pictures_that_cannot_be_used(data: np.ndarray) -> None:
    made = SimpleNamespace(format="jpeg", data=data)
    with pytest.raises(ValueError, match=r"the compressed picture \(format 'jpeg'\)"):
        pixels_of(check_message(made, COMPRESSED), COMPRESSED)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("side", "sentence"),
    [
        (8_192, "is 8192x8192 px, expected at most 16777216 px"),
        (10_000, "is 10000x10000 px, expected at most 16777216 px"),  # Pillow warns
        (30_000, r"cannot be read: Image size \(900000000 pixels\) exceeds limit"),  # Pillow refuses
    ],
)
def test_a_bomb_is_not_opened(side: int, sentence: str) -> None:
    _, data = cv2.imencode(".png", np.zeros((8, 8), np.uint8))
    head = bytearray(data.tobytes())
    head[16:24] = side.to_bytes(4, "big") * 2
    head[29:33] = zlib.crc32(head[12:29]).to_bytes(4, "big")
    with pytest.raises(ValueError, match=sentence):
        pixels_of(SimpleNamespace(format="png", data=np.frombuffer(bytes(head), np.uint8)), COMPRESSED)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_pictures_are_turned_upright(rotation: int) -> None:
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:8] = 255  # the top is bright
    turned = square(np.ascontiguousarray(np.rot90(pixels, rotation // 90)), 30, rotation)  # lies rotation to the left
    assert turned.shape == (30, 30, 3)
    assert turned[:6].min() == 255
    assert turned[10:].max() == 0


def test_options_of_all_cameras_or_of_each() -> None:
    options = ObserverOptions(
        cameras=("a", "b"),
        camera_topics=("a", "b"),
        camera_types=(COMPRESSED,),
        camera_rotations=(0, 90),
        image_size=32,
        jpeg_quality=80,
    )
    found = camera_options(options)
    assert found == {"a": PictureOptions(32, 80, COMPRESSED), "b": PictureOptions(32, 80, COMPRESSED, 90)}
    with pytest.raises(ValueError, match="camera_types has 3 entries, expected one for all or one for each of a, b"):
        options.changed(camera_types=(COMPRESSED,) * 3)
    with pytest.raises(ValueError, match=r"'camera_rotations' is \[0, 45\], expected a list, each one of 0, 90, 180"):
        options.changed(camera_rotations=(0, 45))


def test_a_rotation_in_between_is_refused() -> None:
    with pytest.raises(ValueError, match="camera rotation is 45, expected one of 0, 90, 180, 270 degrees"):
        PictureOptions(96, 92, rotation=45)


def test_the_policy_gets_a_square_jpeg() -> None:
    data = encode_message(check_picture(message("bgr8", picture(), *SIZE)), PictureOptions(16, 92))
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (16, 16, 3)
    assert np.abs(decoded.astype(int) - COLOUR).max() <= 4


@pytest.mark.parametrize(("how", "shown"), [("crop", (0, 16)), ("letterbox", (4, 12)), ("letterbox_left_top", (8, 16))])
def test_the_whole_picture_is_seen_where_it_is_padded(how: str, shown: tuple[int, int]) -> None:
    pixels = np.full((32, 64, 3), 200, np.uint8)
    pixels[:, :16] = 20  # what the middle leaves out
    options = PictureOptions(16, 100, fit=how, pad_value=128)
    data = encode_message(check_picture(message("bgr8", pixels, 32, 64)), options)
    seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    first, last = shown
    assert np.abs(seen[first + 1 : last - 1, 10:].astype(int) - 200).max() <= 6
    assert (seen[first + 1 : last - 1, 1].astype(int) < 60).all() == (how != "crop")
    padding = np.delete(seen, slice(max(0, first - 1), last + 1), axis=0).astype(int)
    assert not padding.size or np.abs(padding - 128).max() <= 6


@given(
    st.sampled_from([*ENCODINGS, *DEPTHS, "rgb16", ""]),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 40),
    st.integers(0, 400),
    st.booleans(),
)
def test_any_message_is_decoded_or_refused(
    encoding: str, height: int, width: int, step: int, size: int, big: bool
) -> None:
    made = SimpleNamespace(
        encoding=encoding, height=height, width=width, step=step, is_bigendian=int(big),
        data=np.arange(size).astype(np.uint8),
    )  # fmt: skip
    try:
        check_picture(made)
    except ValueError:
        return
    assert pixels_of(made, IMAGE).shape == (height, width, 3)
