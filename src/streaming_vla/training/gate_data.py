"""Demonstrations whose pictures have been encoded once: what a gate is trained on, spliced as the policy's own data."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from streaming_vla.policy.compact.model import CompactModel
from streaming_vla.training.dataset import ANSWERS, Demonstrations, check_demonstrations
from streaming_vla.training.gate_plan import GatePlan
from streaming_vla.training.plan import Source
from streaming_vla.training.sequences import Episode

NOTHING = ANSWERS  # class of a sequence that has shown nothing to remember
FRAMES_AT_ONCE = 32


@dataclass(frozen=True)
class EncodedBatch:
    """B sequences of T observations.

    Args:
        given: tensors by the names of Batch; pictures are the tokens of the cameras [B, T, N, width], recall is NOTHING
            in sequences without a cue.
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
        FileNotFoundError: there are none of either; the message names the command that makes them.
    """
    wanted: dict[str, int] = {}
    for source in plan.sources:
        wanted |= {task: max(source.episodes, wanted.get(task, 0)) for task in source.tasks}
    every = plan.validation.every
    parts: tuple[list[Path], list[Path]] = ([], [])
    counts: dict[tuple[str, bool], int] = {}
    for file in check_demonstrations(folder):
        task, _, seed = file.stem.rsplit("_", 2)
        held_out = int(seed) % every == every - 1
        most = wanted.get(task, 0)
        if held_out:
            most = math.ceil(most / (every - 1))
        if counts.get((task, held_out), 0) < most:
            counts[task, held_out] = counts.get((task, held_out), 0) + 1
            parts[held_out].append(file)
    if not all(parts):
        raise FileNotFoundError(
            f"no demonstrations of {', '.join(sorted(wanted))} in '{folder}': record them with 'streaming-vla train "
            "demos' and a plan that has these tasks"
        )
    return parts


class EncodedDemonstrations(Demonstrations):
    """Demonstrations whose pictures are the tokens that a policy's own encoder makes of them.

    Args:
        files: the episodes.
        model: its picture encoder is used and must not change any more.
        folder: tokens are kept here, for the next run with the same encoder.
        progress: called with the episodes done, of how many.
    """

    def __init__(
        self, files: Sequence[Path], model: CompactModel, folder: Path, progress: Callable[[int, int], None]
    ) -> None:
        super().__init__(folder, model.config, files)
        digest = hashlib.sha256()
        for value in model.cameras.state_dict().values():
            digest.update(value.cpu().numpy().tobytes())
        here = folder / digest.hexdigest()[:16]
        here.mkdir(parents=True, exist_ok=True)
        self._tokens: dict[str, npt.NDArray[np.float16]] = {}
        for number, episode in enumerate(self.episodes, 1):
            file = here / f"{episode.name}.safetensors"
            if not file.exists():
                partial = file.with_suffix(".partial")
                pictures = [super(EncodedDemonstrations, self).look(episode, at) for at in range(len(episode.step))]
                save_file({"tokens": _encode(pictures, model)}, partial)
                partial.replace(file)
            self._tokens[episode.name] = load_file(file)["tokens"].numpy()
            progress(number, len(self.episodes))

    def look(self, episode: Episode, frame: int) -> npt.NDArray[np.float16]:
        """Return the tokens of the cameras, [cameras * tokens_per_camera, width]."""
        tokens: npt.NDArray[np.float16] = self._tokens[episode.name][frame]
        return tokens

    def encoded(
        self, count: int, source: Source, random: np.random.Generator, without_cue: float = 0.0
    ) -> EncodedBatch:
        """Draw `count` sequences of `source`; a share of those of a memory task without their cue."""
        batch = self.sample(count, source, random)
        given = {name: torch.from_numpy(array) for name, array in vars(batch).items()}
        given["pictures"] = given["pictures"].float()
        waiting = given["waiting"]
        cue = (waiting.cumsum(dim=1) == 0) & waiting.any(dim=1, keepdim=True)
        blind = torch.from_numpy(random.random(count) < without_cue) & cue.any(dim=1)
        given = _cut_off(given, torch.where(blind, cue.sum(dim=1), 0))
        given["recall"][blind] = NOTHING
        # what to choose cannot be known without a cue
        taught = _acting(given["present"], source.acted, random) & (given["waiting"] | ~blind.unsqueeze(1))
        tasks = [self.tasks[number] for number in batch.task]
        return EncodedBatch(given, taught, cue & ~blind.unsqueeze(1), tasks)


@torch.inference_mode()
def _encode(pictures: Sequence[npt.NDArray[np.uint8]], model: CompactModel) -> Tensor:
    """Return the tokens of an episode's cameras in half precision, [F, cameras * tokens_per_camera, width]."""
    parts = []
    for begin in range(0, len(pictures), FRAMES_AT_ONCE):
        some = np.stack(pictures[begin : begin + FRAMES_AT_ONCE])
        scaled = torch.from_numpy(some).permute(0, 1, 4, 2, 3).float().div_(127.5).sub_(1.0)
        parts.append(torch.cat([encoder(scaled[:, place]) for place, encoder in enumerate(model.cameras)], dim=1))
    return torch.cat(parts).half()


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
