"""The inference process with two robots: each is served under its own name, and their flow steps go together."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from observations import observation
from streaming_vla_interfaces import msg as wire
from streaming_vla_interfaces import srv

from streaming_vla.policies.loading import load_policy

pytestmark = pytest.mark.ros
IN_FLIGHT = 8  # of each robot: more are refused


@pytest.fixture(scope="module")
def robots(suite: Any, probe: Any, toy_model: Path) -> dict[str, Any]:
    """Return the client for flow steps of each robot, which has a context."""
    suite.start("inference", model=str(toy_model), sessions=["/left/", "right"])
    probe.wait_for_nodes("inference")
    spec, clients = load_policy(toy_model).spec, {}
    for session in ("/left", "/right"):
        contexts = probe.record(wire.Context, f"{session}/context")
        seen = observation(spec, 0, episode=1)
        seen.session = session
        probe.publisher(wire.Observation, f"{session}/observation").publish(seen)
        probe.wait(lambda contexts=contexts: contexts, f"no context of {session} comes")
        clients[session] = probe.node.create_client(srv.FlowStep, f"{session}/flow_step")
        probe.wait(clients[session].service_is_ready, f"nobody offers flow steps to {session}")
    return clients


def ask(robots: dict[str, Any], session: str) -> list[Any]:
    """Ask for the first flow step of context 0 several times; return the futures of the answers."""
    request = srv.FlowStep.Request(session=session, episode=1, context=0, position=[0.0] * 4)
    return [robots[session].call_async(request) for _ in range(IN_FLIGHT)]


def test_steps_that_wait_together_go_in_one_pass(robots: dict[str, Any], probe: Any) -> None:
    asked = {session: ask(robots, session) for session in robots}
    probe.wait(lambda: all(future.done() for each in asked.values() for future in each), "a step is not answered")
    answers = {session: [future.result() for future in each] for session, each in asked.items()}
    assert all(answer.accepted for each in answers.values() for answer in each)
    left, right = ({answer.compute_s for answer in each} for each in answers.values())
    assert left & right, "no two steps took the same time: each had a pass of its own"


def test_what_is_awaited_keeps_no_node_from_its_end(robots: dict[str, Any], suite: Any, probe: Any) -> None:
    for session in robots:
        ask(robots, session)
    probe.spin(0.01)
    assert suite.end("inference", signal.SIGTERM) == 0
    assert "Traceback" not in suite.log("inference")
