"""The generator under any order of pictures, contexts, actions, states and time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from runtime_cases import LAYOUT, state

from streaming_vla.machines.events import (
    Action,
    ContextReady,
    Episode,
    GeneratedAction,
    GenerateRequest,
    Mode,
    ObserveRequest,
    Reason,
)
from streaming_vla.machines.generator import LOST_AFTER_S, Generator, GeneratorEffect, GeneratorOptions

TIMEOUT_S = 0.2
HORIZON, TRAINED = 4, 9
JUMP = 0.4


@dataclass
class Model:
    """The flow of one context as the service follows it."""

    revision: int
    step: int
    until: int
    position: np.ndarray


class GeneratorMachine(RuleBasedStateMachine):
    """A model, an executor that begins actions in order, and a network that sends rubbish, late or never."""

    @initialize(
        lead=st.integers(1, 3),
        overrun=st.booleans(),
        release=st.sampled_from(["stream", "stream", "stream", "chunk"]),
        start=st.sampled_from(["rezero", "rezero", "episode", "pending"]),
        delay=st.integers(0, 3),
        jump=st.sampled_from([0.0, JUMP]),
        rows=st.booleans(),
    )
    def begin(self, lead: int, overrun: bool, release: str, start: str, delay: int, jump: float, rows: bool) -> None:
        self.options = GeneratorOptions(
            release, overrun, lead, TIMEOUT_S, hand_over_start=start, trained_delay=delay, hand_over_jump=jump
        )
        self.generator = Generator(LAYOUT, self.options)
        self.rows = rows  # the policy gives chunks
        self.now = 10.0
        self.number = 0
        self.on_the_way: list[GeneratedAction] = []
        self.next_episode()

    @rule()
    def next_episode(self) -> None:
        self.number += 1
        assert self.generator.on_episode(Episode(self.number, active=True), self.now) == []
        self.model: dict[int, Model] = {}
        self.newest = -1
        self.asked = -1  # newest picture
        self.revisions: set[int] = set()
        self.known: dict[int, ContextReady] = {}
        self.sent: list[Action] = []
        self.begun = 0  # of self.sent
        self.cumulative = LAYOUT.start()
        self.first_step: dict[int, int] = {}  # of each context that was played

    def take(self, effects: list[GeneratorEffect]) -> None:
        """Check everything that the generator asks and sends."""
        for effect in effects:
            if isinstance(effect, Action):
                self.check_action(effect)
                self.sent.append(effect)
            else:
                self.check_request(effect)
        if self.options.release == "stream":
            assert len(self.sent) - self.begun <= self.options.lead_actions

    def check_action(self, action: Action) -> None:
        assert action.episode == self.number
        assert action.context in self.known, "only a context that was reported is played"
        assert action.values.shape == (3,) and np.isfinite(action.values).all()
        assert (np.abs(action.values) <= 1.0).all()
        assert action.more == (action.index + 1 < HORIZON)
        previous = self.sent[-1] if self.sent else None
        step = round(action.flow_time * TRAINED)
        if action.index == 0:
            assert previous is None or action.context > previous.context
            self.first_step[action.context] = step
            assert 0 <= step < TRAINED
        else:
            assert previous is not None
            assert (action.context, action.index) == (previous.context, previous.index + 1), "indices have no gaps"
            assert step == self.first_step[action.context] + action.index
        overrun = self.options.overrun and self.options.release == "stream"
        assert action.index < HORIZON or overrun
        if self.options.hand_over_jump and previous is not None and action.index == 0:
            assert (np.abs(action.values - previous.values)[:2] <= JUMP + 1e-9).all()

    def check_request(self, request: GenerateRequest) -> None:
        assert request.episode == self.number
        assert 0 <= request.step < request.until <= TRAINED, "it grants something, within the horizon"
        assert np.isfinite(request.position).all()
        assert request.context <= self.asked or request.context in self.known
        held = self.model.get(request.context)
        if held is None or request.revision != held.revision:
            assert request.revision not in self.revisions, "every beginning has a revision of its own"
            assert held is None or request.revision > held.revision
            self.revisions.add(request.revision)
            self.model[request.context] = Model(request.revision, request.step, request.until, request.position)
            return
        assert request.until > held.until, "the same revision grants more"
        assert request.step <= held.step
        held.until = request.until

    @rule(skip=st.integers(1, 2))
    def picture(self, skip: int) -> None:
        self.asked = max(self.asked, self.newest) + skip
        self.take(self.generator.on_request(ObserveRequest(self.number, self.asked, Reason.EARLY), self.now))

    @precondition(lambda self: self.asked > self.newest)
    @rule(back=st.integers(0, 3))
    def context_of_a_picture(self, back: int) -> None:
        self.context(max(self.newest + 1, self.asked - back))

    @rule(skip=st.integers(1, 3))
    def context_of_a_picture_that_nobody_told_of(self, skip: int) -> None:
        self.context(self.newest + skip)

    def context(self, sequence: int) -> None:
        self.newest = sequence
        self.known[sequence] = ContextReady(self.number, sequence, HORIZON, TRAINED, chunk=self.rows)
        self.take(self.generator.on_context(self.known[sequence], self.now))

    @rule(back=st.integers(0, 2), other=st.sampled_from([-1, 0, 1]))
    def context_that_does_not_count(self, back: int, other: int) -> None:
        sequence = self.newest + 5 if other else self.newest - back
        context = ContextReady(self.number + other, sequence, HORIZON, TRAINED)
        assert self.generator.on_context(context, self.now) == []

    def owed(self, to_come: bool = False) -> list[int]:
        """Return the contexts of which the model has something to do, the newest first."""
        exists = [number for number in self.model if to_come or number in self.known]
        return sorted((n for n in exists if self.model[n].step < self.model[n].until), reverse=True)

    @precondition(lambda self: self.owed())
    @rule(values=st.tuples(*(3 * [st.floats(-1.5, 1.5)])), oldest=st.booleans())
    def model_works(self, values: tuple[float, float, float], oldest: bool) -> None:
        """The newest context goes first, but on its way an action may be overtaken by one of another context."""
        number = self.owed()[-1 if oldest else 0]
        flow, vector = self.model[number], np.asarray(values)
        self.on_the_way.append(GeneratedAction(self.number, number, flow.revision, flow.step, True, vector))
        flow.position = LAYOUT.advance(flow.position, vector)
        flow.step += 1

    @precondition(lambda self: self.on_the_way)
    @rule()
    def action_arrives(self) -> None:
        self.take(self.generator.on_generated(self.on_the_way.pop(0), self.now))

    @precondition(lambda self: self.on_the_way)
    @rule(kind=st.sampled_from(["refused", "nan", "shape", "lost"]))
    def action_arrives_badly(self, kind: str) -> None:
        action = self.on_the_way.pop(0)
        if kind == "lost":
            return
        values = np.full(2 if kind == "shape" else 3, np.nan if kind == "nan" else 0.5)
        bad = replace(action, accepted=kind != "refused", values=values)
        self.take(self.generator.on_generated(bad, self.now))

    @precondition(lambda self: self.owed(to_come=True))
    @rule()
    def model_refuses(self) -> None:
        number = self.owed(to_come=True)[0]
        flow = self.model[number]
        flow.step = flow.until
        refusal = GeneratedAction(self.number, number, flow.revision, flow.step - 1, False, np.zeros(0), "no_context")
        self.take(self.generator.on_generated(refusal, self.now))

    @rule(episode=st.integers(-1, 1), context=st.integers(-1, 1), revision=st.integers(1, 3))
    def action_that_was_not_asked_for(self, episode: int, context: int, revision: int) -> None:
        action = GeneratedAction(
            self.number + episode,
            self.newest + context,
            max(self.revisions, default=0) + revision,
            0,
            True,
            np.full(3, 0.5),
        )
        assert self.generator.on_generated(action, self.now) == []

    @precondition(lambda self: self.begun < len(self.sent))
    @rule()
    def executor_begins_the_next(self) -> None:
        action = self.sent[self.begun]
        self.begun += 1
        self.cumulative = LAYOUT.advance(self.cumulative, action.values)
        depth = len(self.sent) - self.begun
        said = state(Mode.PLAYING, action.context, action.index, depth, self.begun, self.number)
        self.take(self.generator.on_execution_state(replace(said, cumulative_action=self.cumulative.copy()), self.now))

    @rule(other=st.sampled_from([-1, 1]))
    def state_of_another_episode(self, other: int) -> None:
        said = state(Mode.PLAYING, 10**6, 0, 0, 1, self.number + other)
        assert self.generator.on_execution_state(said, self.now) == []

    @rule(dt=st.floats(0.0, 0.3))
    def time_passes(self, dt: float) -> None:
        end = self.now + dt
        polls = 0
        while (due := self.generator.deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.take(self.generator.poll(self.now))
            polls += 1
            assert polls < 50, "what is due is done: nothing is due for ever"
        self.now = end

    @invariant()
    def no_action_is_sent_twice(self) -> None:
        if hasattr(self, "sent"):
            numbers = [(action.context, action.index) for action in self.sent]
            assert len(set(numbers)) == len(numbers)

    @invariant()
    def what_is_owed_has_a_deadline(self) -> None:
        """Of a context that exists nothing is waited for without an end."""
        if not hasattr(self, "generator"):
            return
        due = self.generator.deadline()
        waits = any(flow.granted and flow.context is not None for flow in self.generator._flows._all())
        assert due is not None if waits else due is None or bool(self.generator.hand_over.outstanding)
        assert due is None or due <= self.now + max(TIMEOUT_S, LOST_AFTER_S) + 1e-9

    @invariant()
    def it_never_stands_still(self) -> None:
        """With room at the executor and a newest context that was not played, its first action is owed or there."""
        if not hasattr(self, "generator") or self.newest < 0:
            return
        if self.options.release != "stream" or len(self.sent) - self.begun >= self.options.lead_actions:
            return
        candidate = self.generator._flows.candidate(self.newest)
        if candidate is not None:
            assert candidate.granted or candidate.came

    def teardown(self) -> None:
        """Whatever has happened: with a model that answers, the next context is played to its end."""
        if not hasattr(self, "generator") or self.options.release != "stream":
            return
        self.on_the_way.clear()
        self.picture(1)
        self.context(self.asked)
        actions = 0
        for _ in range(60):
            if self.asked in self.owed():
                flow = self.model[self.asked]
                action = GeneratedAction(
                    self.number, self.asked, flow.revision, flow.step, True, np.array([0.1, 0.1, self.gripper()])
                )
                flow.step += 1
                self.take(self.generator.on_generated(action, self.now))
            if self.begun < len(self.sent):
                self.executor_begins_the_next()
        actions = sum(action.context == self.asked for action in self.sent)
        assert actions >= (HORIZON if not self.rows else 1)
        assert not self.owed() or self.owed()[0] != self.asked, "it ends with its horizon"

    def gripper(self) -> float:
        """Return where the gripper is, so that no flow begins anew for it."""
        return float(self.sent[-1].values[2]) if self.sent else -1.0


GeneratorMachine.TestCase.settings = settings(stateful_step_count=60)
TestGeneratorMachine = GeneratorMachine.TestCase
