"""How a camera's picture becomes the square one that a policy sees."""

from __future__ import annotations

from typing import Literal

ImageFit = Literal["crop", "letterbox", "letterbox_left_top"]  # the middle; padded on both sides, or left and on top
