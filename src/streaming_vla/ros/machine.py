"""A node around one state machine that lives while the node is active."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from streaming_vla.parameters.spec import Value
from streaming_vla.ros.base import SuiteNode


class Machine(Protocol):
    """What the state machines of `runtime/` have in common; times are monotonic seconds."""

    def update(self, options: Any) -> None:
        """Take new options at once."""

    def deadline(self) -> float | None:
        """Return when `poll` must be called next, or None."""

    def poll(self, now: float) -> list[Any]:
        """Do what is due and return the effects."""


M = TypeVar("M", bound=Machine)


class MachineNode(SuiteNode, Generic[M]):
    """Makes the machine on activation, hands it what is heard and what is due, and carries its effects out."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.machine: M | None = None

    @abstractmethod
    def make(self) -> M:
        """Return a new machine."""

    @abstractmethod
    def options(self, values: Mapping[str, Any]) -> Any:
        """Return the machine's options from the node's parameters.

        Raises:
            ValueError: an option out of range.
        """

    @abstractmethod
    def carry_out(self, effects: list[Any]) -> None:
        """Do what the machine wants."""

    def feed(self, method: Callable[..., list[Any]], *arguments: Any) -> None:
        """Call `method` of the machine with `arguments` and the time, and carry its effects out; not while inactive."""
        if self.machine is not None:
            self.carry_out(method(self.machine, *arguments, time.monotonic()))

    def feeding(self, method: Callable[..., list[Any]]) -> Callable[[Any], None]:
        """Return a handler for `listen` that feeds the machine by `method`."""
        return lambda value: self.feed(method, value)

    def activate(self) -> None:
        """Begin with a new machine."""
        self.machine = self.make()

    def deactivate(self) -> None:
        """Forget the machine."""
        self.machine = None

    def update(self, values: Mapping[str, Value]) -> None:
        """Take new options at once."""
        options = self.options(values)
        if self.machine is not None:
            self.machine.update(options)

    def deadline(self) -> float | None:
        """When the machine has something to do."""
        return self.machine.deadline() if self.machine is not None else None

    def tick(self) -> None:
        """Let the machine do what is due."""
        if self.machine is not None:
            self.carry_out(self.machine.poll(time.monotonic()))
