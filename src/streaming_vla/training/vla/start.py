"""The checkpoint that a training starts from, made for the robot of a data set: its features and its statistics.

Weights are those of the given checkpoint, which may be a base model without any robot; LeRobot fine-tunes likewise.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from streaming_vla.datasets.facts import Camera, DatasetFacts
from streaming_vla.datasets.stats import vector_statistics
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot.config import ACTION, CONFIG, EMPTY_CAMERA, STATE
from streaming_vla.policies.lerobot.folder import Folder
from streaming_vla.policies.lerobot.geometry import GEOMETRY
from streaming_vla.policies.lerobot.load import ASSETS, FLOW_HEADS, WEIGHTS
from streaming_vla.policies.lerobot.processors import NORMALISER
from streaming_vla.policies.lerobot.steps import POSTPROCESSOR, PREPROCESSOR
from streaming_vla.policies.lerobot.text import TOKENIZER_FILES
from streaming_vla.training.vla.plan import VlaPlan

UNNORMALISER = "unnormalizer_processor"
ASSET_FILES = (CONFIG, "processor_config.json", "preprocessor_config.json", "tokenizer_config.json",
               "special_tokens_map.json", "added_tokens.json", *TOKENIZER_FILES)  # fmt: skip
UNMOVED = 1e-6  # a number whose deviation is less does not change: it is divided by 1, not by next to nothing
Vectors = Mapping[str, npt.NDArray[np.floating[Any]]]


def make_start(
    source: Folder,
    folder: Path,
    facts: DatasetFacts,
    cameras: tuple[Camera, ...],
    vectors: Vectors,
    plan: VlaPlan,
    assets: Path | None,
) -> None:
    """Write the checkpoint into a folder, in place of what lies there.

    Args:
        source: checkpoint with the weights.
        cameras: of the data set, in the order in which the policy sees them.
        vectors: all states and all actions of the data set, [N, S] and [N, A], by feature.
        assets: tokenizer and configuration of the vision-language model; None: there are none.

    Raises:
        CheckpointError: it is no policy that is trained here, or a file is missing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = source.json(CONFIG, "give a folder as lerobot saves it")
    if config.get("type") not in FLOW_HEADS:
        raise CheckpointError(
            f"{source.who} is of type {config.get('type')}, trained are {' and '.join(FLOW_HEADS)}; other policies "
            "lerobot trains itself"
        )
    if config.get("use_relative_actions"):
        raise CheckpointError(f"{source.who} has relative actions, which are not trained here: give another one")
    empty = {name: each for name, each in config.get("input_features", {}).items() if EMPTY_CAMERA in name}
    inputs = {
        STATE: {"type": "STATE", "shape": [len(facts.state_names)]},
        **{each.feature: {"type": "VISUAL", "shape": [3, each.height, each.width]} for each in cameras},
        **empty,
    }
    outputs = {ACTION: {"type": "ACTION", "shape": [len(facts.action_names)]}}
    config |= {
        "input_features": inputs,
        "output_features": outputs,
        "chunk_size": plan.horizon,
        "n_action_steps": plan.execution_horizon,
    }
    _write(folder / CONFIG, config)
    _processor(source, folder, PREPROCESSOR, NORMALISER, {**inputs, **outputs}, vectors)
    _processor(source, folder, POSTPROCESSOR, UNNORMALISER, outputs, vectors)
    weights = source.file(WEIGHTS, "it holds the policy's weights: copy it too")
    _link(weights, folder / WEIGHTS)
    if assets is not None:
        (folder / ASSETS).mkdir()
        for name in ASSET_FILES:
            if (assets / name).is_file():
                shutil.copyfile(assets / name, folder / ASSETS / name)
    for place in (assets, source.path, source.path.resolve().parent):
        if place is not None and (place / GEOMETRY).is_file():
            shutil.copyfile(place / GEOMETRY, folder / GEOMETRY)
            break


def _processor(
    source: Folder, folder: Path, name: str, normaliser: str, features: Mapping[str, Any], vectors: Vectors
) -> None:
    """Write a processor file with the statistics of the data set."""
    content = source.json(name, "a checkpoint of lerobot before 0.4 has none: convert it with lerobot's own script")
    for index, step in enumerate(content.get("steps", [])):
        options = step.setdefault("config", {})
        if step.get("registry_name") == "rename_observations_processor":
            options["rename_map"] = {}
        if step.get("registry_name") == normaliser:
            options["features"] = dict(features)
            step["state_file"] = f"{Path(name).stem}_step_{index}_{normaliser}.safetensors"
            save_file(statistics_of(vectors), folder / step["state_file"])
    _write(folder / name, content)


def statistics_of(vectors: Vectors) -> dict[str, npt.NDArray[np.float32]]:
    """Return the statistics of all vectors as lerobot stores them, by "feature.statistic"."""
    found = {}
    for feature, rows in vectors.items():
        for statistic, values in vector_statistics(rows).items():
            array = np.array(values, dtype=np.float32)
            found[f"{feature}.{statistic}"] = (
                np.where(array < UNMOVED, np.float32(1.0), array) if statistic == "std" else array
            )
    return found


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; where the file system has no such thing it is copied."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
