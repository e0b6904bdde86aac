"""The inference process with two robots: each is served under its own name, and their steps go together."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from observations import observation
from streaming_vla_interfaces import msg as wire

from streaming_vla.policies.compact.checkpoint import load_policy

pytestmark = pytest.mark.ros
STEPS = 8  # granted to each robot


@pytest.fixture(scope="module")
def robots(suite: Any, probe: Any, toy_model: Path) -> dict[str, tuple[Any, list[Any]]]:
    """Return, of each robot, which has a context, the publisher of its requests and what it is sent."""
    suite.start("inference", model=str(toy_model), sessions=["/left/", "right"])
    probe.wait_for_nodes("inference")
    spec, found = load_policy(toy_model).spec, {}
    for session in ("/left", "/right"):
        contexts = probe.record(wire.Context, f"{session}/context")
        seen = observation(spec, 0, episode=1)
        seen.session = session
        probe.publisher(wire.Observation, f"{session}/observation").publish(seen)
        probe.wait(lambda contexts=contexts: contexts, f"no context of {session} comes")
        actions = probe.record(wire.GeneratedAction, f"{session}/generated_action")
        found[session] = probe.publisher(wire.GenerateRequest, f"{session}/generate", 50), actions
    return found


def ask(robots: dict[str, Any], revision: int) -> None:
    """Grant every robot the first steps of context 0."""
    for session, (requests, _) in robots.items():
        granted = {"context": 0, "revision": revision, "step": 0, "until": STEPS, "position": [0.0] * 4}
        requests.publish(wire.GenerateRequest(session=session, episode=1, **granted))


def test_steps_that_wait_together_go_in_one_pass(robots: dict[str, Any], probe: Any) -> None:
    together = 0
    for revision in range(1, 6):
        for _, actions in robots.values():
            actions.clear()
        ask(robots, revision)
        probe.wait(lambda: all(len(actions) == STEPS for _, actions in robots.values()), "an action does not come")
        left, right = ([said for _, said in actions] for _, actions in robots.values())
        assert all(said.accepted for said in (*left, *right))
        assert [said.step for said in left] == [said.step for said in right] == list(range(STEPS))
        together += len({said.compute_s for said in left} & {said.compute_s for said in right})
    assert together, "no two steps took the same time: each had a pass of its own"


def test_a_request_of_an_old_episode_or_a_context_that_is_gone_is_refused_in_a_sentence(
    robots: dict[str, Any], probe: Any
) -> None:
    requests, actions = robots["/left"]
    for episode, context, code in ((0, 0, "old_episode"), (1, 0, "")):
        actions.clear()
        granted = {"context": context, "revision": 99, "step": 0, "until": 1, "position": [0.0] * 4}
        requests.publish(wire.GenerateRequest(session="/left", episode=episode, **granted))
        probe.wait(lambda: actions, "the request is not answered")
        assert actions[0][1].code == code and bool(actions[0][1].reason) == bool(code)


def test_what_is_awaited_keeps_no_node_from_its_end(robots: dict[str, Any], suite: Any, probe: Any) -> None:
    ask(robots, 100)
    probe.spin(0.01)
    assert suite.end("inference", signal.SIGTERM) == 0
    assert "Traceback" not in suite.log("inference")
