"""What a task is: a name, the environment that it runs in and the sentences that mean it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One task and the sentences that mean it.

    Args:
        name: short, as in `task: reach`.
        instructions: the policy learns from these; the first is the default.
        held_out: further wordings that no training sees.
        scene: the Meta-World task whose scene it uses; empty: its own.
    """

    name: str
    instructions: tuple[str, ...]
    held_out: tuple[str, ...]
    scene: str = ""

    @property
    def environment(self) -> str:
        """Name of the Meta-World environment."""
        return f"{self.scene or self.name}-v3"
