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

    def sentence(self, variant: int = 0) -> str:
        """Return an instruction: variants from 0 are trained on, those behind them are held out.

        Raises:
            ValueError: no such variant.
        """
        sentences = (*self.instructions, *self.held_out)
        if not 0 <= variant < len(sentences):
            raise ValueError(f"task '{self.name}' has no instruction {variant}: choose 0 to {len(sentences) - 1}")
        return sentences[variant]
