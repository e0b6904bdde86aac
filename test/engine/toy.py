"""A toy policy that does what the test tells it, and an engine that is driven step by step on the test's own clock."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from kv_cache import CacheSpec, CacheView
from streaming_vla.engine.cache import EngineOptions
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.options import CacheOptions
from streaming_vla.engine.values import ContextReport, EncodedObservation, Refusal, Reply, ResetResult
from streaming_vla.machines.events import GeneratedAction, GenerateRequest, SaliencyQuestion, SaliencyReply
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, PolicySpec, Prefilled, Slices
from streaming_vla.policies.layout import ActionLayout, Vector

LAYOUT = ActionLayout(("dx", "grip"), (False, True), (-1.0, -1.0), (1.0, 1.0), (0.0, 0.0))
TOKENS = 4
SIZE = 32
SPEC = PolicySpec(
    name="toy",
    cameras=("front", "wrist"),
    image_size=SIZE,
    state_size=3,
    layout=LAYOUT,
    execution_horizon=3,
    trained_horizon=5,
    tokens_per_observation=TOKENS,
    cache=CacheSpec(layers=2, kv_heads=1, head_dim=4),
)
WAIT_S = 20.0  # so long that only a hang reaches it
REVISIONS = itertools.count(1)


@dataclass
class ToyPolicy:
    """Values of its tokens are the first number of the state; a flow step returns mean and newest of them, / 1000.

    Args:
        slices: of a prefill.
        slice_s: how long a slice takes, seconds.
        hook: called with the name of every piece of work before it is done; may raise or wait.
        saliency: what look_ahead returns; None: no predictor.
        tokens: that a prefill makes.
        log: (piece of work, mark of the robot), in order.
        queries: every flow step that was asked for.
    """

    slices: int = 3
    slice_s: float = 0.0
    hook: Callable[[str], None] = lambda _name: None
    saliency: float | None = 0.5
    tokens: int = TOKENS
    log: list[tuple[str, float]] = field(default_factory=list)
    seen: list[PolicyObservation] = field(default_factory=list)
    queries: list[FlowQuery] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    spec: PolicySpec = SPEC

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Take `slices` slices."""
        self.seen.append(observation)
        mark = float(observation.state[0])
        try:
            for number in range(self.slices):
                self.do(f"slice {number}", mark)
                time.sleep(self.slice_s)
                if number + 1 < self.slices:
                    yield None
        except GeneratorExit:
            self.log.append(("let go", mark))
            raise
        cache = self.spec.cache
        shape = (cache.layers, cache.kv_heads, self.tokens, cache.head_dim)
        seen = None if self.saliency is None else torch.full((1, 1), mark)
        return Prefilled(torch.ones(shape), torch.full(shape, mark), seen)

    def flow_step(self, query: FlowQuery) -> Vector:
        """Return what the view holds."""
        self.queries.append(query)
        newest = float(query.view.values[0, 0, -1, 0])
        self.do(f"flow {query.index}", newest)
        return np.array([float(query.view.values.mean()) / 1000.0, newest / 1000.0])

    def look_ahead(self, seen: Tensor, pending: Vector) -> float:
        """Return the number that was set."""
        self.do("look ahead", float(seen))
        assert self.saliency is not None, "nothing was seen"
        return self.saliency

    def names(self) -> list[str]:
        """Return the pieces of work in order."""
        return [name for name, _ in self.log]

    def do(self, name: str, mark: float) -> None:
        """Write down a piece of work."""
        self.threads.add(threading.current_thread().name)
        self.log.append((name, mark))
        self.hook(name)


@dataclass
class DoubtingToy(ToyPolicy):
    """A toy that says how much it would gain by a look."""

    doubts: bool = True
    said: float = 0.25
    doubted: list[FlowQuery] = field(default_factory=list)

    def doubt(self, query: FlowQuery) -> float:
        """Return the number that was set."""
        self.doubted.append(query)
        return self.said


@dataclass
class PlanningToy(ToyPolicy):
    """A toy that says what it plans: to move on and to switch its gripper.

    Args:
        grip: planned values of its absolute dimension.
    """

    grip: list[float] = field(default_factory=lambda: [-1.0, -1.0, -1.0, 0.0, 0.5])

    def plan(self, view: CacheView, context: Any) -> Vector:
        """Return its plan."""
        self.do("plan", float(view.values[0, 0, -1, 0]))
        return np.stack((np.arange(5.0), np.array(self.grip)), axis=1)


@dataclass
class Served:
    """An engine, and what it has answered; `now` is the test's own clock."""

    engine: Engine
    now: float = 0.0
    replies: list[Reply] = field(default_factory=list)

    def observe(self, seen: EncodedObservation) -> None:
        """Send an observation."""
        self.engine.observe(seen, self.now)

    def ask(self, request: GenerateRequest, session: str = "/a") -> GenerateRequest:
        """Send a request to generate; return it."""
        self.engine.generate(session, request, self.now)
        return request

    def poll(self) -> list[Reply]:
        """Poll once; return what came."""
        came = self.engine.poll(self.now)
        self.replies += came
        return came

    def finish(self) -> None:
        """Poll until nothing is due."""
        while self.engine.deadline() <= self.now:
            self.poll()

    def wait_for(self, done: Callable[[], bool]) -> None:
        """Poll until something has happened that a thread of the policy does."""
        end_s = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < end_s, self.replies
            self.finish()
            time.sleep(0.001)

    def until(self, end_s: float) -> None:
        """Let time pass and poll when something is due."""
        while (due_s := max(self.now, self.engine.deadline())) <= end_s:
            self.now = due_s
            self.poll()
        self.now = end_s

    def prefilled(self, sequence: int, **which: Any) -> ContextReport:
        """Prefill an observation at once; return the report."""
        self.observe(observation(sequence, **which))
        self.finish()
        return self.report(sequence, which.get("session", "/a"))

    def refused(self, sequence: int, **which: Any) -> Refusal:
        """Offer an observation that is refused at once; return the refusal."""
        self.observe(observation(sequence, **which))
        self.finish()
        return self.refusal(sequence, which.get("session", "/a"))

    def stepped(self, request: GenerateRequest, session: str = "/a") -> GeneratedAction:
        """Have one action of a context; return the answer."""
        self.ask(request, session)
        self.finish()
        return self.answer(request, session)

    def report(self, sequence: int, session: str = "/a") -> ContextReport:
        """Return the newest report of an observation, which must not be a refusal."""
        found = self._outcomes(session, sequence)[-1]
        assert isinstance(found, ContextReport), found
        return found

    def refusal(self, sequence: int, session: str = "/a") -> Refusal:
        """Return the newest refusal of an observation, which must be one sentence."""
        found = self._outcomes(session, sequence)[-1]
        assert isinstance(found, Refusal), found
        assert found.reason and "\n" not in found.reason
        return found

    def answer(self, request: GenerateRequest, session: str = "/a") -> GeneratedAction:
        """Return the one answer to the step that a request begins with."""
        numbers = (request.context, request.revision, request.step)
        [found] = [a for a in self.actions(session) if (a.context, a.revision, a.step) == numbers]
        assert found.accepted or (found.reason and "\n" not in found.reason)
        return found

    def actions(self, session: str = "/a") -> list[GeneratedAction]:
        """Return what was generated for a robot, refusals included."""
        return [r.value for r in self.replies if r.session == session and isinstance(r.value, GeneratedAction)]

    def steps(self, session: str = "/a") -> list[tuple[int, int]]:
        """Return context and step of every action that a robot has got."""
        return [(action.context, action.step) for action in self.actions(session) if action.accepted]

    def result(self, number: int) -> SaliencyReply | ResetResult:
        """Return the one answer to a numbered request."""
        [found] = [reply.value for reply in self.replies if reply.request == number]
        assert isinstance(found, SaliencyReply | ResetResult)
        return found

    def _outcomes(self, session: str, sequence: int) -> list[ContextReport | Refusal]:
        return [
            reply.value
            for reply in self.replies
            if reply.session == session
            and isinstance(reply.value, ContextReport | Refusal)
            and reply.value.sequence == sequence
        ]


def served(policy: Any, contexts: int = 0, **changes: Any) -> Served:
    """Return a driven engine whose session /a has so many contexts, all with mark 1."""
    made = Served(Engine(policy, options(**changes)))
    for sequence in range(contexts):
        made.prefilled(sequence)
    if hasattr(policy, "log"):
        policy.log.clear()
    return made


def options(max_sessions: int = 2, contexts_kept: int = 3, **cache: object) -> EngineOptions:
    """Return small options."""
    small = CacheOptions(cache_recent=12, cache_capacity=12).changed(**cache)
    return EngineOptions(small, max_sessions, contexts_kept=contexts_kept)


def jpeg(level: int = 100, size: int = SIZE) -> bytes:
    """Return the JPEG of a grey picture."""
    done, data = cv2.imencode(".jpg", np.full((size, size, 3), level, np.uint8))
    assert done
    return data.tobytes()


def observation(sequence: int, session: str = "/a", episode: int = 1, mark: float = 1.0) -> EncodedObservation:
    """Return an observation whose robot is known by `mark`."""
    state = np.array([mark, 0.0, 0.0], np.float32)
    return EncodedObservation(session, episode, sequence, "open", (jpeg(), jpeg(200)), state)


def flow(
    context: int,
    step: int = 0,
    steps: int = 1,
    episode: int = 1,
    revision: int | None = None,
    position: Sequence[float] = (0.0, 0.0),
) -> GenerateRequest:
    """Return a request for steps of a flow that begins anew, or goes on when the revision says so."""
    number = next(REVISIONS) if revision is None else revision
    return GenerateRequest(episode, context, number, step, np.array(position), step + steps)


def question(context: int, index: int = 0, of: str = "pictures", pending: Sequence[float] = (0.0, 0.0)) -> Any:
    """Return a question for a saliency."""
    return SaliencyQuestion(1, context, index, np.array(pending), of)
