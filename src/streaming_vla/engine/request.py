"""Jobs of one slice: requests that are answered at once, and notices; and what all jobs share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from streaming_vla.engine.refused import Refused, describe
from streaming_vla.engine.replies import Replies
from streaming_vla.engine.sessions import Sessions
from streaming_vla.engine.waiting import Waiting
from streaming_vla.engine.worker import Priority
from streaming_vla.machines.latency import LatencyTracker
from streaming_vla.policies.contract import StreamingPolicy

LOGGER = logging.getLogger(__name__)
CLOSED = Refused("closed", "the engine was closed before it came to this request")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Shared:
    """What all jobs of an engine work with; `clock` gives seconds."""

    policy: StreamingPolicy
    sessions: Sessions
    waiting: Waiting
    replies: Replies
    flow_latency: LatencyTracker
    clock: Callable[[], float]


class Notice:
    """Tells on the worker's thread what was decided on another one."""

    priority = Priority.NOTICE

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell

    def run(self) -> bool:
        """Tell."""
        self._tell()
        return False

    def cancel(self) -> None:
        """Tell all the same: it costs nothing."""
        self._tell()


@dataclass(frozen=True)
class Request(Generic[Result]):
    """A request that one slice answers.

    Args:
        session: name, for the bound on waiting requests.
        serve: does the work; gets the seconds that the request has waited.
        refuse_with: makes the answer out of a refusal and the seconds waited.
        done: gets the answer.
        since_s: when the request came, seconds.
    """

    shared: Shared
    priority: Priority
    session: str
    serve: Callable[[float], Result]
    refuse_with: Callable[[Refused, float], Result]
    done: Callable[[Result], None]
    since_s: float

    @property
    def kind(self) -> str:
        """What codes and sentences call it."""
        return self.priority.name.lower()

    def run(self) -> bool:
        """Answer."""
        shared = self.shared
        shared.waiting.leave(self.session, self.priority)
        try:
            with torch.inference_mode():
                result = self.serve(shared.clock() - self.since_s)
        except Refused as refused:
            self.refuse(refused)
        except Exception as error:
            LOGGER.exception("policy %s failed", shared.policy.spec.name)
            self.refuse(Refused("policy_failed", describe(f"policy {shared.policy.spec.name} in {self.kind}", error)))
        else:
            shared.replies.send(f"served.{self.kind}", self.done, result)
        return False

    def refuse(self, refused: Refused) -> None:
        """Answer that the request is refused."""
        waited_s = self.shared.clock() - self.since_s
        self.shared.replies.send(refused.code, self.done, self.refuse_with(refused, waited_s))

    def cancel(self) -> None:
        """The engine is closed."""
        self.shared.waiting.leave(self.session, self.priority)
        self.refuse(CLOSED)
