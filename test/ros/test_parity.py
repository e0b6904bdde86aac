"""Parity: one trace of events through the virtual clock, and through the nodes, gives the same decisions.

The nodes host the same machines and the same engine, but everything that they hear and say is a message. Each event of
a virtual run with jitter and loss is turned into its message and back and told to fresh machines at the same times;
what these ask for, turned into messages and back as well, must be what the virtual run did.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from streaming_vla_interfaces import srv

sys.path.insert(0, str(Path(__file__).parents[1] / "machines"))
sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "streaming"))

from runtime_cases import LAYOUT
from strategies import STRATEGIES
from world import OBSERVER, Straw, Timing, World, make_engine

from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.engine.values import ContextReport, EncodedObservation, Reply
from streaming_vla.machines.events import (
    Action,
    Command,
    Episode,
    ExecutionState,
    GeneratedAction,
    GenerateRequest,
    ObserveRequest,
    Reason,
    SaliencyQuestion,
    SaliencyReply,
    Snapshot,
)
from streaming_vla.machines.executor import Executor, ExecutorOptions
from streaming_vla.machines.generator import Generator
from streaming_vla.machines.monitor import Monitor
from streaming_vla.machines.observer import Observer
from streaming_vla.ros import messages
from streaming_vla.workbench.virtual.world import Told

ROBOT = "/robot"
NOW = Time(sec=1)
CAMERAS = OBSERVER.cameras


def observation_over_the_wire(observation: EncodedObservation) -> EncodedObservation:
    """Return what the engine sees."""
    request = ObserveRequest(observation.episode, observation.sequence, Reason.EARLY)
    pictures = dict(zip(CAMERAS, observation.images, strict=True))
    wire = messages.observation_to(request, observation.session, NOW, pictures, observation.state)
    wire.instruction = observation.instruction
    return messages.observation_from(wire, CAMERAS)


def saliency_over_the_wire(reply: SaliencyReply) -> SaliencyReply:
    """Return what the monitor hears of the predictor's answer."""
    question = SaliencyQuestion(reply.episode, reply.context, reply.index, np.zeros(LAYOUT.size), "pictures")
    wire = srv.PredictSaliency.Response(accepted=reply.accepted, reason=reply.reason, saliency=reply.saliency)
    return messages.saliency_reply_from(question, wire)


def question_over_the_wire(question: SaliencyQuestion) -> SaliencyQuestion:
    """Return what the engine is asked."""
    return messages.saliency_question_from(messages.saliency_question_to(question, ROBOT))


WIRE: dict[type, Callable[[Any], Any]] = {
    Episode: lambda it: messages.episode_from(messages.episode_to(it, ROBOT, NOW)),
    ObserveRequest: lambda it: messages.request_from(messages.request_to(it, ROBOT, NOW)),
    Action: lambda it: messages.action_from(messages.action_to(it, ROBOT, NOW)),
    ExecutionState: lambda it: messages.execution_state_from(messages.execution_state_to(it, ROBOT, NOW)),
    EncodedObservation: observation_over_the_wire,
    GenerateRequest: lambda it: messages.generate_from(messages.generate_to(it, ROBOT, NOW)),
    GeneratedAction: lambda it: messages.generated_from(messages.generated_to(it, ROBOT, NOW)),
    SaliencyQuestion: question_over_the_wire,
    SaliencyReply: saliency_over_the_wire,
}


def over_the_wire(value: Any) -> Any:
    """Return `value` as the next node reads it; what has no message of its own (a picture, a state) as it is."""
    return WIRE[type(value)](value) if type(value) in WIRE else value


def said(effect: object) -> tuple[object, ...]:
    """Return what counts of an effect: its kind, its numbers, and its values to the precision of the wire."""
    match effect:
        case ObserveRequest():
            return "request", effect.episode, effect.sequence, effect.reason
        case Snapshot():
            return "snapshot", effect.request.sequence, effect.instruction
        case GenerateRequest():
            steps = (effect.context, effect.revision, effect.step, effect.until, effect.delay)
            planned = np.zeros(0) if effect.planned is None else np.round(effect.planned, 4).ravel()
            return "generate", *steps, *np.round(effect.position, 4), *planned
        case Action():
            return "action", effect.context, effect.index, effect.more, *np.round(effect.values, 4)
        case Command():
            return "command", effect.kind, *np.round(effect.values, 4)
        case ExecutionState():
            return "state", effect.mode, effect.context, effect.index, effect.executed, effect.queue_depth
        case SaliencyQuestion():
            return "question", effect.context, effect.index, *np.round(effect.pending, 4)
        case Episode():
            return "episode", effect.number, effect.active
        case Reply():
            return effect.session, *said(over_the_wire(effect.value))
        case ContextReport():
            return "context", effect.sequence, effect.tokens, round(effect.prefill_s, 6), round(effect.flow_step_s, 6)
        case GeneratedAction():
            return "generated", effect.context, effect.revision, effect.step, effect.code, *np.round(effect.values, 4)
        case SaliencyReply():
            return "saliency", effect.context, effect.index, effect.accepted, round(effect.saliency, 4)
    raise AssertionError(f"unknown effect {effect}")


def recorded(strategy: str, seed: int) -> tuple[list[Told], dict[str, Any]]:
    """Return the trace of a virtual run, and fresh machines with the options of that run."""
    setup, profile = STRATEGIES[strategy], find_profile("remote_wifi")
    period_s = profile.control_period_s
    monitor = setup.monitor_options(period_s, LAYOUT, 16)
    executor = ExecutorOptions(control_period_s=period_s)
    generator = replace(setup.generator, control_period_s=period_s)
    timing = Timing(period_s, trained=16)
    made = World(timing, monitor, generator, executor, profile=profile, seed=seed)
    made.trace = []
    made.start("open the drawer")
    made.run(6.0)
    assert made.halting().hand_overs > 10
    fresh = {
        "observer": Observer(OBSERVER),
        "monitor": Monitor(monitor),
        "generator": Generator(LAYOUT, generator),
        "executor": Executor(LAYOUT, executor),
        "engine": make_engine(Straw(timing), profile, seed),
    }
    fresh["executor"].on_robot_state(0.0)  # as the world senses once when it is made
    fresh["generator"].on_robot_state(made.straw.state(), 0.0)
    fresh["monitor"].start_episode(0.0, "open the drawer")
    return made.trace, fresh


@pytest.mark.parametrize("strategy", ["ours", "ours_action_norm", "ours_adaptive", "ours_from_picture", "afm"])
def test_the_wire_changes_no_decision(strategy: str) -> None:
    trace, machines = recorded(strategy, seed=3)
    decisions, asked = 0, Counter[str]()
    for told in trace:
        arguments = tuple(over_the_wire(argument) for argument in told.arguments)
        now = () if told.machine == "engine" and told.handler != "poll" else (told.now,)  # it is among its arguments
        effects = getattr(machines[told.machine], told.handler)(*arguments, *now) or ()
        assert [said(over_the_wire(effect)) for effect in effects] == [said(effect) for effect in told.effects], told
        decisions += len(effects)
        asked[told.handler] += told.machine == "engine"
    assert decisions > 600 and min(asked[handler] for handler in ("observe", "generate", "poll")) > 10
    if strategy == "ours_adaptive":
        counted = machines["monitor"].counters
        assert min(counted["sent_salient"], counted["suppressed_calm"]) > 3, "the policy's plan decided, both ways"
        assert asked["predict_saliency"] > 10
