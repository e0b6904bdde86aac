"""Demonstrations as training batches: sequences of observations, each with its window of expert actions."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from kv_cache.tensor_file import content_digest
from streaming_vla.policies.compact.config import NO_STATE, CompactConfig
from streaming_vla.policies.compact.language import Tokenizer
from streaming_vla.sim.frames import decode_frame
from streaming_vla.sim.memory_tasks import MEMORY_TASKS
from streaming_vla.sim.tasks import get_task, unrelated
from streaming_vla.training.endings import endings
from streaming_vla.training.plan import Flow, Source
from streaming_vla.training.sequences import Episode, Seen, cut_sequence, memory_sequence
from streaming_vla.training.shard import Shard
from streaming_vla.training.windows import Track, draw_moments, phases

ANSWERS = 4  # most answers of a memory task
TRACK_FIELDS = ("step", "executed", "window", "previous", "path", "answer")
EPISODE_FIELDS = ("step", "state", "scene", "recall", "waiting", "jpeg", "offset")


@dataclass(frozen=True)
class Batch:
    """B sequences of T observations, with what each learns.

    pictures [B, T, cameras, S, S, 3] uint8, state [B, T, state_size], words [B, maximum_words],
    age [B, T, D], later [B, T, D, state_size], pending and answer [B, T, D, A] and chunk [B, T, H, A] (moments behind
    the picture, see windows.Moments); fresh, like pictures, is seen at the first of them, or nothing; scene [B, T, 6]
    (object and goal, metres),
    recall [B, T] int64 (what is to be remembered; -1: nothing), present [B, T] bool (False: past the episode's end),
    waiting [B, T] bool (the wait of a memory task), goals [B, T, ANSWERS, 2] (x and y in metres of the goal of every
    answer where a memory task shows them, else NaN), task [B] (number of Demonstrations.tasks).
    """

    pictures: npt.NDArray[Any]
    state: npt.NDArray[np.float32]
    words: npt.NDArray[np.int64]
    age: npt.NDArray[np.int64]
    later: npt.NDArray[np.float32]
    pending: npt.NDArray[np.float32]
    answer: npt.NDArray[np.float32]
    chunk: npt.NDArray[np.float32]
    fresh: npt.NDArray[Any]
    scene: npt.NDArray[np.float32]
    recall: npt.NDArray[np.int64]
    present: npt.NDArray[np.bool_]
    waiting: npt.NDArray[np.bool_]
    goals: npt.NDArray[np.float32]
    task: npt.NDArray[np.int64]


def check_demonstrations(folder: Path) -> list[Path]:
    """Return the episodes of `folder`.

    Raises:
        FileNotFoundError: there is none; the message names the command that makes them.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no demonstrations in '{folder}': make them with 'streaming-vla train demos'")
    return files


def check_sources(files: Sequence[Path], sources: Sequence[Source], use: str = "to learn from") -> None:
    """Check that every task of the sources has episodes among `files`.

    Args:
        use: what they are for.

    Raises:
        ValueError: a task has none; the message names it and the command that makes them.
    """
    missing = {task for source in sources for task in source.tasks} - {Shard.of(file).task for file in files}
    if missing:
        raise ValueError(
            f"there are no demonstrations of {', '.join(sorted(missing))} {use}: record them with 'streaming-vla train "
            "demos' and a plan that has these tasks, or take the tasks out of the plan's sources"
        )


def fingerprint(files: Sequence[Path]) -> dict[str, object]:
    """Return what identifies demonstrations: how many, their seeds, and a hash of all that they hold."""
    digest = hashlib.sha256()
    seeds = []
    for file in files:
        digest.update(file.name.encode())
        digest.update(content_digest(file).encode())
        seeds.append(Shard.of(file).seed)
    return {"episodes": len(files), "seeds": [min(seeds), max(seeds)], "sha256": digest.hexdigest()}


class Demonstrations:
    """The episodes of a folder, compressed in memory; `failed` counts those that the expert lost, which are left out.

    Args:
        flow: which moments behind its picture a batch has of each observation.
        looks: a batch also has what is seen at the first of them.
        files: those of its episodes that are loaded; None: all.

    Raises:
        FileNotFoundError: the folder holds no demonstrations; the message names the command that makes them.
    """

    def __init__(
        self,
        folder: Path,
        config: CompactConfig,
        flow: Flow,
        files: Sequence[Path] | None = None,
        looks: bool = False,
    ) -> None:
        self._config, self._flow, self._looks = config, flow, looks
        self._tokenize = Tokenizer(config.words, config.maximum_words)
        self._episodes: dict[str, list[Episode]] = {}
        self._endings: dict[str, dict[int, list[Episode]]] = {}  # by task and answer
        self._wordings: dict[str, tuple[str, ...]] = {}
        self.failed = 0
        for file in check_demonstrations(folder) if files is None else files:
            self._load(file)

    @property
    def episodes(self) -> list[Episode]:
        """All of them, task by task."""
        return [episode for task in self.tasks for episode in self._episodes[task]]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that have episodes."""
        return sorted(self._episodes)

    def statistics(self, field: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return mean and standard deviation of "state" or "scene" over all frames."""
        values = np.concatenate([getattr(e, field) for episodes in self._episodes.values() for e in episodes])
        return values.mean(axis=0), values.std(axis=0).clip(min=1e-3)

    def pending_scale(self) -> npt.NDArray[np.float32]:
        """Return the root mean square of the sums of `late` actions, [A]."""
        totals, late = [episode.track.executed_before for episode in self.episodes], self._flow.late
        sums = np.concatenate([total[late:] - total[:-late] for total in totals])
        typical: npt.NDArray[np.float32] = np.ones_like(totals[0][0])
        if len(sums):
            typical[:] = np.sqrt(np.square(sums).mean(axis=0)).clip(min=1e-3)
        for action, place in enumerate(self._config.state_places):
            if place != NO_STATE:  # how far a joint is behind its target
                gaps = [e.track.action_before[1:, action] - e.track.path[1:, place] for e in self.episodes]
                typical[action] = max(1e-3, float(np.sqrt(np.square(np.concatenate(gaps)).mean())))
        return typical

    def sample(self, count: int, source: Source, random: np.random.Generator) -> Batch:
        """Draw `count` sequences of `source`, padded to the longest of them."""
        tasks = [task for task in source.tasks if task in self._episodes]
        shares = np.array([source.tasks[task] for task in tasks], dtype=np.float64)
        chosen = random.choice(len(tasks), size=count, p=shares / shares.sum())
        cuts = [self._frames(tasks[index], source, random) for index in chosen]
        longest = max(len(frames) for frames in cuts)
        rows = [
            self._sequence(tasks[index], frames, longest, tasks, source, random)
            for index, frames in zip(chosen, cuts, strict=True)
        ]
        return Batch(*(np.stack(column) for column in zip(*rows, strict=True)))  # type: ignore[arg-type]

    def _frames(self, task: str, source: Source, random: np.random.Generator) -> list[Seen]:
        episodes = self._episodes[task]
        episode = episodes[random.integers(len(episodes))]
        if not source.memory:
            return cut_sequence(episode, source, random)
        others = self._endings[task][int(episode.recall.max())] if random.random() < source.spliced else []
        return memory_sequence(episode, episodes, others, source, random)

    def _sequence(
        self,
        task: str,
        frames: list[Seen],
        length: int,
        tasks: Sequence[str],
        source: Source,
        random: np.random.Generator,
    ) -> tuple[npt.NDArray[np.generic], ...]:
        episode = frames[0][0]  # pieces of others lie behind its start
        present = np.arange(length) < len(frames)
        frames = frames + frames[-1:] * (length - len(frames))
        horizon, flow = self._config.trained_horizon, self._flow
        absolute = self._config.action_absolute
        moments = [
            draw_moments(each.track, frame, flow.draws, horizon, flow.late, random, absolute) for each, frame in frames
        ]
        age, later, pending, answer, chunk, seen = map(np.stack, zip(*map(astuple, moments), strict=True))
        instructions = self._wordings[task]
        if random.random() < source.wrong_instruction:
            others = unrelated(task, tasks)
            if others:
                instructions = self._wordings[others[random.integers(len(others))]]
                stay = np.stack([each.track.previous[frame] for each, frame in frames])[:, None]
                stay = stay * np.array(self._config.action_absolute, dtype=np.float32)
                chunk, answer = stay.repeat(chunk.shape[1], axis=1), stay.repeat(flow.draws, axis=1)
        words = np.array(self._tokenize(instructions[random.integers(len(instructions))]), dtype=np.int64)
        forgotten = random.random(len(words)) < source.unknown_word
        words[forgotten & (words > 0)] = 0
        # what is put into the wait does not change what is to be remembered
        own = max(int(each.recall[frame]) for each, frame in frames if each is episode)
        recall = [int(each.recall[frame]) if each is episode else own for each, frame in frames]
        return (
            np.stack([self.look(each, frame) for each, frame in frames]),
            np.stack([each.state[frame] for each, frame in frames]),
            words,
            age,
            later,
            pending,
            answer,
            chunk,
            np.stack([self.look(each, int(then)) for (each, _), then in zip(frames, seen, strict=True)])
            if self._looks
            else np.zeros((length, 0)),
            np.stack([each.scene[frame] for each, frame in frames]),
            np.array(recall, dtype=np.int64),
            present,
            np.array([bool(each.waiting[frame]) for each, frame in frames]),
            np.stack([each.goals[frame] for each, frame in frames]),
            np.array(self.tasks.index(task)),
        )

    def look(self, episode: Episode, frame: int) -> npt.NDArray[Any]:
        """Return what a batch holds of a frame's pictures, [cameras, S, S, 3] uint8."""
        return np.stack([decode_frame(episode.jpeg[begin:end]) for begin, end in episode.offset[frame]])

    def _load(self, file: Path) -> None:
        with safe_open(file, framework="numpy") as shard:
            metadata = shard.metadata()
            # a pilot without a memory may well choose wrongly: what the expert said meanwhile is right all the same
            forgetful = metadata["task"] in MEMORY_TASKS and Shard.of(file).piloted
            if not forgetful and not bool(shard.get_tensor("success")[0]):
                self.failed += 1
                return
            given = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118 - a shard is no dict
        until = phases(given["step"], given["waiting"], len(given["path"]))
        track = Track(**{name: given[name] for name in TRACK_FIELDS}, until=until)
        goals = np.full((len(track.step), ANSWERS, 2), np.nan, dtype=np.float32)
        fields = {name: given[name] for name in EPISODE_FIELDS}
        episode = Episode(file.stem, track, goals, **fields, forgetful=forgetful)
        task, seed = metadata["task"], int(metadata["seed"])
        self._episodes.setdefault(task, []).append(episode)
        # a shard of somebody's own data says itself what was asked for
        own = metadata.get("instruction")
        self._wordings[task] = (own,) if own is not None else get_task(task).instructions
        if task in MEMORY_TASKS:
            first = int(np.flatnonzero(episode.waiting)[-1]) + 1
            for answer, (other, goal) in enumerate(endings(task, seed, track, episode.state, first)):
                scene = episode.scene.copy()
                scene[first:] = np.tile(goal, 2)
                goals[first:, answer] = goal[:2]
                kept = self._endings.setdefault(task, {}).setdefault(answer, [])
                kept.append(dataclasses.replace(episode, track=other, scene=scene))
