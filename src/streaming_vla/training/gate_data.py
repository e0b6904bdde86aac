"""What a gate is trained on: the policy's demonstrations, spliced as for its own training, some without their cue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from streaming_vla.training.dataset import ANSWERS, Demonstrations, check_demonstrations, check_sources
from streaming_vla.training.gate_plan import GatePlan
from streaming_vla.training.plan import Source
from streaming_vla.training.shard import Shard

NOTHING = ANSWERS  # class of a sequence that has shown nothing to remember


@dataclass(frozen=True)
class GateBatch:
    """B sequences of T observations.

    Args:
        given: tensors by the names of Batch; recall is NOTHING in sequences without a cue.
        taught: [B, T] bool, observations whose actions are learned.
        cue: [B, T] bool, observations of the cue.
        tasks: [B], names.
    """

    given: dict[str, Tensor]
    taught: Tensor
    cue: Tensor
    tasks: list[str]

    @property
    def present(self) -> Tensor:
        """[B, T] bool, False past the episode's end."""
        return self.given["present"]

    @property
    def recall(self) -> Tensor:
        """[B, T], what is to be remembered."""
        return self.given["recall"]


def split_episodes(folder: Path, plan: GatePlan) -> tuple[list[Path], list[Path]]:
    """Return the episodes of the plan's tasks to learn from and those for validation.

    Raises:
        FileNotFoundError: the folder holds no demonstrations.
        ValueError: there are none of a task to learn from, or of a memory task for validation.
    """
    every = plan.validation.every
    wanted = {task for source in plan.sources for task in source.tasks}
    parts: tuple[list[Path], list[Path]] = ([], [])
    for file in check_demonstrations(folder):
        shard = Shard.of(file)
        if shard.task in wanted:
            parts[shard.seed % every == every - 1].append(file)
    check_sources(parts[0], plan.sources)
    check_sources(parts[1], [source for source in plan.sources if source.memory], "for validation")
    return parts


class GateDemonstrations(Demonstrations):
    """Demonstrations of which some sequences begin after their cue."""

    def draw(self, count: int, source: Source, random: np.random.Generator, without_cue: float = 0.0) -> GateBatch:
        """Draw `count` sequences of `source`; a share of those of a memory task without their cue."""
        batch = self.sample(count, source, random)
        given = {name: torch.from_numpy(array) for name, array in vars(batch).items()}
        waiting = given["waiting"]
        cue = (waiting.cumsum(dim=1) == 0) & waiting.any(dim=1, keepdim=True)
        blind = torch.from_numpy(random.random(count) < without_cue) & cue.any(dim=1)
        given = _cut_off(given, torch.where(blind, cue.sum(dim=1), 0))
        given["recall"][blind] = NOTHING
        # what to choose cannot be known without a cue
        taught = _acting(given["present"], source.acted, random) & (given["waiting"] | ~blind.unsqueeze(1))
        tasks = [self.tasks[number] for number in batch.task]
        return GateBatch(given, taught, cue & ~blind.unsqueeze(1), tasks)


def _acting(present: Tensor, acted: int | None, random: np.random.Generator) -> Tensor:
    """Return which of the observations [B, T] that are there act, see Source.acted."""
    if acted is None:
        return present
    left = present.sum(dim=1, keepdim=True) - 1 - torch.arange(present.shape[1])  # observations that follow
    order = torch.from_numpy(random.random(tuple(present.shape)))
    order = order.masked_fill(left < acted // 2, -1.0).masked_fill(~present, 1.0)
    return present & (order.argsort(dim=1).argsort(dim=1) < acted)


def _cut_off(given: dict[str, Tensor], first: Tensor) -> dict[str, Tensor]:
    """Return sequences that begin at observation `first` [B]; what is missing at their ends repeats the last one."""
    present = given["present"]
    numbers = first.unsqueeze(1) + torch.arange(present.shape[1])
    last = present.sum(dim=1, keepdim=True) - 1
    rows, places = torch.arange(len(first)).unsqueeze(1), numbers.minimum(last)
    of_sequences = {"words", "task"}
    moved = {name: value if name in of_sequences else value[rows, places] for name, value in given.items()}
    return moved | {"present": numbers <= last}
