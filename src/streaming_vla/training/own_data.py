"""A data set in the format of LeRobot as demonstrations, and the plan, shape and start of a training on them.

Every frame's window is what the robot did next. Behind the end of an episode it stays, as absolute dimensions keep
their last value; nothing is known of a scene, so the auxiliary heads learn nothing. Where the instruction changes in an
episode, each one's frames are demonstrations of their own, whose windows still show what the robot did.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kv_cache.tensor_file import content_digest
from streaming_vla.datasets.dataset import Dataset, Episode
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.facts import DatasetFacts
from streaming_vla.datasets.rates import rate_of_period
from streaming_vla.policies.compact.checkpoint import load_model, save_policy
from streaming_vla.policies.compact.config import NO_STATE, CompactConfig
from streaming_vla.policies.compact.language import UNKNOWN, build_vocabulary
from streaming_vla.training.losses import SCENE_SIZE
from streaming_vla.training.own_episodes import (
    Part,
    ReadOptions,
    check_limits,
    check_rate,
    pictures_of,
    read_parts,
    told_findings,
)
from streaming_vla.training.plan import TrainingPlan
from streaming_vla.training.setup import planned_config
from streaming_vla.training.shard import Shard

WORDS = "word.weight"  # of the network: one row per word


@dataclass(frozen=True)
class OwnData:
    """What a run is made of (see `trainer.Run`).

    Args:
        initial: the weights to start from, with a row for each new word; None for random ones.
        episodes: of each instruction.
        told: what is to be known of the data set, one sentence each.
    """

    config: CompactConfig
    plan: TrainingPlan
    demonstrations: Path
    initial: Path | None
    episodes: Counter[str]
    told: list[str]


def prepare(data: Path, plan: TrainingPlan, folder: Path, start: Path | None, options: ReadOptions) -> OwnData:
    """Make everything that a training on the data set `data` needs, in `folder`.

    Args:
        plan: its sources keep their kind; their tasks become the data set's instructions, each as frequent as its
            episodes.
        start: a policy whose shape and weights are taken; None: the plan's shape and random weights.
        options: how the data set is read.

    Raises:
        ValueError: no data set, its rate, cameras, state or actions are not the policy's, or `write_demonstrations`.
    """
    with Dataset(data) as opened:
        return _prepare(opened, plan, folder, start, options)


def _prepare(data: Dataset, plan: TrainingPlan, folder: Path, start: Path | None, options: ReadOptions) -> OwnData:
    facts = data.facts
    if start is None:
        cameras = tuple(camera.name for camera in facts.cameras)
        base = planned_config(plan, (UNKNOWN,), cameras=cameras, state_size=len(facts.state_names))
    else:
        base = load_model(start).config
    whose = "the plan" if start is None else f"the policy '{start.stem}'"
    _check(base, facts, data.folder, whose)
    check_rate(facts, data.folder, options)
    if options.state_names and options.state_names != facts.state_names:
        raise DatasetError(
            f"the state of data set '{data.folder}' is {', '.join(facts.state_names)}, robot_state_joints are "
            f"{', '.join(options.state_names)}: give them alike, in the same order"
        )
    told = told_findings(data)
    if outside := check_limits(data, base.layout, options):
        if not options.clipped:
            raise DatasetError(
                f"data set '{data.folder}' does not fit the limits of {whose}: {outside}: correct action_low and "
                "action_high (are the units the same?), or --clip to bring them within"
            )
        told.append(f"clipped to the limits: {outside}")
    if facts.rate != rate_of_period(options.period_s):
        told.append(f"resampled from {facts.fps:g} to {float(rate_of_period(options.period_s)):g} steps a second")
    demonstrations = folder / "own_demonstrations"
    episodes = write_demonstrations(data, demonstrations, base, options)
    new = [word for word in build_vocabulary(episodes) if word not in base.words]
    config = dataclasses.replace(base, words=(*base.words, *new))
    initial = None if start is None else _with_words(start, config, folder / f"from_{start.name}")
    return OwnData(config, _for_instructions(plan, episodes, config), demonstrations, initial, episodes, told)


def write_demonstrations(data: Dataset, folder: Path, config: CompactConfig, options: ReadOptions) -> Counter[str]:
    """Write the episodes of `data` as shards in place of those in `folder`; return how many each instruction has.

    Raises:
        ValueError: `folder` holds demonstrations that were not written here, or an episode cannot be learned from.
    """
    for file in sorted(folder.glob("*.safetensors")):
        if not _is_own(file):
            raise ValueError(
                f"'{file}' is a demonstration of 'train demos', its folder would be emptied: choose another --folder"
            )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    counts: Counter[str] = Counter()
    numbers: dict[str, int] = {}
    for shard, (episode, part) in enumerate(read_parts(data, config.layout, options)):
        task = f"instruction-{numbers.setdefault(part.instruction, len(numbers))}"
        about = {"task": task, "seed": str(shard), "instruction": part.instruction}
        save_file(_shard(data, episode, part, config), Shard(folder, task, shard).path, metadata=about)
        counts[part.instruction] += 1
    return counts


def _is_own(file: Path) -> bool:
    """True for a shard of `write_demonstrations`, and for one that was cut off and that nobody can read."""
    try:
        with safe_open(file, framework="numpy") as shard:
            return "instruction" in (shard.metadata() or {})
    except SafetensorError:
        return True


def windows(action: npt.NDArray[np.float32], config: CompactConfig) -> npt.NDArray[np.float32]:
    """Return the actions from each step on, [T, A] -> [T, chunk_horizon, A]."""
    stay = action[-1] * np.array(config.action_absolute, dtype=np.float32)
    padded = np.concatenate((action, np.repeat(stay[None], config.chunk_horizon - 1, axis=0)))
    rows = np.arange(len(action))[:, None] + np.arange(config.chunk_horizon)
    found: npt.NDArray[np.float32] = padded[rows]
    return found


def _shard(data: Dataset, episode: Episode, part: Part, config: CompactConfig) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of `training.episode.record_episode`."""
    count, begin = len(part.state), part.begin
    # before the first target an arm was told to be where it is
    pairs = zip(config.action_initial, config.state_places, strict=True)
    initial = [value if place == NO_STATE else part.states[0, place] for value, place in pairs]
    span = slice(begin, begin + count)
    blob, offsets = pictures_of(data, episode, part, config.cameras, config.image_size)
    return {
        "step": np.arange(count, dtype=np.int32),
        "state": part.state,
        "previous": np.concatenate((np.array([initial], dtype=np.float32), part.whole[:-1]))[span],
        "window": windows(part.whole, config)[span],
        "scene": np.zeros((count, SCENE_SIZE), dtype=np.float32),
        "recall": np.full(count, -1, dtype=np.int64),
        "waiting": np.zeros(count, dtype=bool),
        "jpeg": np.frombuffer(blob, dtype=np.uint8),
        "offset": np.array(offsets, dtype=np.int64),
        "executed": part.action,
        "path": part.state,
        "answer": part.action,
        "success": np.array([True]),  # what a robot did is kept
    }


def _check(config: CompactConfig, facts: DatasetFacts, data: Path, whose: str) -> None:
    there = [camera.name for camera in facts.cameras]
    if set(config.cameras) - set(there):
        raise ValueError(
            f"{whose} sees {', '.join(config.cameras)}, but data set '{data}' holds {', '.join(there)}: name "
            "the cameras alike in the parameter file of the export"
        )
    if facts.action_names != config.action_names:
        raise ValueError(
            f"{whose} acts in {', '.join(config.action_names)}, but data set '{data}' holds "
            f"{', '.join(facts.action_names)}: set action_names, action_absolute, action_low, action_high and "
            "action_initial in the plan's model section and train with --initial none"
        )
    if facts.action_absolute and facts.action_absolute != config.action_absolute:
        raise ValueError(
            f"the actions of data set '{data}' are {_kinds(facts.action_absolute)}, those of {whose} are "
            f"{_kinds(config.action_absolute)}: correct action_absolute of the plan's model section"
        )
    if len(facts.state_names) != config.state_size:
        raise ValueError(
            f"{whose} knows a state of {config.state_size} numbers, but data set '{data}' holds "
            f"{len(facts.state_names)}: train with --initial none"
        )


def _kinds(absolute: Iterable[bool]) -> str:
    return ", ".join("absolute" if each else "a change" for each in absolute)


def _for_instructions(plan: TrainingPlan, episodes: Counter[str], config: CompactConfig) -> TrainingPlan:
    if len(plan.augment.blank) != len(config.cameras):
        raise ValueError(
            f"the plan's augment.blank has {len(plan.augment.blank)} numbers, expected one for each of the cameras "
            f"{', '.join(config.cameras)}"
        )
    tasks = {f"instruction-{number}": float(count) for number, count in enumerate(episodes.values())}
    sources = tuple(
        # nobody knows which of the instructions cannot be followed in the scene of another one
        source.model_copy(update={"tasks": tasks, "memory": False, "wrong_instruction": 0.0})
        for source in plan.sources
    )
    weights = plan.weights.model_copy(update={"scene": 0.0, "recall": 0.0, "goals": 0.0})
    return plan.model_copy(update={"sources": sources, "weights": weights})


def _with_words(start: Path, config: CompactConfig, path: Path) -> Path:
    """Write the policy `start` with a row for each new word, which begins as the unknown one."""
    weights = load_model(start).state_dict()
    added = len(config.words) - len(weights[WORDS])
    weights[WORDS] = torch.cat((weights[WORDS], weights[WORDS][:1].expand(added, -1)))
    new = path.with_suffix(".new")
    save_policy(new, config, weights, {"initial": start.name})
    if path.exists() and content_digest(path) == content_digest(new):  # a run that goes on knows the file by its bytes
        new.unlink()
    else:
        new.replace(path)
    return path
