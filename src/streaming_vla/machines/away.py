"""Which nodes are not there, as their supervisors tell, and how long a hold waits for them."""

from __future__ import annotations

from streaming_vla.machines.events import NodesAway
from streaming_vla.machines.executor_options import ExecutorOptions

SLOW = "inference"  # it loads a model
SUPERVISORS = 64  # that are remembered; a suite has one on each of its machines


class Away:
    """The nodes that are not there; every supervisor tells of its own."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, ...]] = {}

    def hear(self, told: NodesAway) -> bool:
        """Take what a supervisor tells in the place of what it told before.

        Returns:
            Whether a node is there again; one that came back before the supervisor was heard is not known by name.
        """
        before = self._told.get(told.supervisor)
        self._told[told.supervisor] = told.nodes
        while len(self._told) > SUPERVISORS:
            del self._told[next(iter(self._told))]
        return before is None or not set(before) <= set(told.nodes)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the nodes that are not there, in order."""
        return tuple(sorted({name for names in self._told.values() for name in names}))

    def hold_s(self, options: ExecutorOptions) -> float:
        """Return how long the robot is held for them, seconds; 0 when all are there."""
        limits = [options.inference_respawn_hold_s if name == SLOW else options.respawn_hold_s for name in self.names]
        return max(limits, default=0.0)
