"""The published strategies, one small class each. H is the length of a chunk.

In all of them row `passed` of a chunk that arrives belongs to the next action that would be sent (see Arrival).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from baselines.events import Arrival, Chunk, Plan, Planned
from baselines.strategy import EULER_STEPS, Ahead, Shift, Strategy, check_choice, check_count, joined
from streaming_vla.policies.chunk import ChunkOptions
from streaming_vla.policies.layout import ActionLayout, Vector

Merge = Callable[[Vector, Vector], Vector]
# old and new action of one time step; the four of LeRobot's asynchronous client
MERGES: dict[str, Merge] = {
    "weighted_average": lambda old, new: 0.3 * old + 0.7 * new,
    "latest_only": lambda old, new: new,
    "average": lambda old, new: 0.5 * old + 0.5 * new,
    "conservative": lambda old, new: 0.7 * old + 0.3 * new,
}
FIRST_ROWS = ("elapsed", "zero")


class Synchronous(Strategy):
    """Observe when nothing is left, wait for the chunk, execute its first `execute` actions."""

    def __init__(self, execute: int, steps: int = EULER_STEPS) -> None:
        super().__init__(steps)
        check_count("execute", execute, 1)
        self._execute = execute

    def merge(self, arrival: Arrival) -> Plan:
        """Return the first actions of the chunk."""
        return joined((), arrival.new(0, self._execute))


class ChunkHandOver(Strategy):
    """Observe early; the old chunk goes on to its execution horizon, then the new one takes over.

    Args:
        execute: actions of a chunk that are meant to be executed.
        first: row with which the new chunk begins: "elapsed" presumes that the pending actions were what it would
            have done, "zero" that the world is still what its picture shows.
        overrun: the rest of the old chunk is played if the new one is late.
        early: actions left when to observe; 0: as many as the measured latency needs.
    """

    def __init__(
        self, execute: int, first: str, overrun: bool = True, early: int = 0, steps: int = EULER_STEPS
    ) -> None:
        super().__init__(steps)
        check_count("execute", execute, 1)
        check_choice("first", first, FIRST_ROWS)
        check_count("early", early, 0)
        self._execute, self._zero, self._overrun, self._early = execute, first == "zero", overrun, early
        self._begun: dict[int, int] = {}  # first row that was used, by context

    def begin(self) -> None:
        """Forget the episode before."""
        self._begun.clear()

    def early_actions(self, horizon: int) -> int:
        """Return what was asked for."""
        return self._early

    def within(self, planned: Planned) -> bool:
        """True up to the execution horizon."""
        return planned.index < self._begun.get(planned.context, 0) + self._execute

    def merge(self, arrival: Arrival) -> Plan:
        """Return the old chunk up to its execution horizon, then the new one."""
        kept = tuple(planned for planned in arrival.pending if self.within(planned))
        first = 0 if self._zero else arrival.passed + len(kept)
        last = len(arrival.chunk) if self._overrun else first + self._execute
        self._begun = {each.context: self._begun[each.context] for each in kept} | {arrival.context: first}
        return joined(kept, arrival.new(first, last), self._execute)


class FutureState(ChunkHandOver):
    """VLASH: the picture is of now, the robot that the model is told of is that after the pending actions.

    The chunk then begins where these actions end. The layout says which dimensions add up.
    """

    def __init__(self, layout: ActionLayout, execute: int, early: int = 0, steps: int = EULER_STEPS) -> None:
        super().__init__(execute, "zero", overrun=True, early=early, steps=steps)
        self._layout = layout

    def shift(self, ahead: Ahead) -> Shift | None:
        """Return the actions that come before the new chunk."""
        total = np.zeros(self._layout.size)
        for values in ahead.actions[: ahead.kept]:
            total = self._layout.advance(total, values)
        return Shift(ahead.kept, total) if ahead.kept else None


class AsyncQueue(Strategy):
    """LeRobot's asynchronous client (SmolVLA, arXiv 2506.01844): a queue by time step.

    An observation is sent when at most the share `threshold` of a chunk is queued. Of a chunk that arrives, rows of
    the past are discarded, rows that are queued already are merged, and the rest is appended.
    """

    def __init__(self, merge: str = "weighted_average", threshold: float = 0.5, steps: int = EULER_STEPS) -> None:
        super().__init__(steps)
        check_choice("merge", merge, tuple(MERGES))
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold is {threshold}, expected the share of a chunk from 0 to 1")
        self._merge, self._threshold = MERGES[merge], threshold

    def most_queued(self, horizon: int) -> int:
        """Return at how many queued actions at most to observe.

        Args:
            horizon: H, actions of a chunk.
        """
        return math.floor(self._threshold * horizon)

    def merge(self, arrival: Arrival) -> Plan:
        """Return the merged queue."""
        new = arrival.new(arrival.passed)
        merged = [
            Planned(each.context, each.index, self._merge(old.values, each.values))
            for old, each in zip(arrival.pending, new, strict=False)
        ]
        return joined((), (*merged, *new[len(merged) :]))


class RealTimeChunking(Strategy):
    """RTC (arXiv 2506.07339): the new chunk is denoised so that it goes on where the old one will be.

    The first `delay` actions are frozen, those that overlap are weighted less and less; see policies/rtc.py.

    Args:
        least: actions of a chunk that are executed before the next one is asked for, at least.
        beta: largest gain of the guidance.
        exact: with the true Jacobian, or the identity for it.
    """

    def __init__(self, least: int = 5, beta: float = 5.0, exact: bool = False, steps: int = 5) -> None:
        super().__init__(steps)
        check_count("least", least, 1)
        self._least, self._beta, self._exact = least, beta, exact

    def early_actions(self, horizon: int) -> int:
        """Return the rest of a chunk of which `least` actions are executed."""
        return max(1, horizon - self._least)

    @property
    def denoising(self) -> ChunkOptions:
        """With the guidance of its own parameters."""
        return ChunkOptions(self.steps, beta=self._beta, exact=self._exact)

    def planned(self, ahead: Ahead) -> Chunk | None:
        """Return the rest of the old chunk; None when nothing is left of it."""
        return ahead.actions if len(ahead.actions) else None

    def merge(self, arrival: Arrival) -> Plan:
        """Return the new chunk from the present on."""
        return joined((), arrival.new(arrival.passed))


class TemporalEnsembling(Strategy):
    """ACT (arXiv 2304.13705): observe before every action and average what all chunks say about it.

    The weight of the i-th oldest chunk is exp(-decay i).
    """

    def __init__(self, decay: float = 0.01, steps: int = EULER_STEPS) -> None:
        super().__init__(steps)
        self._decay = decay
        self._chunks: list[tuple[int, Chunk]] = []  # with the step of their first row, oldest first

    def begin(self) -> None:
        """Forget the episode before."""
        self._chunks.clear()

    def merge(self, arrival: Arrival) -> Plan:
        """Return the one action of now."""
        self._chunks.append((arrival.step - arrival.passed, arrival.chunk))
        self._chunks = [(first, chunk) for first, chunk in self._chunks if arrival.step < first + len(chunk)]
        said = np.array([chunk[arrival.step - first] for first, chunk in self._chunks])
        weight = np.exp(-self._decay * np.arange(len(said)))
        return joined((), (Planned(arrival.context, 0, weight @ said / weight.sum()),))
