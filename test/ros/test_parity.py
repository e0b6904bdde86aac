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

from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.engine.values import ContextReport, Refusal, Reply
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
        case GeneratedAction():
            numbers = (effect.context, effect.revision, effect.step, effect.code)
            return "generated", *numbers, *np.round(effect.values, 4), round(effect.compute_s, 4)
        case ContextReport():
            return "context", effect.sequence, effect.tokens, effect.execution_horizon, effect.prefill_s
        case SaliencyReply():
            return "saliency", effect.context, effect.index, effect.accepted, round(effect.saliency, 4)
        case Refusal():
            return "refused", effect.sequence, effect.code
        case Reply():
            return effect.session, *said(effect.value)
    raise AssertionError(f"unknown effect {effect}")


SETUPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ours": ({}, {}),
    "ours_action_norm": ({"mode": "action_norm", "saliency_threshold": 0.3}, {}),
    "ours_adaptive": ({"mode": "adaptive", "saliency_of": "pictures"}, {}),
    "ours_from_picture": ({}, {"hand_over_start": "pending"}),
    "afm": ({"mode": "off"}, {"overrun": False}),
}


def recorded(strategy: str, seed: int) -> tuple[World, dict[str, Any]]:
    """Return a virtual run, and fresh machines with the options of that run."""
    when, how = SETUPS[strategy]
    profile = find_profile("remote_wifi")
    period_s = profile.control_period_s
    monitor = MonitorOptions(**ACTS, control_period_s=period_s).changed(**when)
    executor = ExecutorOptions(**PLAYS, control_period_s=period_s)
    generator = GeneratorOptions(**ACTS, control_period_s=period_s).changed(**how)
    made = World(Timing(period_s, trained=16), monitor, generator, executor, profile=profile, seed=seed)
    made.straw.saliency = wavering()
    made.trace = []
    made.start("open the drawer")
    made.run(6.0)
    assert made.halting().hand_overs > 10
    straw = Straw(made.timing)
    straw.saliency = wavering()
    fresh = {
        "engine": make_engine(straw, profile, seed),
        "observer": Observer(OBSERVER),
        "monitor": Monitor(monitor),
        "generator": Generator(LAYOUT, generator),
        "executor": Executor(LAYOUT, executor),
    }
    fresh["executor"].on_robot_state(0.0)  # as the world senses once when it is made
    fresh["monitor"].start_episode(0.0, "open the drawer")
    return made, fresh


def wavering() -> Callable[[Any], float]:
    """Return a look-ahead that says calm and salient by turns."""
    asked = itertools.count()
    return lambda pending: 0.75 + 0.25 * (next(asked) // 2 % 3)


@pytest.mark.parametrize("strategy", SETUPS)
def test_the_wire_changes_no_decision(strategy: str) -> None:
    """The engine's too: it is told what comes over the wire, and polled when it was."""
    made, machines = recorded(strategy, seed=3)
    decisions = {"engine": 0, "others": 0}
    assert made.trace is not None
    for told in made.trace:
        arguments = [over_the_wire(argument) for argument in told.arguments]
        at_once = told.machine == "engine" and told.handler != "poll"  # it has been given the time already
        effects = getattr(machines[told.machine], told.handler)(*arguments, *([] if at_once else [told.now])) or ()
        assert [said(over_the_wire(effect)) for effect in effects] == [said(effect) for effect in told.effects], told
        decisions["engine" if told.machine == "engine" else "others"] += len(effects)
    assert decisions["others"] > 300 and decisions["engine"] > 150
    if strategy == "ours_adaptive":
        counted = machines["monitor"].counters
        assert min(counted["sent_salient"], counted["suppressed_calm"]) > 3, "the predictor decided, both ways"
