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
from streaming_vla.robots.tasks import get_task, unrelated
from streaming_vla.training.episode import FIELDS
from streaming_vla.training.plan import Source


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
    waiting: npt.NDArray[np.bool_]
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
        self._wordings: dict[str, tuple[str, ...]] = {}
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
        frames = _remembering(episode, episodes, source, random) if source.memory else _cut(episode, source, random)
        present = np.arange(source.length) < len(frames)
        frames = frames + frames[-1:] * (source.length - len(frames))
        actions = np.stack([each.window[frame] for each, frame in frames])
        previous = np.stack([each.previous[frame] for each, frame in frames])
        instructions = self._wordings[task]
        if random.random() < source.wrong_instruction:
            others = unrelated(task, tasks)
            if others:
                instructions = self._wordings[others[random.integers(len(others))]]
                actions = self._stay(previous)
        words = np.array(self._tokenize(instructions[random.integers(len(instructions))]), dtype=np.int64)
        forgotten = random.random(len(words)) < source.unknown_word
        words[forgotten & (words > 0)] = 0
        # what is put into the wait does not change what is to be remembered
        own = max(int(each.recall[frame]) for each, frame in frames if each is episode)
        recall = [int(each.recall[frame]) if each is episode else own for each, frame in frames]
        return (
            np.stack([_pictures(each, frame) for each, frame in frames]),
            np.stack([each.state[frame] for each, frame in frames]),
            words,
            actions,
            previous,
            np.stack([each.scene[frame] for each, frame in frames]),
            np.array(recall, dtype=np.int64),
            present,
        )

    def _stay(self, previous: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return windows [T, H, A] that move nothing: what an instruction asks for that this scene cannot give."""
        still = previous * np.array(self._config.action_absolute, dtype=np.float32)
        return np.repeat(still[:, None], self._config.trained_horizon, axis=1)

    def _load(self, file: Path) -> None:
        with safe_open(file, framework="numpy") as shard:
            metadata = shard.metadata()
            if not bool(shard.get_tensor("success")[0]):
                return
            episode = _Episode(*(shard.get_tensor(name) for name in (*FIELDS, "jpeg", "offset")))
        task = metadata["task"]
        self._episodes.setdefault(task, []).append(episode)
        # a shard of somebody's own data says itself what was asked for
        own = metadata.get("instruction")
        self._wordings[task] = (own,) if own is not None else get_task(task).instructions
        self.seeds.setdefault(task, []).append(int(metadata["seed"]))
        self.frames += len(episode.step)


def _strides(episode: _Episode, source: Source, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the frames from one observation to the next, [T - 1]."""
    every = int(episode.step[1] - episode.step[0]) if len(episode.step) > 1 else 1
    low, high = source.stride
    return random.integers(max(1, low // every), max(1, high // every) + 1, source.length - 1)


def _cut(episode: _Episode, source: Source, random: np.random.Generator) -> list[tuple[_Episode, int]]:
    """Return up to T observations of an episode; both ends are met more often than a uniform start would meet them."""
    ahead = np.concatenate(([0], _strides(episode, source, random).cumsum()))
    frames, total = len(episode.step), int(ahead[-1])
    start = int(np.clip(random.uniform(-0.3 * total - 1, frames - 0.7 * total), 0, max(0, frames - 1 - total)))
    return [(episode, int(place)) for place in start + ahead if place < frames]


def _remembering(
    episode: _Episode, episodes: Sequence[_Episode], source: Source, random: np.random.Generator
) -> list[tuple[_Episode, int]]:
    """Return up to T observations from the episode's start on, the wait lengthened by pieces of other episodes."""
    places = np.concatenate(([0], _strides(episode, source, random).cumsum()))
    own = [(episode, int(place)) for place in places if place < len(episode.step)]
    spare = int(random.integers(source.length - len(own) + 1))
    waits = [number for number, (_, place) in enumerate(own) if episode.waiting[place]]
    added: list[tuple[_Episode, int]] = []
    while len(added) < spare and waits:
        other = episodes[int(random.integers(len(episodes)))]
        waiting = np.flatnonzero(other.waiting)
        step = int(_strides(other, source, random)[0])
        added += [(other, int(place)) for place in waiting[random.integers(step) :: step]]
    if not added:
        return own
    cut = waits[random.integers(len(waits))] + 1
    return own[:cut] + added[:spare] + own[cut:]


def _pictures(episode: _Episode, frame: int) -> npt.NDArray[np.uint8]:
    return np.stack([decode_frame(episode.jpeg[begin:end]) for begin, end in episode.offset[frame]])
