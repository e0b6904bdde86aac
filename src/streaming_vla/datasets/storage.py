"""How a data set keeps its pictures. Without pyarrow, so that the command's help does not need it."""

from __future__ import annotations

from enum import Enum


class Storage(str, Enum):
    """How pictures are kept: H.264 with exact colours, H.264 that every browser shows, or PNG without any loss."""

    film = "film"
    film420 = "film420"
    png = "png"
