"""The options of the recorder, and of what writes its bags."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import model_validator

from streaming_vla.options.option import Options, option
from streaming_vla.options.shared import NodeOptions

MB = 1_000_000


class WriterOptions(Options):
    """How a bag is written."""

    compression: Literal["none", "zstd", "lz4"] = option(
        "none", "Of the chunks in the bag; JPEG pictures gain nothing from it."
    )
    chunk_bytes: int = option(1 << 20, "Messages of this size are written as one chunk.", "bytes", ge=1, le=1 << 30)
    flush_s: float = option(0.5, "A killed process loses at most the messages of this time.", "s", ge=0.05, le=60.0)
    sync_s: float = option(5.0, "A power cut loses at most the messages of this time.", "s", ge=0.1, le=600.0)
    split_mb: float = option(1000.0, "Size at which a new file begins, 0 for never.", "MB", ge=0.0, le=1.0e6)
    split_s: float = option(0.0, "Length at which a new file begins, 0 for never.", "s", ge=0.0, le=86400.0)


class RecorderOptions(WriterOptions, NodeOptions):
    """What is recorded, and where."""

    bag_folder: str = option("recordings", "Folder that gets the bags.")
    bag_name: str = option("", "Name of the bag, a folder; empty takes date and time.")
    include: tuple[str, ...] = option(
        (".*",),
        "Regular expressions of whole topic names; of the robot's namespace and the shared topics (/diagnostics, "
        "/rosout, /tf, /tf_static, /clock) those that match one are recorded.",
    )
    exclude: tuple[str, ...] = option(
        ("",), "Regular expressions of topics that are not recorded; an empty one excludes nothing."
    )
    jpeg_quality: int = option(
        95,
        "Raw 8 bit pictures are stored as JPEG of this quality, on a topic with /compressed at its end; 0 stores them "
        "as they are.",
        ge=0,
        le=100,
    )
    queue_mb: float = option(
        256.0, "Messages that may wait for the disk; more are dropped and counted.", "MB", ge=1.0, le=1.0e5
    )

    def chosen(self, topic: str) -> bool:
        """Return whether the patterns choose a topic."""
        return _matches(self.include, topic) and not _matches(self.exclude, topic)

    @model_validator(mode="after")
    def _check_patterns(self) -> RecorderOptions:
        for name in ("include", "exclude"):
            for pattern in getattr(self, name):
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"{name} has '{pattern!r}', which is no regular expression ({error})") from error
        return self


def _matches(patterns: tuple[str, ...], topic: str) -> bool:
    return any(re.fullmatch(pattern, topic) for pattern in patterns if pattern)
