"""Demonstrations as training batches: sequences of observations, each with its window of expert actions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from streaming_vla.policy.compact.config import CompactConfig
from streaming_vla.policy.compact.language import Tokenizer
from streaming_vla.robots.frames import decode_frame
from streaming_vla.robots.tasks import get_task
from streaming_vla.training.plan import Source

# instructions that could be followed in each other's scenes: never swapped, for there "stay" would be the wrong answer
_SAME_SCENE = ({"drawer-open", "drawer-close"}, {"window-open", "window-close"})


@dataclass(frozen=True)
class Batch:
    """B sequences of T observations, with the window of H actions that follows each.

    pictures [B, T, cameras, S, S, 3] uint8, state [B, T, state_size], words [B, maximum_words],
    actions [B, T, H, A] float32, previous [B, T, A] (the action before), scene [B, T, 6] (object and goal, metres),
    recall [B, T] int64 (what is to be remembered; -1: nothing), present [B, T] bool (False: past the episode's end).
    """

    pictures: npt.NDArray[np.uint8]
    state: npt.NDArray[np.float32]
    words: npt.NDArray[np.int64]
    actions: npt.NDArray[np.float32]
    previous: npt.NDArray[np.float32]
    scene: npt.NDArray[np.float32]
    recall: npt.NDArray[np.int64]
    present: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Episode:
    step: npt.NDArray[np.int32]
    state: npt.NDArray[np.float32]
    previous: npt.NDArray[np.float32]
    window: npt.NDArray[np.float32]
    scene: npt.NDArray[np.float32]
    recall: npt.NDArray[np.int64]
    jpeg: npt.NDArray[np.uint8]
    offset: npt.NDArray[np.int64]


def check_demonstrations(folder: Path) -> list[Path]:
    """Return the episodes of `folder`.

    Raises:
        FileNotFoundError: there is none; the message names the command that makes them.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no demonstrations in '{folder}': make them with 'streaming-vla train demos'")
    return files


def fingerprint(folder: Path) -> dict[str, object]:
    """Return what identifies the demonstrations in `folder`: how many, their seeds, and a hash of all bytes."""
    digest = hashlib.sha256()
    seeds = []
    files = check_demonstrations(folder)
    for file in files:
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
        seeds.append(int(file.stem.rsplit("_", 1)[1]))
    return {"episodes": len(files), "seeds": [min(seeds), max(seeds)], "sha256": digest.hexdigest()}


class Demonstrations:
    """All successful episodes of a folder, compressed in memory.

    Raises:
        FileNotFoundError: the folder holds no demonstrations; the message names the command that makes them.
    """

    def __init__(self, folder: Path, config: CompactConfig, progress: Callable[[int, int], None] | None = None) -> None:
        self._config = config
        self._tokenize = Tokenizer(config.words, config.maximum_words)
        self._episodes: dict[str, list[_Episode]] = {}
        self.seeds: dict[str, list[int]] = {}
        self.frames = 0
        files = check_demonstrations(folder)
        for number, file in enumerate(files, 1):
            self._load(file)
            if progress is not None:
                progress(number, len(files))

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that have episodes."""
        return sorted(self._episodes)

    def statistics(self, field: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return mean and standard deviation of "state" or "scene" over all frames."""
        values = np.concatenate([getattr(e, field) for episodes in self._episodes.values() for e in episodes])
        return values.mean(axis=0), values.std(axis=0).clip(min=1e-3)

    def sample(self, count: int, source: Source, random: np.random.Generator) -> Batch:
        """Draw `count` sequences of `source`."""
        tasks = [task for task in source.tasks if task in self._episodes]
        shares = np.array([source.tasks[task] for task in tasks], dtype=np.float64)
        chosen = random.choice(len(tasks), size=count, p=shares / shares.sum())
        rows = [self._sequence(tasks[index], tasks, source, random) for index in chosen]
        return Batch(*(np.stack(column) for column in zip(*rows, strict=True)))  # type: ignore[arg-type]

    def _sequence(
        self, task: str, tasks: Sequence[str], source: Source, random: np.random.Generator
    ) -> tuple[npt.NDArray[np.generic], ...]:
        episodes = self._episodes[task]
        episode = episodes[random.integers(len(episodes))]
        frames = len(episode.step)
        every = int(episode.step[1] - episode.step[0]) if frames > 1 else 1
        low, high = source.stride
        strides = random.integers(max(1, low // every), high // every + 1, source.length - 1)
        ahead = np.concatenate(([0], strides.cumsum()))
        total = int(ahead[-1])
        # both ends of an episode are met more often than a uniform start would meet them
        start = int(np.clip(random.uniform(-0.3 * total - 1, frames - 0.7 * total), 0, max(0, frames - 1 - total)))
        places = start + ahead
        present = places < frames
        places = places.clip(max=frames - 1)
        actions, previous = episode.window[places], episode.previous[places]
        instructions = get_task(task).instructions
        if random.random() < source.wrong_instruction:
            others = [other for other in tasks if other != task and {other, task} not in _SAME_SCENE]
            if others:
                instructions = get_task(others[random.integers(len(others))]).instructions
                actions = self._stay(previous)
        words = np.array(self._tokenize(instructions[random.integers(len(instructions))]), dtype=np.int64)
        forgotten = random.random(len(words)) < source.unknown_word
        words[forgotten & (words > 0)] = 0
        return (
            np.stack([self._pictures(episode, place) for place in places]),
            episode.state[places],
            words,
            actions,
            previous,
            episode.scene[places],
            episode.recall[places],
            present,
        )

    def _stay(self, previous: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return windows [T, H, A] that move nothing: what an instruction asks for that this scene cannot give."""
        still = previous * np.array(self._config.action_absolute, dtype=np.float32)
        return np.repeat(still[:, None], self._config.trained_horizon, axis=1)

    def _pictures(self, episode: _Episode, frame: int) -> npt.NDArray[np.uint8]:
        return np.stack([decode_frame(episode.jpeg[begin:end]) for begin, end in episode.offset[frame]])

    def _load(self, file: Path) -> None:
        with safe_open(file, framework="numpy") as shard:
            metadata = shard.metadata()
            if not bool(shard.get_tensor("success")[0]):
                return
            names = set(shard.keys())
            step = shard.get_tensor("step")
            recall = shard.get_tensor("recall").astype(np.int64) if "recall" in names else np.full(len(step), -1)
            episode = _Episode(
                step,
                shard.get_tensor("state"),
                shard.get_tensor("previous"),
                shard.get_tensor("window"),
                shard.get_tensor("scene"),
                recall,
                shard.get_tensor("jpeg"),
                shard.get_tensor("offset"),
            )
        self._episodes.setdefault(metadata["task"], []).append(episode)
        self.seeds.setdefault(metadata["task"], []).append(int(metadata["seed"]))
        self.frames += len(step)
