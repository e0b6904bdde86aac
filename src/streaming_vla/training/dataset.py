"""Demonstrations as training batches: sequences of observations of one episode, with windows of clean actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from streaming_vla.policy.compact.config import CompactConfig
from streaming_vla.policy.compact.language import Tokenizer
from streaming_vla.robots.tasks import TASKS


@dataclass(frozen=True)
class SequenceOptions:
    """How sequences are cut from episodes.

    Args:
        length: observations of a sequence T.
        stride: smallest and largest distance of two observations in steps.
        task_weights: relative frequency of tasks that are not drawn as often as the others.
    """

    length: int = 4
    stride: tuple[int, int] = (6, 14)
    task_weights: tuple[tuple[str, float], ...] = (("pick-place", 2.0), ("peg-insert-side", 2.0), ("reach", 1.5))


@dataclass(frozen=True)
class Batch:
    """B sequences of T observations, with the window of H actions that follows each.

    pictures [B, T, cameras, S, S, 3] uint8, state [B, T, state_size], words [B, maximum_words],
    actions [B, T, H, A] float32, previous [B, T, A] (the action before), clean [B, T] (steps of the window that
    are the expert's own, counted from its start), present [B, T] bool (False: before the episode's start).
    """

    pictures: npt.NDArray[np.uint8]
    state: npt.NDArray[np.float32]
    words: npt.NDArray[np.int64]
    actions: npt.NDArray[np.float32]
    previous: npt.NDArray[np.float32]
    clean: npt.NDArray[np.int64]
    present: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Episode:
    state: npt.NDArray[np.float32]
    action: npt.NDArray[np.float32]
    run: npt.NDArray[np.int64]  # clean steps from each step on
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


class Demonstrations:
    """All successful episodes of a folder, compressed in memory.

    Raises:
        FileNotFoundError: the folder holds no demonstrations; the message names the command that makes them.
    """

    def __init__(self, folder: Path, config: CompactConfig, progress: Callable[[int, int], None] | None = None) -> None:
        self._config = config
        self._tokenize = Tokenizer(config.words, config.maximum_words)
        self._episodes: dict[str, list[_Episode]] = {}
        self.seeds: set[int] = set()
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

    def state_statistics(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return mean and standard deviation of the robot state, [state_size] each."""
        states = np.concatenate([episode.state for episodes in self._episodes.values() for episode in episodes])
        return states.mean(axis=0), states.std(axis=0).clip(min=1e-3)

    def sample(self, count: int, options: SequenceOptions, random: np.random.Generator) -> Batch:
        """Draw `count` sequences."""
        weights = dict(options.task_weights)
        shares = np.array([weights.get(task, 1.0) for task in self.tasks])
        chosen = random.choice(len(self.tasks), size=count, p=shares / shares.sum())
        rows = [self._sequence(self.tasks[index], options, random) for index in chosen]
        return Batch(*(np.stack(column) for column in zip(*rows, strict=True)))

    def _sequence(
        self, task: str, options: SequenceOptions, random: np.random.Generator
    ) -> tuple[npt.NDArray[np.generic], ...]:
        config = self._config
        episodes = self._episodes[task]
        episode = episodes[random.integers(len(episodes))]
        steps = len(episode.state)
        low, high = options.stride
        # the newest observation is uniform over the episode; the others lie before it
        back = np.concatenate(([0], random.integers(low, high + 1, options.length - 1).cumsum()))[::-1]
        places = int(random.integers(steps)) - back
        present = places >= 0
        places = places.clip(min=0)
        window = (places[:, None] + np.arange(config.trained_horizon)).clip(max=steps - 1)
        previous = np.where(
            (places > 0)[:, None],
            episode.action[(places - 1).clip(min=0)],
            np.array(config.action_initial, dtype=np.float32),
        )
        instructions = TASKS[task].instructions
        words = self._tokenize(instructions[random.integers(len(instructions))])
        pictures = np.stack([self._pictures(episode, place) for place in places])
        return (
            pictures,
            episode.state[places],
            np.array(words, dtype=np.int64),
            episode.action[window],
            previous.astype(np.float32),
            episode.run[places],
            present,
        )

    def _pictures(self, episode: _Episode, step: int) -> npt.NDArray[np.uint8]:
        decoded = []
        for begin, end in episode.offset[step]:
            picture = cv2.imdecode(episode.jpeg[begin:end], cv2.IMREAD_COLOR)
            if picture is None:
                raise ValueError(f"a demonstration's picture at step {step} is not a readable JPEG")
            decoded.append(picture[..., ::-1])
        return np.stack(decoded)

    def _load(self, file: Path) -> None:
        with safe_open(file, framework="numpy") as shard:
            metadata = shard.metadata()
            if not bool(shard.get_tensor("success")[0]):
                return
            action, clean = shard.get_tensor("action"), shard.get_tensor("clean")
            run = np.zeros(len(clean), dtype=np.int64)
            for step in range(len(clean) - 1, -1, -1):
                following = run[step + 1] if step + 1 < len(clean) else 0
                run[step] = following + 1 if clean[step] else 0
            episode = _Episode(
                shard.get_tensor("state"), action, run, shard.get_tensor("jpeg"), shard.get_tensor("offset")
            )
        self._episodes.setdefault(metadata["task"], []).append(episode)
        self.seeds.add(int(metadata["seed"]))
        self.frames += len(action)
