"""What the suite (or another robot) did while the bag was recorded, read from its own messages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streaming_vla.machines.events import ExecutionState, Mode, Reason
from streaming_vla.policies.layout import Vector
from streaming_vla.workbench.replay.world import digest
from streaming_vla.workbench.report.records import RequestAt, StateAt

LIVE_TOPICS = ("episode", "observe_request", "observation", "context", "action", "execution_state", "kv_cache_stats")


@dataclass
class LiveEpisode:
    """One episode as it was recorded; times are seconds since its begin.

    Args:
        requests: observations that were asked for.
        observed: digest of each observation, by sequence.
        prefilled: observations that became a context.
        actions: values by (context, index), in the order in which they were sent.
        states: of the executor.
        commands: what the robot was told.
        kv_bytes: of the cache after each prefill.
    """

    requests: list[RequestAt] = field(default_factory=list)
    observed: dict[int, str] = field(default_factory=dict)
    prefilled: set[int] = field(default_factory=set)
    actions: dict[tuple[int, int], Vector] = field(default_factory=dict)
    states: list[StateAt] = field(default_factory=list)
    commands: list[tuple[float, Vector]] = field(default_factory=list)
    kv_bytes: list[tuple[float, int]] = field(default_factory=list)

    def take(self, topic: str, message: Any, time_s: float) -> None:
        """Take a message of the bag; those that nothing is read from are left out."""
        if topic == "observe_request":
            self.requests.append(RequestAt(time_s, message.sequence, Reason(message.reason)))
        elif topic == "observation":
            self.observed[message.sequence] = digest((bytes(each.data) for each in message.images), message.state)
        elif topic == "context":
            self.prefilled.add(message.sequence)
        elif topic == "action":
            self.actions[message.context, message.index] = np.array(message.values, dtype=np.float64)
        elif topic == "execution_state":
            self.states.append(StateAt(time_s, _execution_state(message)))
        elif topic == "kv_cache_stats":
            self.kv_bytes.append((time_s, int(message.bytes)))

    @property
    def whole(self) -> bool:
        """True when the recording was there at the begin of the episode, whose first sequence is 0."""
        return min({*(at.sequence for at in self.requests), *self.observed, *self.prefilled}, default=0) == 0

    def played(self) -> list[tuple[float, Vector]]:
        """Return what the robot was told, by the time at which each action began."""
        found = []
        newest = (-1, -1)
        for at in self.states:
            key = (at.state.context, at.state.index)
            if at.state.dry_run:  # somebody else told the robot
                continue
            if at.state.mode is Mode.PLAYING and key != newest and key in self.actions:
                found.append((at.time_s, self.actions[key]))
                newest = key
        return found or self.commands


def _execution_state(message: Any) -> ExecutionState:
    return ExecutionState(
        message.episode, Mode(message.mode), message.context, message.index, message.queue_depth, message.executed,
        np.array(message.cumulative_action, dtype=np.float64), message.held, message.starved, message.held_s,
        message.starved_s, message.hand_overs, message.rejected, instruction=message.instruction,
        dry_run=getattr(message, "dry_run", False),  # which older suites did not know
    )  # fmt: skip
