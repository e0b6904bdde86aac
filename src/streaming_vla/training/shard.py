"""The name of a recorded episode's file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shard:
    """One episode that is wanted or there, and its file.

    Args:
        piloted: a policy is at the wheel at first.
    """

    folder: Path
    task: str
    seed: int
    piloted: bool = False

    @classmethod
    def of(cls, path: Path) -> Shard:
        """Read the name of a file."""
        task, piloted, seed = path.stem.rsplit("_", 2)
        return cls(path.parent, task, int(seed), piloted == "1")

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"{self.task}_{int(self.piloted)}_{self.seed:05d}.safetensors"
