"""The loop of a gate's training: steps, log, checkpoints. A run that was stopped goes on with the same draws."""

from __future__ import annotations

import json
import statistics
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW

from streaming_vla.training.checkpoint import load_checkpoint, save_checkpoint
from streaming_vla.training.run_folder import CHECKPOINT

REPORT_EVERY = 10
SAVE_EVERY = 50
LOG = "log.jsonl"

Progress = Callable[[int, int], None]  # steps done, of how many


class GateLoop(ABC):
    """One training run in a folder that was claimed; goes on where its checkpoint was written.

    Args:
        modules: what is trained and kept.
        average: a moving average that is kept beside them.
        rates: groups of parameters for AdamW.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        progress: Progress,
        modules: nn.ModuleDict,
        average: dict[str, Tensor],
        rates: list[dict[str, Any]],
    ) -> None:
        self._folder, self._steps, self._progress = folder, steps, progress
        self._modules, self._average = modules, average
        self._optimizer = AdamW(rates)
        self._parameters = [value for group in rates for value in group["params"]]
        self._checkpoint = folder / CHECKPOINT
        self.step = load_checkpoint(self._checkpoint, modules, average, self._optimizer, self._parameters)

    @abstractmethod
    def advance(self) -> dict[str, float]:
        """Take one step; return the parts of its loss. What is drawn follows from the seed and the step's number."""

    def train(self) -> None:
        """Train to the last step; figures go to log.jsonl."""
        found, began, reported = defaultdict[str, list[float]](list), time.monotonic(), self.step
        while self.step < self._steps:
            for name, value in self.advance().items():
                found[name].append(value)
            self._progress(self.step, self._steps)
            if self.step % REPORT_EVERY == 0 or self.step == self._steps:
                # a small source has not had a sequence of either kind in every step
                figures = {name: statistics.fmean(values) for name, values in found.items()}
                spent_s = (time.monotonic() - began) / (self.step - reported)
                self._log({"step": self.step, **figures, "seconds_per_step": spent_s})
                found, began, reported = defaultdict(list), time.monotonic(), self.step
            if self.step % SAVE_EVERY == 0 or self.step == self._steps:
                self.save()

    def save(self) -> None:
        """Write a checkpoint, which a new run in the folder goes on from."""
        save_checkpoint(self._checkpoint, self._modules, self._average, self._optimizer, self._parameters, self.step)

    def _log(self, figures: dict[str, Any]) -> None:
        with (self._folder / LOG).open("a") as log:
            log.write(json.dumps(figures) + "\n")
