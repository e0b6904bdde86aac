"""The interface of a strategy for chunks: when to observe, what to tell the model, and what to do with its answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from baselines.events import Arrival, Chunk, Plan, Planned
from streaming_vla.policies.chunk import ChunkOptions
from streaming_vla.policies.layout import Vector

EULER_STEPS = 10  # of a chunk's denoising, as in the timing model of StreamingVLA


@dataclass(frozen=True)
class Ahead:
    """What lies ahead when a picture is taken.

    Args:
        actions: [n, A], of the running action and all that are planned behind it, n may be 0.
        kept: how many of `actions` will be executed before the new chunk begins, if all goes as planned.
        delay: actions that are expected to be executed until the chunk arrives.
        horizon: H, actions of a chunk.
    """

    actions: Chunk
    kept: int
    delay: int
    horizon: int


class Shift(NamedTuple):
    """The actions between a picture and its chunk: how many, and their sum [A] (newest value where absolute)."""

    count: int
    actions: Vector


class Strategy(ABC):
    """One way to run chunks; it lives for one episode at a time (`begin`).

    Args:
        steps: Euler steps of the denoising.
    """

    def __init__(self, steps: int = EULER_STEPS) -> None:
        check_count("steps", steps, 1)
        self.steps = steps

    def begin(self) -> None:  # noqa: B027 (most strategies remember nothing)
        """An episode begins: forget the one before."""

    def early_actions(self, horizon: int) -> int | None:
        """Return with how many actions left to observe; 0: as many as the measured latency needs; None: never early.

        Args:
            horizon: H, actions of a chunk.
        """
        return None

    def within(self, planned: Planned) -> bool:
        """Tell whether an action that waits is to be executed before the next chunk begins."""
        return False

    @property
    def denoising(self) -> ChunkOptions:
        """How a chunk is denoised; the seed is up to the episode."""
        return ChunkOptions(self.steps)

    def planned(self, ahead: Ahead) -> Chunk | None:
        """Return the actions, [n, A], that the new chunk is pulled towards; None: it is not."""
        return None

    def shift(self, ahead: Ahead) -> Shift | None:
        """Return after which actions the chunk is going to begin; None: with the picture."""
        return None

    @abstractmethod
    def merge(self, arrival: Arrival) -> Plan:
        """Return what is sent from now on."""


def joined(kept: tuple[Planned, ...], new: tuple[Planned, ...], horizon: int | None = None) -> Plan:
    """Return the plan that executes `kept` and then `new`, of which the first `horizon` (default: all) are meant."""
    return Plan(kept + new, len(new) if horizon is None else min(horizon, len(new)))


def check_count(name: str, value: int, least: int) -> None:
    """Check a whole number.

    Raises:
        ValueError: below `least`.
    """
    if value < least:
        raise ValueError(f"{name} is {value}: give a whole number of at least {least}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Check a word.

    Raises:
        ValueError: not one of `choices`.
    """
    if value not in choices:
        raise ValueError(f"{name} is '{value}': choose one of {', '.join(choices)}")
