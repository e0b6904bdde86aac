"""Parity: one trace of events through the virtual clock, and through the nodes, gives the same decisions.

The nodes host the same machines, but everything that they hear and say is a message. Each event of a virtual run
with jitter and loss is turned into its message and back and told to fresh machines at the same times; what these
ask for, turned into messages and back as well, must be what the virtual run did.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from streaming_vla_interfaces import srv

sys.path.insert(0, str(Path(__file__).parents[1] / "machines"))

from runtime_cases import ACTS, LAYOUT, PLAYS
from world import OBSERVER, Straw, Timing, World, make_engine

from streaming_vla.engine.engine import Engine
from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.engine.values import ContextReport, Reply
from streaming_vla.machines.events import (
    Action,
    Command,
    Episode,
    ExecutionState,
    GeneratedAction,
    GenerateRequest,
    ObserveRequest,
    SaliencyQuestion,
    SaliencyReply,
    Snapshot,
)
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.machines.generator import Generator
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.machines.monitor import Monitor
from streaming_vla.machines.monitor_options import MonitorOptions
from streaming_vla.machines.observer import Observer
from streaming_vla.ros import messages

ROBOT = "/robot"
NOW = Time(sec=1)


def saliency_over_the_wire(reply: SaliencyReply) -> SaliencyReply:
    """Return what the monitor hears of the predictor's answer."""
    question = SaliencyQuestion(reply.episode, reply.context, reply.index, np.zeros(LAYOUT.size), "pictures")
    wire = srv.PredictSaliency.Response(accepted=reply.accepted, reason=reply.reason, saliency=reply.saliency)
    return messages.saliency_reply_from(question, wire)


WIRE: dict[type, Callable[[Any], Any]] = {
    Episode: lambda it: messages.episode_from(messages.episode_to(it, ROBOT, NOW)),
    ObserveRequest: lambda it: messages.request_from(messages.request_to(it, ROBOT, NOW)),
    Action: lambda it: messages.action_from(messages.action_to(it, ROBOT, NOW)),
    ExecutionState: lambda it: messages.execution_state_from(messages.execution_state_to(it, ROBOT, NOW)),
    GenerateRequest: lambda it: messages.generate_from(messages.generate_to(it, ROBOT, NOW)),
    GeneratedAction: lambda it: messages.generated_from(messages.generated_to(it, ROBOT, NOW)),
    SaliencyQuestion: lambda it: messages.saliency_question_from(messages.saliency_question_to(it, ROBOT)),
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
            numbers = (effect.context, effect.revision, effect.step, effect.until)
            return "generate", *numbers, *np.round(effect.position, 4)
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
    raise AssertionError(f"unknown effect {effect}")


SETUPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ours": ({}, {}),
    "ours_action_norm": ({"mode": "action_norm", "saliency_threshold": 0.3}, {}),
    "ours_adaptive": ({"mode": "adaptive", "saliency_of": "pictures"}, {}),
    "ours_from_picture": ({}, {"hand_over_start": "pending"}),
    "afm": ({"mode": "off"}, {"overrun": False}),
}


class RecordedEngine:
    """An engine that writes down what it is asked, when it is polled, and what it answers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.calls: list[tuple[str, tuple[Any, ...], Any]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._engine, name)
        if name not in ("observe", "generate", "predict_saliency", "poll"):
            return found

        def call(*arguments: Any) -> Any:
            answer = found(*arguments)
            self.calls.append((name, arguments, answer))
            return answer

        return call


def recorded(strategy: str, seed: int) -> tuple[World, dict[str, Any]]:
    """Return a virtual run, and fresh machines with the options of that run."""
    when, how = SETUPS[strategy]
    profile = find_profile("remote_wifi")
    period_s = profile.control_period_s
    monitor = MonitorOptions(**ACTS, control_period_s=period_s).changed(**when)
    executor = ExecutorOptions(**PLAYS, control_period_s=period_s)
    generator = GeneratorOptions(**ACTS, control_period_s=period_s).changed(**how)
    made = World(Timing(period_s, trained=16), monitor, generator, executor, profile=profile, seed=seed)
    asked = itertools.count()
    made.straw.saliency = lambda pending: 0.75 + 0.25 * (next(asked) // 2 % 3)
    made.engine = RecordedEngine(made.engine)  # type: ignore[assignment]
    made.trace = []
    made.start("open the drawer")
    made.run(6.0)
    assert made.halting().hand_overs > 10
    fresh = {
        "observer": Observer(OBSERVER),
        "monitor": Monitor(monitor),
        "generator": Generator(LAYOUT, generator),
        "executor": Executor(LAYOUT, executor),
    }
    fresh["executor"].on_robot_state(0.0)  # as the world senses once when it is made
    fresh["monitor"].start_episode(0.0, "open the drawer")
    return made, fresh


@pytest.mark.parametrize("strategy", SETUPS)
def test_the_wire_changes_no_decision(strategy: str) -> None:
    made, machines = recorded(strategy, seed=3)
    decisions = 0
    assert made.trace is not None
    for told in made.trace:
        arguments = tuple(over_the_wire(argument) for argument in told.arguments)
        effects = getattr(machines[told.machine], told.handler)(*arguments, told.now)
        assert [said(over_the_wire(effect)) for effect in effects] == [said(effect) for effect in told.effects], told
        decisions += len(effects)
    assert decisions > 300
    if strategy == "ours_adaptive":
        counted = machines["monitor"].counters
        assert min(counted["sent_salient"], counted["suppressed_calm"]) > 3, "the predictor decided, both ways"


@pytest.mark.parametrize("strategy", SETUPS)
def test_the_engine_answers_what_comes_over_the_wire_as_it_does_on_the_virtual_clock(strategy: str) -> None:
    """Requests as messages, at the same times, to a fresh engine: the same contexts and actions at the same times."""
    made, _ = recorded(strategy, seed=4)
    asked = itertools.count()
    straw = Straw(made.timing)
    straw.saliency = lambda pending: 0.75 + 0.25 * (next(asked) // 2 % 3)
    fresh = make_engine(straw, find_profile("remote_wifi"), seed=4)
    replies = 0
    for name, arguments, answered in made.engine.calls:  # type: ignore[attr-defined]
        answer = getattr(fresh, name)(*(over_the_wire(argument) for argument in arguments))
        if name == "poll":
            assert [served(reply) for reply in answer] == [served(reply) for reply in answered]
            replies += len(answer)
    assert replies > 150


def served(reply: Reply) -> tuple[object, ...]:
    """Return what counts of an answer of the engine."""
    value = reply.value
    match value:
        case ContextReport():
            return "context", reply.session, value.sequence, value.tokens, value.prefill_s
        case GeneratedAction():
            numbers = (value.context, value.revision, value.step, value.code)
            return "action", *numbers, *np.round(value.values, 4), value.compute_s
        case SaliencyReply():
            return "saliency", value.context, value.index, value.accepted, value.saliency
    return type(value).__name__, value.code
