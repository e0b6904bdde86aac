"""Films of a camera: H.264 with exact times, read frame by frame.

Colours: libswscale rounds down where it averages colours over 2 x 2 pixels (yuv420p), both ways, and every reader that
does not ask it to round properly sees pictures that are one to two levels of 255 darker. With a colour for each pixel
(yuv444p) nothing is averaged and no reader sees a shift.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation

from streaming_vla.datasets.errors import DatasetError

Pixels = npt.NDArray[np.uint8]
CODEC = "libx264"
EXACT_COLOURS, COMMON_COLOURS = "yuv444p", "yuv420p"
KEY_FRAME_EVERY = 2  # training reads frames in any order
OPTIONS = {
    "preset": "ultrafast",  # with a key frame every other frame the slower ones gain 10 % of size for twice the time
    "crf": "18",
    "g": str(KEY_FRAME_EVERY),
    "bf": "0",  # so that frames are stored in the order in which they are shown, and films can be put together
}
ROUNDED = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
BT601, LIMITED_RANGE = 6, 1  # colour space and range by the numbers of H.264, those that libswscale takes
TOLERANCE_S = 1e-4  # as lerobot's
# ITU-R BT.601, limited range: rows Y, Cb, Cr of B, G, R and a constant. OpenCV rounds, in a fifth of libswscale's time.
BGR_TO_YUV = np.array(
    [
        [24.966 / 255, 128.553 / 255, 65.481 / 255, 16.0],
        [112.0 / 255, -74.203 / 255, -37.797 / 255, 128.0],
        [-18.214 / 255, -93.786 / 255, 112.0 / 255, 128.0],
    ],
    dtype=np.float32,
)


class FilmWriter:
    """Writes [H, W, 3] BGR pictures, one every 1 / rate seconds.

    Args:
        colours: EXACT_COLOURS, or COMMON_COLOURS, which every browser can show; H and W must be even then.
    """

    def __init__(self, path: Path, rate: Fraction, height: int, width: int, colours: str = EXACT_COLOURS) -> None:
        if colours == COMMON_COLOURS and (height % 2 or width % 2):
            raise DatasetError(f"pictures of {width}x{height} px cannot be a film of {colours}: sizes must be even")
        self.count = 0
        self._container = av.open(str(path), "w")
        stream: Any = self._container.add_stream(CODEC, rate=rate, options=OPTIONS)
        stream.height, stream.width, stream.pix_fmt = height, width, colours
        stream.codec_context.thread_count = 1  # films of several cameras and bags are written at the same time
        stream.codec_context.colorspace, stream.codec_context.color_range = BT601, LIMITED_RANGE
        self._stream = stream
        self._shape = (height, width, 3)
        self._time_base = 1 / rate

    def write(self, pixels: Pixels) -> None:
        """Append a picture.

        Raises:
            DatasetError: it has another size.
        """
        if pixels.shape != self._shape:
            raise DatasetError(f"a picture is {pixels.shape[1]}x{pixels.shape[0]} px, the film's others are "
                               f"{self._shape[1]}x{self._shape[0]} px")  # fmt: skip
        frame = _frame(pixels, self._stream.pix_fmt)
        frame.pts, frame.time_base = self.count, self._time_base
        self._container.mux(self._stream.encode(frame))
        self.count += 1

    def close(self) -> None:
        """Write what is left."""
        self._container.mux(self._stream.encode())
        self._container.close()

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _frame(pixels: Pixels, colours: str) -> Any:
    """Return a picture [H, W, 3] BGR as a frame, its colours rounded to the nearest."""
    if colours == EXACT_COLOURS:
        planes = np.empty((3, *pixels.shape[:2]), np.uint8)
        cv2.split(cv2.transform(pixels, BGR_TO_YUV), list(planes))
        return av.VideoFrame.from_ndarray(planes, format=EXACT_COLOURS)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="bgr24")
    return frame.reformat(format=colours, interpolation=ROUNDED)


class FilmReader:
    """Reads the frames of a film file in any order; quick where they follow each other.

    Args:
        height, width: that the data set says.

    Raises:
        DatasetError: no film, or one of another size.
    """

    def __init__(self, path: Path, rate: Fraction, height: int, width: int) -> None:
        self._path, self._rate = path, rate
        self._frames: Iterator[Any] = iter(())
        self._next: int | None = None
        try:
            self._container = av.open(str(path))
        except (OSError, ValueError, av.FFmpegError) as error:
            raise DatasetError(f"the film '{path}' cannot be read ({error}): copy the data set again") from error
        try:
            stream = self._container.streams.video[0]
            stream.codec_context.thread_count = 1
            if (stream.height, stream.width) != (height, width):
                raise DatasetError(
                    f"the film '{path}' is {stream.width}x{stream.height} px, meta/info.json says {width}x{height} px"
                )
            if stream.time_base is None:
                raise DatasetError(f"the film '{path}' has no clock")
        except (IndexError, DatasetError) as error:
            self._container.close()
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(f"'{path}' holds no film") from error
        self._stream, self._time_base = stream, stream.time_base

    def frame(self, number: int, at_s: float) -> Pixels:
        """Return the picture [H, W, 3] BGR that is shown at `at_s`.

        Args:
            number: of the frame, for a quick way to the one that follows.

        Raises:
            DatasetError: the film has none within 1e-4 s of that time, as lerobot refuses it too.
        """
        if number != self._next:
            self._seek(at_s)
        nearest = float("inf")
        try:
            for frame in self._frames:
                if frame.pts is None:
                    continue
                shown_s = float(frame.pts * self._time_base)
                nearest = min(nearest, shown_s, key=lambda each: abs(each - at_s))
                if shown_s > at_s - 0.5 / float(self._rate):
                    break
            else:
                raise DatasetError(f"the film '{self._path}' ends before {at_s:.4f} s: it has fewer frames than steps")
        except av.FFmpegError as error:
            raise DatasetError(f"the film '{self._path}' cannot be decoded at {at_s:.4f} s ({error})") from error
        if abs(nearest - at_s) >= TOLERANCE_S:
            raise DatasetError(
                f"the film '{self._path}' has no frame at {at_s:.4f} s, the nearest is at {nearest:.4f} s: its rate is "
                "not that of meta/info.json"
            )
        self._next = number + 1
        found: Pixels = frame.to_ndarray(format="bgr24")
        return found

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _seek(self, at_s: float) -> None:
        offset = max(0, round(at_s / float(self._time_base)) - 1)
        with contextlib.suppress(av.FFmpegError):  # a film that cannot be sought in is read from where it is
            self._container.seek(offset, backward=True, any_frame=False, stream=self._stream)
        self._frames = self._container.decode(self._stream)


def film_times(path: Path) -> list[float]:
    """Return when each frame of a film is shown, in seconds, without decoding it.

    Raises:
        DatasetError: no film.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            base = stream.time_base or Fraction(1)
            times = sorted(float(each.pts * base) for each in container.demux(stream) if each.pts is not None)
    except (OSError, IndexError, ValueError, av.FFmpegError) as error:
        raise DatasetError(f"the film '{path}' cannot be read ({error})") from error
    if not times:
        raise DatasetError(f"the film '{path}' holds no frame")
    return times
