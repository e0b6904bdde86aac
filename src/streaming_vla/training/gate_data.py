"""Demonstrations whose pictures have been encoded once: what a gate is trained on, spliced as the policy's own data."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from streaming_vla.policy.compact.model import CompactModel
from streaming_vla.training.dataset import Demonstrations, Drawn, Episode, check_demonstrations
from streaming_vla.training.gate_plan import GatePlan
from streaming_vla.training.losses import RECALL_CLASSES
from streaming_vla.training.plan import Source

NOTHING = RECALL_CLASSES  # class of a sequence that has shown nothing to remember
FRAMES_AT_ONCE = 32


@dataclass(frozen=True)
class EncodedBatch:
    """B sequences of T observations, as in Batch, with the tokens of the cameras instead of pictures.

    Args:
        cameras: [B, T, cameras * tokens_per_camera, width].
        recall: [B, T]; NOTHING in sequences without a cue.
        acts: [B, T] bool, observations whose actions are learned.
        present: [B, T] bool.
        cue: [B, T] bool, observations of the cue.
        tasks: [B], names.
    """

    cameras: Tensor
    state: Tensor
    words: Tensor
    actions: Tensor
    previous: Tensor
    recall: Tensor
    acts: Tensor
    present: Tensor
    cue: Tensor
    tasks: list[str]


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


class EncodedDemonstrations:
    """Sequences of encoded observations.

    Args:
        data: the episodes.
        model: its picture encoder is used and must not change any more.
        folder: tokens are kept here, for the next run with the same encoder.
        progress: called with the episodes done.
    """

    def __init__(
        self, data: Demonstrations, model: CompactModel, folder: Path, progress: Callable[[int], None]
    ) -> None:
        self._data = data
        digest = hashlib.sha256()
        for value in model.cameras.state_dict().values():
            digest.update(value.cpu().numpy().tobytes())
        here = folder / digest.hexdigest()[:16]
        here.mkdir(parents=True, exist_ok=True)
        self._tokens: dict[str, Tensor] = {}
        for number, episode in enumerate(data.episodes, 1):
            file = here / f"{episode.name}.safetensors"
            if not file.exists():
                partial = file.with_suffix(".partial")
                save_file({"tokens": _encode(episode, model)}, partial)
                partial.replace(file)
            self._tokens[episode.name] = load_file(file)["tokens"]
            progress(number)

    def sample(self, count: int, source: Source, random: np.random.Generator, without_cue: float = 0.0) -> EncodedBatch:
        """Draw `count` sequences of `source`; a share of those of a memory task without their cue."""
        rows = []
        for drawn in self._data.draw(count, source, random):
            blind = random.random() < without_cue and drawn.cue.any()
            rows.append(_without_cue(drawn) if blind else (drawn, drawn.present))

        def stacked(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(drawn, name) for drawn, _ in rows]))

        cameras = torch.stack(
            [torch.stack([self._tokens[episode.name][frame] for episode, frame in drawn.frames]) for drawn, _ in rows]
        )
        return EncodedBatch(
            cameras.float(),
            stacked("state"),
            stacked("words"),
            stacked("actions"),
            stacked("previous"),
            stacked("recall"),
            torch.from_numpy(np.stack([acts for _, acts in rows])),
            stacked("present"),
            stacked("cue"),
            [drawn.task for drawn, _ in rows],
        )


@torch.inference_mode()
def _encode(episode: Episode, model: CompactModel) -> Tensor:
    """Return the tokens of an episode's cameras in half precision, [F, cameras * tokens_per_camera, width]."""
    parts = []
    for begin in range(0, len(episode.step), FRAMES_AT_ONCE):
        frames = range(begin, min(begin + FRAMES_AT_ONCE, len(episode.step)))
        pictures = torch.from_numpy(np.stack([episode.pictures(frame) for frame in frames]))
        scaled = pictures.permute(0, 1, 4, 2, 3).float().div_(127.5).sub_(1.0)
        parts.append(torch.cat([encoder(scaled[:, place]) for place, encoder in enumerate(model.cameras)], dim=1))
    return torch.cat(parts).half()


def _without_cue(drawn: Drawn) -> tuple[Drawn, np.ndarray]:
    """Return a sequence that begins in its wait, and whose actions it can know: those of the wait."""
    first, last = int(drawn.cue.sum()), int(drawn.present.sum()) - 1
    numbers = first + np.arange(len(drawn.present))
    taken = numbers.clip(max=last)
    fields = {name: getattr(drawn, name)[taken] for name in ("state", "actions", "previous", "scene", "present", "cue")}
    present = numbers <= last
    waiting = np.array([bool(episode.waiting[frame]) for episode, frame in drawn.frames])[taken]
    shorter = replace(
        drawn,
        frames=[drawn.frames[place] for place in taken],
        **fields | {"present": present, "recall": np.full(len(taken), NOTHING, dtype=np.int64)},
    )
    return shorter, present & waiting
