"""Puts films one behind the other into one file without encoding them again."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.layout import LONGEST_FILM_S, VIDEO_FILE_MB

MB = 1 << 20


class JoinedFilm:
    """The films of one camera: `add` says where each begins, `paths` makes the next file's name.

    Films of one file are made with the same settings. A file ends where the next film would make it larger than
    VIDEO_FILE_MB, or later than LONGEST_FILM_S.
    """

    def __init__(self, rate: Fraction) -> None:
        self._rate = rate
        self._container: Any = None
        self._stream: Any = None
        self._header: bytes | None = None
        self._frames = self._bytes = 0
        self.number = -1  # of the file

    def add(self, film: Path, frames: int, path_of: Callable[[int], Path]) -> tuple[int, float, float]:
        """Append a film.

        Args:
            frames: that it has.
            path_of: returns the path of the file of a number.

        Returns:
            Number of the file, and when the film begins and ends in it, s.

        Raises:
            DatasetError: it has another number of frames.
        """
        size = film.stat().st_size
        with av.open(str(film)) as source:
            stream = source.streams.video[0]
            header = stream.codec_context.extradata
            late = (self._frames + frames) / self._rate > LONGEST_FILM_S
            large = self._bytes + size > VIDEO_FILE_MB * MB
            if self._container is None or header != self._header or (self._frames and (late or large)):
                self._begin(stream, header, path_of)
            begin = self._frames
            for packet in source.demux(stream):
                if packet.dts is None:
                    continue
                packet.stream = self._stream
                packet.time_base = 1 / self._rate
                packet.pts = packet.dts = self._frames
                packet.duration = 1
                self._container.mux(packet)
                self._frames += 1
        if self._frames - begin != frames:
            raise DatasetError(f"the film '{film}' has {self._frames - begin} frames, expected {frames}")
        self._bytes += size
        return self.number, float(begin / self._rate), float(self._frames / self._rate)

    def close(self) -> None:
        """Finish the file."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def _begin(self, template: Any, header: bytes | None, path_of: Callable[[int], Path]) -> None:
        self.close()
        self.number += 1
        path: Path = path_of(self.number)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream_from_template(template)
        self._stream.time_base = 1 / self._rate
        self._header = header
        self._frames = self._bytes = 0
