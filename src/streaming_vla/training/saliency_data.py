"""What a look-ahead predictor learns from: the base camera's tokens of every frame, and the actions between frames."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor

from streaming_vla.policies.compact.policy import CompactPolicy
from streaming_vla.sim.frames import decode_frame
from streaming_vla.training.dataset import check_demonstrations
from streaming_vla.training.shard import Shard

ENCODED_AT_ONCE = 64  # frames


@dataclass(frozen=True)
class Followed:
    """One episode: tokens [F, T, features] float16 of its frames, their steps [F], and what was executed [steps, A]."""

    tokens: Tensor
    step: npt.NDArray[np.int64]
    executed: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pairs:
    """N pairs of frames: tokens [N, T, features], actions [N, A] executed between them, later [N, T, features]."""

    tokens: Tensor
    actions: Tensor
    later: Tensor

    @property
    def change(self) -> Tensor:
        """What is to be predicted, [N, T, features]."""
        return self.later - self.tokens


def chosen_files(folder: Path, per_task: int) -> list[Path]:
    """Return up to `per_task` episodes of every task, in the order of their names.

    Raises:
        FileNotFoundError: there is none; the message names the command that makes them.
    """
    by_task: dict[str, list[Path]] = {}
    for file in check_demonstrations(folder):
        by_task.setdefault(Shard.of(file).task, []).append(file)
    return [file for files in by_task.values() for file in files[:per_task]]


def is_held_out(file: Path, share: float) -> bool:
    """Tell whether an episode is for the check only; its name alone decides, so that new episodes change nothing."""
    return zlib.crc32(file.stem.encode()) % 1000 < 1000 * share


@torch.inference_mode()
def encode(file: Path, policy: CompactPolicy) -> Followed:
    """Encode every frame of a recorded episode with the policy's frozen encoder.

    Raises:
        ValueError: the episode was recorded without the policy's base camera, or with another picture size.
    """
    base = policy.spec.cameras[0]
    with safe_open(file, framework="numpy") as shard:
        cameras = shard.metadata()["cameras"].split(",")
        if base not in cameras:
            raise ValueError(f"episode '{file}' has cameras {', '.join(cameras)}, the policy needs {base}")
        jpeg, offset = shard.get_tensor("jpeg"), shard.get_tensor("offset")[:, cameras.index(base)]
        step, executed = shard.get_tensor("step"), shard.get_tensor("executed")
    pictures = np.stack([decode_frame(jpeg[begin:end]) for begin, end in offset])
    if pictures.shape[1] != policy.spec.image_size:
        raise ValueError(f"episode '{file}' has pictures of {pictures.shape[1]} px, not {policy.spec.image_size} px")
    parts = []
    for begin in range(0, len(pictures), ENCODED_AT_ONCE):
        batch = torch.from_numpy(pictures[begin : begin + ENCODED_AT_ONCE]).permute(0, 3, 1, 2)
        parts.append(policy.base_encoder(batch.float() / 127.5 - 1.0).half())
    return Followed(torch.cat(parts), step.astype(np.int64), executed)


def encode_all(files: Sequence[Path], policy: CompactPolicy, done: Callable[[], None]) -> Iterator[Followed]:
    """Encode episodes; `done` is called after each. Those of fewer than two frames are left out."""
    for file in files:
        followed = encode(file, policy)
        done()
        if len(followed.step) > 1:
            yield followed


class PairSampler:
    """Draws pairs of frames of one episode, at most `longest_wait` steps apart, every frame equally often.

    Args:
        absolute: [A], dimensions whose newest value counts instead of their sum.

    Raises:
        ValueError: no two frames of an episode are near enough.
    """

    def __init__(self, episodes: Sequence[Followed], longest_wait: int, absolute: Sequence[bool]) -> None:
        if not episodes:
            raise ValueError("saliency: there is no episode of two frames to learn from; record more demonstrations")
        self._tokens = torch.cat([episode.tokens for episode in episodes])
        absolute_row = np.asarray(absolute)
        first, last, sums, newest = [], [], [], []
        start = 0
        for episode in episodes:
            step = episode.step
            total = np.concatenate((np.zeros((1, len(absolute_row))), np.cumsum(episode.executed, axis=0)))
            sums.append(total[step])
            newest.append(episode.executed[np.maximum(step - 1, 0)])
            reach = np.searchsorted(step, step + longest_wait, side="right") - 1
            places = np.arange(len(step))
            usable = reach > places
            first.append(start + places[usable])
            last.append(start + reach[usable])
            start += len(step)
        self._first, self._last = np.concatenate(first), np.concatenate(last)
        if not len(self._first):
            raise ValueError(f"saliency: no two frames of an episode are within longest_wait = {longest_wait} steps")
        self._sums, self._newest, self._absolute = np.concatenate(sums), np.concatenate(newest), absolute_row

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self._tokens)

    def draw(self, count: int, random: np.random.Generator) -> Pairs:
        """Return `count` pairs."""
        chosen = random.integers(len(self._first), size=count)
        here = self._first[chosen]
        there = random.integers(here + 1, self._last[chosen] + 1)
        actions = np.where(self._absolute, self._newest[there], self._sums[there] - self._sums[here])
        return Pairs(
            self._tokens[here].float(),
            torch.from_numpy(actions.astype(np.float32)),
            self._tokens[there].float(),
        )
