"""The timeline in the generator's documentation is what generator, executor and engine do together."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from runtime_cases import ACTS, EPISODE, LAYOUT, PLAYS

from kv_cache import CacheSpec, CacheView
from streaming_vla.engine.cache import EngineOptions
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.latency_profile import LatencyProfile, Spread
from streaming_vla.engine.options import CacheOptions
from streaming_vla.engine.pace import ProfilePace
from streaming_vla.engine.values import ContextReport, EncodedObservation
from streaming_vla.machines import generator
from streaming_vla.machines.events import (
    Action,
    Command,
    CommandKind,
    ContextReady,
    ExecutionState,
    GeneratedAction,
    GenerateRequest,
    ObserveRequest,
    Reason,
)
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.machines.generator import Generator, GeneratorEffect
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, PolicySpec, Prefilled, Slices
from streaming_vla.policies.layout import Vector

T, S, OBSERVE = 1.0, 0.3, 2.2
PROFILE = LatencyProfile("test", "a test", 1000 * T, Spread(2200, 2200), Spread(300, 300), Spread(0, 0))
SPEC = PolicySpec("straw", ("camera",), 8, 1, LAYOUT, 12, 16, 1, CacheSpec(1, 1, 2))
JPEG = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
OBSERVED_AT = 5  # action of a context at whose begin the next picture is taken


class Straw:
    """Moves on in every step."""

    spec = SPEC

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Remember nothing."""
        yield None
        return Prefilled(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))

    def flow_step(self, query: FlowQuery) -> Vector:
        """Return the step."""
        return np.array([query.index / 20, 0.0, -1.0])

    def look_ahead(self, seen: object, pending: Vector) -> float:
        """Never asked."""
        raise AssertionError


class Line:
    """Generator, executor and engine on one clock, without a way between them; writes down what happens."""

    def __init__(self, trained_delay: int = 4) -> None:
        options = GeneratorOptions(**ACTS, control_period_s=T, trained_delay=trained_delay, generate_timeout_s=9.0)
        self.generator = Generator(LAYOUT, options)
        self.executor = Executor(
            LAYOUT, ExecutorOptions(**PLAYS, control_period_s=T, robot_timeout_s=60.0, max_action_age_s=9.0)
        )
        self.engine = Engine(
            Straw(), EngineOptions(CacheOptions(cache_recent=4, cache_capacity=4), 1), ProfilePace(PROFILE), lambda: 0.0
        )
        self.now = 0.0
        self.written: list[tuple[float, str, str]] = []  # time, what the executor begins, what the generator does
        self.plays: list[tuple[int, int]] = []
        self.observed = -1
        self.carry(self.generator.on_episode(EPISODE, 0.0))
        self.obey(self.executor.on_episode(EPISODE, 0.0))
        self.obey(self.executor.on_robot_state(0.0))
        self.observe()

    def carry(self, effects: list[GeneratorEffect]) -> str:
        """Hand over what the generator says; return it in words."""
        words = []
        for effect in effects:
            if isinstance(effect, Action):
                words.append(f"sends {effect.context}.{round(effect.flow_time * 16)}")
                self.obey(self.executor.on_action(effect, self.now))
            else:
                words.append(f"grants {steps(effect)}")
                self.engine.generate("/", effect, self.now)
        return ", ".join(words)

    def obey(self, effects: list[Command | ExecutionState]) -> None:
        """Take what the executor says: a command to play, and then its state."""
        begins = False
        for effect in effects:
            if isinstance(effect, Command):
                begins = effect.kind is CommandKind.PLAY
                continue
            words = self.carry(self.generator.on_execution_state(effect, self.now))
            if begins:
                begins = False
                self.plays.append((effect.context, effect.index))
                self.write(f"{effect.context}.{effect.index}", words)
                if self.plays[-1] == (self.observed, OBSERVED_AT):
                    self.observe()

    def observe(self) -> None:
        """A picture is taken."""
        self.observed += 1
        request = ObserveRequest(7, self.observed, Reason.EARLY)
        words = self.carry(self.generator.on_request(request, self.now))
        self.write("-", f"picture {self.observed} is taken: {words}")
        seen = EncodedObservation("/", 7, self.observed, "go", (JPEG,), np.zeros(1, np.float32))
        self.engine.observe(seen, self.now)

    def write(self, begins: str, words: str) -> None:
        """Write down what happens."""
        if words or begins != "-":
            self.written.append((self.now, begins, words))

    def run(self, end_s: float) -> None:
        """Let time pass."""
        while True:
            due_s = [self.engine.deadline(), self.generator.deadline(), self.executor.deadline()]
            next_s = max(self.now, min(float("inf") if each is None else each for each in due_s))
            if next_s > end_s:
                return
            self.now = next_s
            self.obey(self.executor.on_robot_state(self.now))
            self.obey(self.executor.poll(self.now))
            self.carry(self.generator.poll(self.now))
            for reply in self.engine.poll(self.now):
                if isinstance(reply.value, GeneratedAction):
                    words = self.carry(self.generator.on_generated(reply.value, self.now))
                    action = f"{reply.value.context}.{reply.value.step}"
                    sent = "it is sent" if words == f"sends {action}" else words
                    self.write("-", f"{action} comes" + (f": {sent}" if sent else ""))
                elif isinstance(reply.value, ContextReport):
                    ready = ContextReady(7, reply.value.sequence, 12, 16)
                    self.write("-", f"context {reply.value.sequence} comes")
                    words = self.carry(self.generator.on_context(ready, self.now))
                    assert not words


def steps(request: GenerateRequest) -> str:
    """Return the steps that are granted."""
    first, last = request.step, request.until - 1
    return f"{request.context}.{first}" + (f" to {request.context}.{last}" if last > first else "")


def table(line: Line, begin_s: float, end_s: float) -> list[str]:
    """Return what happened in the words of the documentation, times counted in T from `begin_s` on."""
    rows = [("time", "executor begins", "generator")]
    for at_s, begins, words in line.written:
        if begin_s - 1e-9 <= at_s < end_s:
            rows.append((f"{at_s - begin_s:.1f} T", begins, words or "-"))
    return [f"    {time:<9}{begins:<18}{words}".rstrip() for time, begins, words in rows]


def test_the_documented_timeline_is_what_happens() -> None:
    line = Line()
    line.run(60.0)
    begin_s = next(at_s for at_s, begins, _ in line.written if begins == "4.5")
    documented = [row for row in (generator.__doc__ or "").splitlines() if row.startswith("    ")]
    assert documented == table(line, begin_s, begin_s + 7.0)


@pytest.mark.parametrize("trained_delay", [4, 3, 2])
def test_a_context_that_the_policy_has_not_learned_to_begin_so_late_skips_actions(trained_delay: int) -> None:
    line = Line(trained_delay)
    line.run(60.0)
    first = f"5.{4 - trained_delay}"
    sent = [words for _, _, words in line.written if "sends 5." in words or ("sent" in words and words[:2] == "5.")]
    assert sent[0] in (f"sends {first}", f"{first} comes: it is sent")
    assert line.generator.counters["flow_begun_again"] == 0


def test_nothing_is_late_and_nothing_is_dropped_that_was_worked_for() -> None:
    line = Line()
    line.run(200.0)
    assert line.executor.state(line.now).starved_s == 0.0
    contexts = [context for context, _ in line.plays]
    assert len(line.plays) > 190 and len(set(contexts)) > 18
    assert set(line.generator.counters.as_dict()) <= {"action_superseded"}
    assert line.engine.counts()["served.generate"] <= len(line.plays) + 4 + len(set(contexts))
