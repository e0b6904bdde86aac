"""The inference process: which sessions it serves, and that an answer held back by a latency profile blocks nothing."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from observations import observation
from streaming_vla_interfaces import msg as wire
from streaming_vla_interfaces import srv

from streaming_vla.policies.compact.checkpoint import load_policy

pytestmark = pytest.mark.ros
FLOW_STEP_MS = 1500.0


@pytest.fixture(scope="module")
def inference(suite: Any, probe: Any, toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    profile = tmp_path_factory.mktemp("profile") / "slow.yaml"
    constant = {
        name: {"median_ms": ms, "p99_ms": ms}
        for name, ms in (("observe", 1.0), ("flow_step", FLOW_STEP_MS), ("transport", 0.0))
    }
    profile.write_text(yaml.safe_dump({"description": "slow steps", "control_period_ms": 50.0, **constant}))
    suite.start("inference", model=str(toy_model), max_sessions=1, latency_profile=str(profile))
    probe.wait_for_nodes("inference")
    contexts, spec = probe.record(wire.Context, "/context"), load_policy(toy_model).spec
    publisher = probe.publisher(wire.Observation, "/observation")

    def observe(number: int, episode: int) -> wire.Context:
        """Send an observation, wait for its context and return it."""
        contexts.clear()
        publisher.publish(observation(spec, number, episode))
        probe.wait(lambda: [said for _, said in contexts if said.sequence == number], f"no context {number} comes")
        said: wire.Context = contexts[-1][1]
        return said

    return probe, observe


def ask(probe: Any, episode: int) -> list[Any]:
    """Grant the first step of context 0; return the list that its action comes to."""
    actions = probe.record(wire.GeneratedAction, "/generated_action")
    requests = probe.publisher(wire.GenerateRequest, "/generate", 50)
    granted = {"context": 0, "revision": 1, "step": 0, "until": 1, "position": [0.0] * 4}
    requests.publish(wire.GenerateRequest(session="/", episode=episode, **granted))
    return actions


def test_a_session_that_is_not_served_is_refused_and_takes_nobodys_place(inference: Any) -> None:
    probe, observe = inference
    refused = probe.call(srv.ResetSession, "/reset_session", session="/lfet", episode=1)
    assert (refused.accepted, refused.reason) == (False, "session '/lfet' is not served here: expected /")
    assert probe.call(srv.ResetSession, "/reset_session", session="/", episode=1).accepted
    observe(0, episode=1)
    probe.wait(lambda: probe.figure("inference", "session_not_served") == "1", "the refusal is not counted")


def test_a_history_that_begins_within_an_episode_is_said(inference: Any, suite: Any) -> None:
    probe, observe = inference
    context = observe(5, episode=3)
    told = "the history of / begins at observation 5 of episode 3: what was seen before is not in it"
    assert context.history_from == 5 and not context.remembers
    probe.wait(lambda: told in probe.problem("inference"), "the diagnostics do not say it")
    assert suite.log("inference").count(told) == 1
    observe(0, episode=4)
    probe.wait(lambda: told not in probe.problem("inference"), "it is said for ever")


def test_observations_become_contexts_while_a_flow_step_is_held(inference: Any) -> None:
    probe, observe = inference
    observe(0, episode=5)
    begin_s = time.monotonic()
    actions = ask(probe, episode=5)
    for number in (1, 2):
        observe(number, episode=5)
        assert not actions, "the context has waited for the flow step"
    probe.wait(lambda: actions, "the action does not come")
    assert actions[0][1].accepted, actions[0][1].reason
    assert actions[0][1].compute_s >= FLOW_STEP_MS / 1000
    assert time.monotonic() - begin_s >= FLOW_STEP_MS / 1000


def test_a_flow_step_that_is_held_keeps_no_process_alive(inference: Any, suite: Any) -> None:
    probe, observe = inference
    observe(0, episode=6)
    actions = ask(probe, episode=6)
    probe.spin(0.2)
    assert not actions
    assert suite.end("inference", signal.SIGTERM) == 0
    assert "Traceback" not in suite.log("inference")
