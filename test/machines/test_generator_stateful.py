"""The generator under any order of contexts, replies, states and time."""

from __future__ import annotations

from typing import Literal

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from runtime_cases import ACTS, LAYOUT, state

from streaming_vla.machines.events import Action, ContextReady, Episode, FlowReply, FlowRequest, Mode
from streaming_vla.machines.generator import Generator, GeneratorEffect
from streaming_vla.machines.generator_options import GeneratorOptions

TIMEOUT_S = 0.2
HORIZON, TRAINED = 4, 6


class GeneratorMachine(RuleBasedStateMachine):
    """A model, an executor that begins actions in order, and a network that sends rubbish."""

    @initialize(lead=st.integers(1, 3), overrun=st.booleans(), chunk=st.booleans())
    def begin(self, lead: int, overrun: bool, chunk: bool) -> None:
        release: Literal["chunk", "stream"] = "chunk" if chunk else "stream"
        self.options = GeneratorOptions(
            **ACTS, release=release, overrun=overrun, lead_actions=lead, flow_step_timeout_s=TIMEOUT_S
        )
        self.generator = Generator(LAYOUT, self.options)
        self.now = 10.0
        self.number = 0
        self.next_episode()

    @rule()
    def next_episode(self) -> None:
        self.number += 1
        assert self.generator.on_episode(Episode(self.number, active=True), self.now) == []
        self.in_flight: FlowRequest | None = None
        self.asked_s = self.now
        self.newest = -1
        self.sent: list[Action] = []
        self.generated: list[Action] = []  # what the replies gave, sent or not
        self.begun = 0  # of self.sent
        self.contexts: set[int] = set()
        self.ended: set[int] = set()  # contexts of which nothing may follow

    def take(self, effects: list[GeneratorEffect]) -> None:
        """Check everything that the generator asks and sends."""
        actions = [effect for effect in effects if isinstance(effect, Action)]
        for effect in effects:
            if isinstance(effect, Action):
                self.check_action(effect)
                self.sent.append(effect)
            else:
                self.check_request(effect)
                self.in_flight = effect
                self.asked_s = self.now
        if self.options.release == "stream":
            assert len(self.sent) - self.begun <= self.options.lead_actions
        elif actions:
            assert [action.index for action in actions] == list(range(HORIZON))

    def check_action(self, action: Action) -> None:
        assert action.episode == self.number
        assert action.context in self.contexts
        assert action.context not in self.ended
        assert action.values.shape == (3,)
        assert np.isfinite(action.values).all()
        assert (np.abs(action.values) <= 1.0).all()
        assert action.more == (action.index + 1 < HORIZON)
        previous = self.sent[-1] if self.sent else None
        if action.index == 0:
            assert previous is None or action.context > previous.context
        else:
            assert previous is not None
            assert (action.context, action.index) == (previous.context, previous.index + 1)

    def check_request(self, request: FlowRequest) -> None:
        assert self.in_flight is None, "two flow steps in flight"
        assert request.episode == self.number
        overrun = self.options.overrun and self.options.release == "stream"
        assert request.index < (TRAINED if overrun else HORIZON)
        assert request.context not in self.ended
        if request.index == 0:
            grip = self.sent[-1].values[2] if self.sent else -1.0
            assert request.position.tolist() == [0.0, 0.0, grip]
            assert request.context == self.newest, "hand-over goes to the newest context"
        else:
            own = [action for action in self.generated if action.context == request.context]
            assert len(own) == request.index
            assert np.allclose(request.position[:2], sum(action.values[:2] for action in own))
            assert request.position[2] == own[-1].values[2]
            assert request.index < HORIZON or self.newest == request.context

    @rule(skip=st.integers(1, 3))
    def newer_context(self, skip: int) -> None:
        self.newest += skip
        self.contexts.add(self.newest)
        self.take(self.generator.on_context(ContextReady(self.number, self.newest, HORIZON, TRAINED), self.now))

    @rule(back=st.integers(0, 2), other=st.sampled_from([-1, 0, 1]))
    def context_that_does_not_count(self, back: int, other: int) -> None:
        sequence = self.newest + 5 if other else self.newest - back
        context = ContextReady(self.number + other, sequence, HORIZON, TRAINED)
        assert self.generator.on_context(context, self.now) == []

    @precondition(lambda self: self.in_flight is not None)
    @rule(values=st.tuples(*(3 * [st.floats(-3.0, 3.0)])))
    def model_answers(self, values: tuple[float, ...]) -> None:
        request = self.in_flight
        assert request is not None
        self.in_flight = None
        vector = np.clip(np.asarray(values), -1.0, 1.0)
        self.generated.append(Action(self.number, request.context, request.index, 0.0, vector, True))
        reply = FlowReply(self.number, request.context, request.index, True, np.asarray(values))
        self.take(self.generator.on_flow_reply(reply, self.now))

    @precondition(lambda self: self.in_flight is not None)
    @rule(kind=st.sampled_from(["refused", "nan", "shape"]))
    def model_fails(self, kind: str) -> None:
        request = self.in_flight
        assert request is not None
        self.in_flight = None
        self.ended.add(request.context)
        values = np.full(2 if kind == "shape" else 3, np.nan if kind == "nan" else 0.5)
        reply = FlowReply(self.number, request.context, request.index, kind != "refused", values)
        self.take(self.generator.on_flow_reply(reply, self.now))

    @rule(d_episode=st.integers(-1, 1), d_context=st.integers(-1, 1), d_index=st.integers(-1, 1))
    def reply_that_was_not_asked_for(self, d_episode: int, d_context: int, d_index: int) -> None:
        asked = self.in_flight or FlowRequest(self.number, self.newest, 0, np.zeros(3))
        if self.in_flight is not None and d_episode == d_context == d_index == 0:
            return
        reply = FlowReply(
            asked.episode + d_episode, asked.context + d_context, asked.index + d_index, True, np.full(3, 0.5)
        )
        assert self.generator.on_flow_reply(reply, self.now) == []

    @precondition(lambda self: self.begun < len(self.sent))
    @rule()
    def executor_begins_the_next(self) -> None:
        action = self.sent[self.begun]
        self.begun += 1
        depth = len(self.sent) - self.begun
        said = state(Mode.PLAYING, action.context, action.index, depth, self.begun, self.number)
        self.take(self.generator.on_execution_state(said, self.now))

    @rule(other=st.sampled_from([-1, 1]))
    def state_of_another_episode(self, other: int) -> None:
        said = state(Mode.PLAYING, 10**6, 0, 0, 1, self.number + other)
        assert self.generator.on_execution_state(said, self.now) == []

    @rule(dt=st.floats(0.0, 0.3))
    def time_passes(self, dt: float) -> None:
        end = self.now + dt
        while (due := self.generator.deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            assert self.in_flight is not None, "only a flow step is waited for: the executor plays"
            assert self.now >= self.asked_s + TIMEOUT_S
            self.ended.add(self.in_flight.context)
            self.in_flight = None
            self.take(self.generator.poll(self.now))
        self.now = end

    @invariant()
    def it_never_stands_still(self) -> None:
        """With a context that is not used up and room at the executor, a flow step is in flight."""
        if not hasattr(self, "generator") or self.newest in self.ended or self.newest < 0:
            return
        started = any(action.context == self.newest for action in self.generated)
        room = self.options.release == "chunk" or len(self.sent) - self.begun < self.options.lead_actions
        if not started and room:
            assert self.in_flight is not None


GeneratorMachine.TestCase.settings = settings(stateful_step_count=50)
TestGeneratorMachine = GeneratorMachine.TestCase
