"""A toy policy that implements the contract, does what the test tells it, and writes down what it did."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from kv_cache import CacheSpec, CacheView
from streaming_vla.engine.cache import EngineOptions
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.options import CacheOptions
from streaming_vla.engine.values import ContextReport, EncodedObservation, FlowResult, Refusal
from streaming_vla.machines.events import FlowRequest
from streaming_vla.policies.contract import PolicyObservation, PolicySpec, Prefilled
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
Result = TypeVar("Result")


@dataclass
class ToyPolicy:
    """Values of its tokens are the first number of the state; a flow step returns mean and newest of them, / 1000.

    Args:
        slices: of a prefill.
        slice_s: how long a slice takes, seconds.
        hook: called with the name of every piece of work before it is done; may raise or wait.
        saliency: what look_ahead returns; None: no predictor.
        log: (piece of work, mark of the robot), in order.
    """

    slices: int = 3
    slice_s: float = 0.0
    hook: Callable[[str], None] = lambda _name: None
    saliency: float | None = 0.5
    tokens: int = TOKENS
    log: list[tuple[str, float]] = field(default_factory=list)
    seen: list[PolicyObservation] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    spec: PolicySpec = SPEC

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Generator[None, None, Prefilled]:
        """Take `slices` slices."""
        self.seen.append(observation)
        mark = float(observation.state[0])
        try:
            for number in range(self.slices):
                self._do(f"slice {number}", mark)
                time.sleep(self.slice_s)
                if number + 1 < self.slices:
                    yield
        except GeneratorExit:
            self.log.append(("let go", mark))
            raise
        cache = self.spec.cache
        shape = (cache.layers, cache.kv_heads, self.tokens, cache.head_dim)
        seen = None if self.saliency is None else torch.full((1, 1), mark)
        return Prefilled(torch.ones(shape), torch.full(shape, mark), seen)

    def flow_step(self, view: CacheView, position: Vector, index: int) -> Vector:
        """Return what the view holds."""
        newest = float(view.values[0, 0, -1, 0])
        self._do(f"flow {index}", newest)
        return np.array([float(view.values.mean()) / 1000.0, newest / 1000.0])

    def look_ahead(self, seen: Tensor, pending: Vector) -> float:
        """Return the number that was set."""
        self._do("look ahead", float(seen))
        assert self.saliency is not None, "nothing was seen"
        return self.saliency

    def names(self) -> list[str]:
        """Return the pieces of work in order."""
        return [name for name, _ in self.log]

    def _do(self, name: str, mark: float) -> None:
        self.threads.add(threading.current_thread().name)
        self.log.append((name, mark))
        self.hook(name)


@dataclass
class PlanningToy(ToyPolicy):
    """A toy that says what it plans: to move on and to switch its gripper.

    Args:
        grip: planned values of its absolute dimension.
    """

    grip: list[float] = field(default_factory=lambda: [-1.0, -1.0, -1.0, 0.0, 0.5])

    def plan(self, view: CacheView) -> Vector:
        """Return its plan."""
        self._do("plan", float(view.values[0, 0, -1, 0]))
        return np.stack((np.arange(5.0), np.array(self.grip)), axis=1)


class Answer(Generic[Result]):
    """Waits for what `done` is called with; counts the calls."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.thread = ""
        self._came = threading.Event()

    def __call__(self, result: Result) -> None:
        """Take an answer."""
        self.results.append(result)
        self.thread = threading.current_thread().name
        self._came.set()

    def get(self) -> Result:
        """Wait for the one answer."""
        assert self._came.wait(WAIT_S), "no answer came"
        assert len(self.results) == 1
        return self.results[0]


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


def flow(context: int, index: int = 0, episode: int = 1) -> FlowRequest:
    """Return a flow request."""
    return FlowRequest(episode, context, index, np.zeros(2))


def observe(engine: Engine, seen: EncodedObservation) -> Answer[ContextReport | Refusal]:
    """Send an observation."""
    answer: Answer[ContextReport | Refusal] = Answer()
    engine.observe(seen, answer)
    return answer


def step(engine: Engine, request: FlowRequest, session: str = "/a") -> Answer[FlowResult]:
    """Send a flow request."""
    answer: Answer[FlowResult] = Answer()
    engine.flow_step(session, request, answer)
    return answer


def finish(engine: Engine) -> None:
    """Work on this thread until nothing is left."""
    while engine.work():
        pass


def report_of(answer: Answer[ContextReport | Refusal]) -> ContextReport:
    """Return the report, which must not be a refusal."""
    result = answer.get()
    assert isinstance(result, ContextReport), result
    return result


def refusal_of(answer: Answer[ContextReport | Refusal]) -> Refusal:
    """Return the refusal, which must be one sentence."""
    result = answer.get()
    assert isinstance(result, Refusal), result
    assert result.reason and "\n" not in result.reason
    return result
