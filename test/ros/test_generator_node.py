"""The generator process: a policy that acts in another layout than the parameters say gets no flow step."""

from __future__ import annotations

from typing import Any

import pytest
from streaming_vla_interfaces.msg import Context, Episode
from streaming_vla_interfaces.srv import FlowStep

from streaming_vla.ros.base import LATCHED

pytestmark = pytest.mark.ros


def test_a_foreign_layout_is_named_and_refused(suite: Any, probe: Any) -> None:
    asked: list[int] = []

    def answer(request: FlowStep.Request, response: FlowStep.Response) -> FlowStep.Response:
        asked.append(request.context)
        return response

    probe.node.create_service(FlowStep, "flow_step", answer)
    suite.start("generator")
    probe.wait_for_nodes("generator")
    probe.publisher(Episode, "episode", LATCHED).publish(Episode(session="/", number=1, active=True))
    contexts = probe.publisher(Context, "context")
    names = ["dx", "dy", "dz", "gripper"]
    horizons = {"execution_horizon": 2, "trained_horizon": 4}
    foreign = Context(session="/", episode=1, sequence=0, action_names=names, action_absolute=[False] * 4, **horizons)
    contexts.publish(foreign)
    sentence = "the policy acts in dx, dy, dz, gripper, the parameters say dx, dy, dz, gripper (absolute)"
    probe.wait(lambda: sentence in probe.problem("generator"), "the layout is not named")
    assert probe.figure("generator", "malformed_context") == "1" and not asked
    contexts.publish(
        Context(
            session="/",
            episode=1,
            sequence=1,
            action_names=names,
            action_absolute=[False, False, False, True],
            **horizons,
        )
    )
    probe.wait(lambda: asked == [1], "no flow step is asked for")
