"""A chunk policy that another machine computes: its thread speaks to the server, the engine's never waits for it."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from kv_cache.cache import CacheView
from streaming_vla.policies.call_thread import CallThread
from streaming_vla.policies.contract import (
    PlannedActions,
    PolicyObservation,
    PolicySpec,
    PolicyTimeout,
    PolicyUnavailable,
    Prefilled,
    Slices,
)
from streaming_vla.policies.guide import Guide, Matrix


@dataclass(frozen=True, eq=False)
class Question:
    """What a server is asked.

    Args:
        images: [cameras, S, S, 3], RGB.
        state: [state_size].
        instruction: plain text.
        episode: number that is drawn anew with each episode of each robot.
        begins: nothing of the episode has been answered yet.
        planned: what is known of the actions that will be executed before the chunk takes over.
    """

    images: npt.NDArray[np.uint8]
    state: npt.NDArray[np.float32]
    instruction: str
    episode: int
    begins: bool
    planned: PlannedActions | None = None


class Answer(NamedTuple):
    """A chunk [H, A] in action units, and what the server says about its time, in milliseconds."""

    rows: Matrix
    timing: dict[str, float]


class Server(Protocol):
    """A server behind its wire. Called on one thread."""

    @property
    def address(self) -> str:
        """For people."""

    def ask(self, question: Question, deadline_s: float) -> Answer:
        """Return the chunk of an observation.

        Args:
            deadline_s: time.monotonic() by which it has to be there.

        Raises:
            PolicyUnavailable: it has not come in time, or the server cannot be reached or used.
        """


class RemotePolicy:
    """A server behind the contract of a chunk policy; several robots ask it one after the other.

    Its token in the cache carries the number of the episode, which a server that keeps a history is told. Of an episode
    that is over nothing comes back: its request is not begun, or its answer is dropped.

    Args:
        server: that computes it.
        spec: what it is fed and what it gives; `cache` and `tokens_per_observation` stay as they are.
        timeout_s: an answer that is not there so long after its observation was begun is given up, seconds; of several
            robots each waits for the answers to the others too.

    Raises:
        ValueError: the timeout is not above 0.
    """

    def __init__(self, server: Server, spec: PolicySpec, timeout_s: float) -> None:
        if not 0.0 < timeout_s < float("inf"):
            raise ValueError(f"model_timeout_s is {timeout_s}, expected seconds above 0")
        self.spec = spec
        self._server, self._timeout_s = server, timeout_s
        self._thread = CallThread(f"policy {spec.name}")
        self._episodes = itertools.count(1)
        self._counts = dict.fromkeys(("server_answered", "server_failed", "server_dropped"), 0)
        self._times: dict[str, float] = {}  # of the newest answer

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Ask the server, and leave its chunk.

        Raises:
            PolicyUnavailable: see Server.ask.
        """
        begins = view.tokens == 0
        episode = next(self._episodes) if begins else round(float(view.values[0, 0, -1, 0]))
        question = Question(
            observation.images, observation.state, observation.instruction, episode, begins, observation.planned()
        )
        deadline_s = time.monotonic() + self._timeout_s
        late = PolicyTimeout(
            f"{self._server.address} has not answered within {self._timeout_s:g} s: see whether it works, or raise "
            "model_timeout_s"
        )
        answer = self._thread.call(lambda: self._ask(question, deadline_s), self._timeout_s, late)
        try:
            yield answer
        finally:
            self._counts["server_dropped"] += answer.cancel()
        cache = self.spec.cache
        token = torch.full((cache.layers, cache.kv_heads, 1, cache.head_dim), float(episode), dtype=cache.dtype)
        return Prefilled(torch.zeros_like(token), token, context=answer.result())

    def denoise(
        self, view: CacheView, context: Any, steps: int, guide: Guide | None, random: np.random.Generator
    ) -> Slices[Matrix]:
        """Return the chunk that the server gave: what it may be guided by went with the question."""
        yield from ()
        rows: Matrix = context
        return rows

    def figures(self) -> dict[str, object]:
        """Return where the server is, how often it answered, and how long the newest answer took."""
        times = {name: round(value, 2) for name, value in self._times.items()}
        return {"server": self._server.address, **self._counts, **times}

    def _ask(self, question: Question, deadline_s: float) -> Matrix:
        begin_s = time.monotonic()
        try:
            answer = self._server.ask(question, deadline_s)
        except PolicyUnavailable:
            self._counts["server_failed"] += 1
            raise
        self._counts["server_answered"] += 1
        round_trip_ms = 1000.0 * (time.monotonic() - begin_s)
        self._times = {"server_round_trip_ms": round_trip_ms} | {
            f"server_{name}": value for name, value in answer.timing.items()
        }
        return answer.rows
