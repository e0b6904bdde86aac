"""An exported data set (LeRobot layout) as demonstrations, and the plan, shape and start of a training on them.

Every frame's window is what the robot did next. Behind the end of an episode it stays, as absolute dimensions keep
their last value; nothing is known of a scene, so the auxiliary heads learn nothing.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kv_cache.tensor_file import content_digest
from streaming_vla.bags.dataset import DatasetFacts, read_dataset, read_facts
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.language import UNKNOWN, build_vocabulary
from streaming_vla.policies.loading import load_model, save_policy
from streaming_vla.training.losses import SCENE_SIZE
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
    """

    config: CompactConfig
    plan: TrainingPlan
    demonstrations: Path
    initial: Path | None
    episodes: Counter[str]


def prepare(data: Path, plan: TrainingPlan, folder: Path, start: Path | None) -> OwnData:
    """Make everything that a training on the data set `data` needs, in `folder`.

    Args:
        plan: its sources keep their kind; their tasks become the data set's instructions, each as frequent as its
            episodes.
        start: a policy whose shape and weights are taken; None: the plan's shape and random weights.

    Raises:
        ValueError: no data set, its cameras, state or actions are not the policy's, or `write_demonstrations`.
    """
    facts = read_facts(data)
    if start is None:
        base = planned_config(plan, (UNKNOWN,), cameras=facts.cameras, state_size=len(facts.state_names))
    else:
        base = load_model(start).config
    _check(base, facts, data, "the plan" if start is None else f"the policy '{start.stem}'")
    demonstrations = folder / "own_demonstrations"
    episodes = write_demonstrations(data, demonstrations, base)
    new = [word for word in build_vocabulary(episodes) if word not in base.words]
    config = dataclasses.replace(base, words=(*base.words, *new))
    initial = None if start is None else _with_words(start, config, folder / f"from_{start.name}")
    return OwnData(config, _for_instructions(plan, episodes, config), demonstrations, initial, episodes)


def write_demonstrations(data: Path, folder: Path, config: CompactConfig) -> Counter[str]:
    """Write the episodes of `data` as shards in place of those in `folder`; return how many each instruction has.

    Raises:
        ValueError: `folder` holds demonstrations that were not written here, or an episode is not finite.
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
    for number, episode in enumerate(read_dataset(data, config.image_size)):
        instruction = episode["instruction"]
        for name in ("state", "action"):
            bad = np.flatnonzero(~np.isfinite(episode[name]).all(axis=1))
            if len(bad):
                raise ValueError(
                    f"episode {number} of data set '{data}' has a {name} that is not finite at step {bad[0]}: leave "
                    "the episode out, or export its bag again"
                )
        task = f"instruction-{numbers.setdefault(instruction, len(numbers))}"
        about = {"task": task, "seed": str(number), "instruction": instruction}
        save_file(_shard(episode, config), Shard(folder, task, number).path, metadata=about)
        counts[instruction] += 1
    return counts


def _is_own(file: Path) -> bool:
    """True for a shard of `write_demonstrations`, and for one that was cut off and that nobody can read."""
    try:
        with safe_open(file, framework="numpy") as shard:
            return "instruction" in (shard.metadata() or {})
    except SafetensorError:
        return True


def windows(action: npt.NDArray[np.float32], config: CompactConfig) -> npt.NDArray[np.float32]:
    """Return the actions from each step on, [T, A] -> [T, trained_horizon, A]."""
    stay = action[-1] * np.array(config.action_absolute, dtype=np.float32)
    padded = np.concatenate((action, np.repeat(stay[None], config.trained_horizon - 1, axis=0)))
    rows = np.arange(len(action))[:, None] + np.arange(config.trained_horizon)
    found: npt.NDArray[np.float32] = padded[rows]
    return found


def _shard(episode: dict[str, Any], config: CompactConfig) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of `training.episode.record_episode`."""
    action = episode["action"].clip(config.action_low, config.action_high).astype(np.float32)
    count = len(action)
    order = [episode["cameras"].index(camera) for camera in config.cameras]
    return {
        "step": np.arange(count, dtype=np.int32),
        "state": episode["state"],
        "previous": np.concatenate((np.array(config.action_initial, dtype=np.float32)[None], action[:-1])),
        "window": windows(action, config),
        "scene": np.zeros((count, SCENE_SIZE), dtype=np.float32),
        "recall": np.full(count, -1, dtype=np.int64),
        "waiting": np.zeros(count, dtype=bool),
        "jpeg": episode["jpeg"],
        "offset": np.ascontiguousarray(episode["offset"][:, order]),
        "executed": action,
        "success": episode["success"],
    }


def _check(config: CompactConfig, facts: DatasetFacts, data: Path, whose: str) -> None:
    missing = sorted(set(config.cameras) - set(facts.cameras))
    if missing:
        raise ValueError(
            f"{whose} sees {', '.join(config.cameras)}, but data set '{data}' holds {', '.join(facts.cameras)}: name "
            "the cameras alike in the parameter file of the export"
        )
    if facts.action_names != config.action_names:
        raise ValueError(
            f"{whose} acts in {', '.join(config.action_names)}, but data set '{data}' holds "
            f"{', '.join(facts.action_names)}: set action_names, action_absolute, action_low, action_high and "
            "action_initial in the plan's model section and train with --initial none"
        )
    if len(facts.state_names) != config.state_size:
        raise ValueError(
            f"{whose} knows a state of {config.state_size} numbers, but data set '{data}' holds "
            f"{len(facts.state_names)}: train with --initial none"
        )


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
