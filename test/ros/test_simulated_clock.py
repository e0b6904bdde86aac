"""A clock that is published, as of `ros2 bag play --clock --loop`: it begins at 0, jumps and starts again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import Float64MultiArray
from streaming_vla_interfaces.msg import Episode, Observation, ObserveRequest, StageSpan

from streaming_vla.ros.base import LATCHED, SPANS
from streaming_vla.ros.images import picture_message

pytestmark = pytest.mark.ros


def test_an_observation_comes_whatever_the_clock_does(suite: Any, probe: Any) -> None:
    suite.start("observer", cameras=["front"], camera_topics=["front/image"], image_size=48, use_sim_time=True)
    probe.wait_for_nodes("observer")
    observations = probe.record(Observation, "observation", 10)
    spans = probe.record(StageSpan, "spans", SPANS)
    clock = probe.publisher(Clock, "/clock")
    requests = probe.publisher(ObserveRequest, "observe_request")
    pictures, states = probe.publisher(Image, "front/image", 2), probe.publisher(Float64MultiArray, "robot_state")
    episodes = probe.publisher(Episode, "episode", LATCHED)
    episodes.publish(Episode(session="/", number=1, active=True, instruction="open the drawer"))
    probe.spin(0.2)
    for sequence, time_s in enumerate((None, 0, 100, 3600, 5, 0)):  # nothing yet, start, jumps, and the next rounds
        if time_s is not None:
            clock.publish(Clock(clock=Time(sec=time_s)))
            probe.spin(0.2)
        requests.publish(ObserveRequest(session="/", episode=1, sequence=sequence, reason=1))
        picture = picture_message(np.full((60, 80, 3), 128, np.uint8), "front")
        picture.header.stamp = Time(sec=time_s or 0)

        def show(picture: Image = picture) -> bool:
            states.publish(Float64MultiArray(data=[0.0, 0.5, 0.25, 1.0]))
            pictures.publish(picture)
            return bool(observations) and observations[-1][1].sequence == sequence  # noqa: B023 (used at once)

        probe.wait(show, f"no observation {sequence} at {time_s} s of the clock")
        assert observations[-1][1].header.stamp.sec == (time_s or 0)
    probe.wait(lambda: len(spans) == 6, "a span is missing")
    ends_s = [span.end.sec + 1e-9 * span.end.nanosec for _, span in spans]
    assert ends_s == pytest.approx([0, 0, 100, 3600, 5, 0], abs=1.0)
