"""A node around one state machine that lives while the node is active."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from streaming_vla.ros.base import OptionsT, SuiteNode


class Machine(Protocol):
    """What the state machines of `machines/` have in common; times are seconds of the node's `now`."""

    def update(self, options: Any) -> None:
        """Take new options at once."""

    def deadline(self) -> float | None:
        """Return when `poll` must be called next, or None."""

    def poll(self, now: float) -> list[Any]:
        """Do what is due and return the effects."""


M = TypeVar("M", bound=Machine)


class MachineNode(SuiteNode[OptionsT], Generic[OptionsT, M]):
    """Makes the machine on activation, hands it what is heard and what is due, and executes its effects.

    What is heard and asked reaches a node only while it is active (`listen`, `serve`), so its callbacks always find a
    machine.
    """

    machine: M

    @abstractmethod
    def make(self) -> M:
        """Return a new machine."""

    @abstractmethod
    def execute(self, effects: list[Any]) -> None:
        """Do what the machine wants."""

    def dispatch(self, method: Callable[..., list[Any]], *arguments: Any) -> None:
        """Call `method` of the machine with `arguments` and the time, and execute its effects."""
        self.execute(method(self.machine, *arguments, self.now()))

    def activate(self) -> None:
        """Begin with a new machine."""
        self.machine = self.make()

    def update(self, options: OptionsT) -> None:
        """Take new options at once."""
        if self.active:
            self.machine.update(options)

    def deadline(self) -> float | None:
        """When the machine has something to do."""
        return self.machine.deadline() if self.active else None

    def tick(self) -> None:
        """Let the machine do what is due."""
        self.dispatch(type(self.machine).poll)
