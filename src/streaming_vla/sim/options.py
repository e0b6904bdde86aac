"""The options of the simulated robot."""

from __future__ import annotations

from streaming_vla.options.option import option
from streaming_vla.options.shared import NodeOptions


class SimRobotOptions(NodeOptions):
    """The scene and its pace."""

    task: str = option("drawer-open", "Task at start: one of MT10, or cued-reach, count, return.")
    seed: int = option(10_000, "Places the objects at start.", ge=0, le=2**31 - 1)
    real_time_factor: float = option(
        0.25,
        "Simulated seconds per second; 0.25 is one environment step of 12.5 ms every 50 ms.",
        live=True,
        ge=0.01,
        le=2.0,
    )
    image_size: int = option(192, "Width and height of the camera pictures.", "px", ge=16, le=1024)
    camera_rate_hz: float = option(20.0, "Pictures per second of each camera.", "Hz", live=True, ge=0.1, le=100.0)
