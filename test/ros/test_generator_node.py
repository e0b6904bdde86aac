"""The generator process: a policy that acts in another layout than the parameters say gets no flow step."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from streaming_vla_interfaces.msg import (
    Action,
    Context,
    Episode,
    ExecutionState,
    GeneratedAction,
    GenerateRequest,
    ObserveRequest,
)

from streaming_vla.ros.base import LATCHED

pytestmark = pytest.mark.ros


def test_a_foreign_layout_is_named_and_refused(suite: Any, probe: Any) -> None:
    asked = probe.record(GenerateRequest, "generate")
    suite.start("generator")
    probe.wait_for_nodes("generator")
    probe.publisher(Episode, "episode", LATCHED).publish(Episode(session="/", number=1, active=True))
    contexts = probe.publisher(Context, "context")
    names = ["dx", "dy", "dz", "gripper"]
    horizons = {"execution_horizon": 2, "trained_horizon": 4}
    foreign = Context(session="/", episode=1, sequence=0, action_names=names, action_absolute=[False] * 4, **horizons)
    contexts.publish(foreign)
    sentence = "action_absolute is wrong for gripper: targets of the policy are none, the others are changes"
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
    probe.wait(lambda: [said.context for _, said in asked] == [1], "no action is asked for")
    assert suite.end("generator", signal.SIGTERM) == 0


def test_actions_are_granted_ahead_and_forwarded_one_by_one(suite: Any, probe: Any) -> None:
    """The first steps of a context are granted with its picture; what has come waits here, not at the executor."""
    asked = probe.record(GenerateRequest, "generate")
    sent = probe.record(Action, "action")
    suite.start("generator")
    probe.wait_for_nodes("generator")
    probe.publisher(Episode, "episode", LATCHED).publish(Episode(session="/", number=1, active=True))
    requests, contexts = probe.publisher(ObserveRequest, "observe_request"), probe.publisher(Context, "context")
    generated = probe.publisher(GeneratedAction, "generated_action", 50)
    requests.publish(ObserveRequest(session="/", episode=1, sequence=0, reason=1))
    probe.wait(lambda: asked, "nothing is granted to the context to come")
    first = asked[0][1]
    assert (first.context, first.step) == (0, 0) and first.until >= 1
    names, absolute = ["dx", "dy", "dz", "gripper"], [False, False, False, True]
    context = {"action_names": names, "action_absolute": absolute, "execution_horizon": 10, "trained_horizon": 16}

    def come(step: int) -> None:
        newest = asked[-1][1]
        values = [0.1 * step, 0.0, 0.0, -1.0]
        generated.publish(
            GeneratedAction(
                session="/", episode=1, context=0, revision=newest.revision, step=step, accepted=True, values=values
            )
        )

    come(0)
    probe.spin(0.2)
    assert not sent, "its context is not there yet"
    contexts.publish(Context(session="/", episode=1, sequence=0, **context))
    probe.wait(lambda: asked[-1][1].until > 1, "no further step is granted")
    for step in range(1, asked[-1][1].until):
        come(step)
    probe.wait(lambda: sent, "the first action is not sent")
    probe.spin(0.2)
    assert [said.index for _, said in sent] == [0], "one action waits at the executor"
    state = ExecutionState(session="/", episode=1, mode=2, context=0, index=0, executed=1)
    state.cumulative_action = [0.0, 0.0, 0.0, -1.0]
    probe.publisher(ExecutionState, "execution_state", 50).publish(state)
    probe.wait(lambda: len(sent) == 2, "there is room for the next one")
    assert sent[1][1].index == 1 and sent[1][1].values[0] == pytest.approx(0.1)
