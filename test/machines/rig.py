"""A generator, the executor's side of it, and a model that does what is granted when a test lets it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from runtime_cases import EPISODE, LAYOUT, context, state

from streaming_vla.machines.events import (
    Action,
    ContextReady,
    GeneratedAction,
    GenerateRequest,
    Mode,
    ObserveRequest,
    Reason,
)
from streaming_vla.machines.generator import Generator, GeneratorEffect
from streaming_vla.machines.generator_options import GeneratorOptions

VALUES = (0.1, 0.2, 0.3)
Values = Sequence[float] | Callable[[int], Sequence[float]]  # of an action, or by its step


@dataclass
class Granted:
    """What the model may do of a flow by now."""

    revision: int
    step: int
    until: int


class Rig:
    """Everything happens at `now`; effects are collected."""

    def __init__(self, options: GeneratorOptions, episode: bool = True) -> None:
        self.generator = Generator(LAYOUT, options)
        self.now = 0.0
        self.requests: list[GenerateRequest] = []
        self.actions: list[Action] = []
        self.model: dict[int, Granted] = {}
        self.begun = 0  # of the actions
        self.cumulative = LAYOUT.start()
        if episode:
            self.take(self.generator.on_episode(EPISODE, self.now))

    def take(self, effects: Sequence[GeneratorEffect]) -> Sequence[GeneratorEffect]:
        """Collect effects; the model hears of requests at once."""
        for effect in effects:
            if isinstance(effect, Action):
                self.actions.append(effect)
                continue
            self.requests.append(effect)
            flow = self.model.get(effect.context)
            if flow is None or effect.revision > flow.revision:
                self.model[effect.context] = Granted(effect.revision, effect.step, effect.until)
            elif effect.revision == flow.revision:
                flow.until = max(flow.until, effect.until)
        return effects

    def picture(self, sequence: int) -> Sequence[GeneratorEffect]:
        """The picture of an observation is taken."""
        return self.take(self.generator.on_request(ObserveRequest(7, sequence, Reason.EARLY), self.now))

    def context(self, ready: int | ContextReady) -> Sequence[GeneratorEffect]:
        """A context is ready."""
        made = context(ready) if isinstance(ready, int) else ready
        return self.take(self.generator.on_context(made, self.now))

    def owed(self, sequence: int) -> int:
        """Return how many granted steps of a context the model has not done."""
        flow = self.model.get(sequence)
        return 0 if flow is None else max(0, flow.until - flow.step)

    def next_action(self, sequence: int, values: Values = VALUES, work_s: float = 0.0) -> GeneratedAction:
        """Let the model do the next granted step; return its action, which has not arrived yet."""
        flow = self.model[sequence]
        assert flow.step < flow.until, "no step is granted"
        flow.step += 1
        vector = np.asarray(values(flow.step - 1) if callable(values) else values, dtype=np.float64)
        return GeneratedAction(
            self.generator._episode.number, sequence, flow.revision, flow.step - 1, True, vector, compute_s=work_s
        )

    def arrive(self, action: GeneratedAction) -> Sequence[GeneratorEffect]:
        """An action of the model arrives."""
        return self.take(self.generator.on_generated(action, self.now))

    def answer(self, sequence: int, values: Values = VALUES, work_s: float = 0.0) -> Sequence[GeneratorEffect]:
        """Let the model do the next granted step of a context; its action arrives."""
        return self.arrive(self.next_action(sequence, values, work_s))

    def refuse(self, sequence: int, **what: object) -> Sequence[GeneratorEffect]:
        """Let the model answer the next granted step badly."""
        return self.arrive(replace(self.next_action(sequence), **what))  # type: ignore[arg-type]

    def begin(self) -> Sequence[GeneratorEffect]:
        """The executor begins the next action."""
        action = self.actions[self.begun]
        self.begun += 1
        depth = len(self.actions) - self.begun
        self.cumulative = LAYOUT.advance(self.cumulative, action.values)
        return self.says(
            Mode.PLAYING,
            context=action.context,
            index=action.index,
            queue_depth=depth,
            executed=self.begun,
            episode=action.episode,
        )

    def says(self, mode: Mode = Mode.WAITING, **what: int) -> Sequence[GeneratorEffect]:
        """The executor says something."""
        said = state(mode, **what)
        if self.begun:
            said = replace(said, cumulative_action=self.cumulative)
        return self.take(self.generator.on_execution_state(said, self.now))

    def poll(self) -> Sequence[GeneratorEffect]:
        """The time has come."""
        return self.take(self.generator.poll(self.now))

    def answer_all(self, sequence: int, values: Values = VALUES) -> None:
        """Let the model do all that is granted of a context."""
        while self.owed(sequence):
            self.answer(sequence, values)

    def play(self, sequence: int, actions: int) -> None:
        """Let the model do steps of a context, and the executor begin each action at once."""
        for _ in range(actions):
            if self.owed(sequence):
                self.answer(sequence)
            self.begin()

    @property
    def request(self) -> GenerateRequest:
        """The newest request."""
        return self.requests[-1]

    def sent(self) -> list[tuple[int, int]]:
        """Return context and index of all actions."""
        return [(action.context, action.index) for action in self.actions]
