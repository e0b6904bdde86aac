"""Observation messages that a compact policy takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage
from streaming_vla_interfaces.msg import Observation

from streaming_vla.policies.contract import PolicySpec
from streaming_vla.sim.frames import encode_frame


def observation(spec: PolicySpec, number: int, episode: int) -> Any:
    """Return observation `number` of session /; its pictures are of one brightness each."""
    picture = np.full((spec.image_size, spec.image_size, 3), 9 * number, np.uint8)
    data = bytes(encode_frame(picture, spec.image_size))
    message = Observation(session="/", episode=episode, sequence=number, reason=1, instruction="reach")
    message.cameras = list(spec.cameras)
    message.images = [CompressedImage(format="jpeg", data=data) for _ in spec.cameras]
    message.state = [0.0] * spec.state_size
    return message
