"""A checkpoint that lerobot computes, as a policy of chunks: every type that the installed lerobot knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from streaming_vla.engine.options import ModelOptions
from streaming_vla.policies.blocking import BlockingPolicy, Images
from streaming_vla.policies.chunk import ChunkAsStream, ChunkOptions
from streaming_vla.policies.contract import PolicySpec
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot.action_data import ActionData, relative_dimensions
from streaming_vla.policies.lerobot.config import ACTION, STATE
from streaming_vla.policies.lerobot.normalisation import Statistics, read_statistics
from streaming_vla.policies.lerobot.pictures import without_letterbox
from streaming_vla.policies.lerobot.specs import make_layout
from streaming_vla.policies.lerobot.tensor_archive import TensorArchive
from streaming_vla.serving.lerobot.process import LerobotProcess

NOT_TAKEN = (
    "model_dtype",
    "model_compile",
    "model_cameras",
    "model_denoise_steps",
    "model_remote",
    "model_key_file",
    "saliency_model",
)
TIMEOUT_S = 600.0  # the server's clients have deadlines of their own


def load_by_lerobot(options: ModelOptions, python: Path) -> ChunkAsStream:
    """Return the policy of a checkpoint of any type.

    Args:
        options: `model` is lerobot:/folder; what lerobot itself decides must not be set.
        python: interpreter of the environment that has lerobot.

    Raises:
        CheckpointError: lerobot cannot load it or fails with a picture of zeros, it is fed or gives what has no place
            here, or an option is set that lerobot has no use for.
    """
    scheme, _, address = options.model.partition(":")
    if scheme != "lerobot":
        raise CheckpointError(f"--python is given, model is '{options.model}': it is for lerobot:/folder")
    unused = [name for name in NOT_TAKEN if getattr(options, name) != type(options).declared[name].default]
    if unused:
        raise CheckpointError(f"{' and '.join(unused)} cannot be set with --python: lerobot decides it itself")
    folder = Path(address.removeprefix("//")).expanduser()
    assets = Path(options.model_assets).expanduser() if options.model_assets else None
    lerobot = LerobotProcess(folder, python, options.model_device, assets)
    facts = lerobot.facts
    sizes: dict[str, tuple[int, int]] = {name: (size[0], size[1]) for name, size in facts["cameras"].items()}
    if not sizes or not facts["state"]:
        raise CheckpointError(f"checkpoint '{folder}': a policy of type {facts['type']} without pictures or a state")
    features = {feature.rsplit(".", 1)[-1]: feature for feature in sizes}
    if len(features) < len(sizes):
        raise CheckpointError(f"checkpoint '{folder}': cameras {', '.join(sizes)} end in the same name")
    side = max(max(size) for size in sizes.values())
    # asked once before the first robot: it says how many rows a chunk has, and pays for what compiles
    blank = {feature: np.zeros((*size, 3), np.uint8) for feature, size in sizes.items()}
    rows = lerobot.ask(blank, np.zeros(facts["state"], np.float32), "warm up").shape[0]
    names = tuple(f"action_{number}" for number in range(facts["action"]))
    spec = PolicySpec(
        name=folder.name,
        cameras=tuple(features),
        image_size=side,
        state_size=facts["state"],
        layout=make_layout(names, (options.model_action_absolute,) * len(names), _data(folder, facts)),
        execution_horizon=min(facts["n_action_steps"], rows),
        trained_horizon=rows,
        image_fit="letterbox",
    )

    def ask(images: Images, state: npt.NDArray[np.float32], instruction: str) -> npt.ArrayLike:
        pictures = {features[camera]: _sized(picture, *sizes[features[camera]]) for camera, picture in images.items()}
        return lerobot.ask(pictures, state, instruction)

    chunk = ChunkOptions(execution_horizon=options.model_execution_horizon)
    return ChunkAsStream(BlockingPolicy(ask, spec, TIMEOUT_S), chunk)


def _sized(picture: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return a camera's picture without its letterbox in the size that the policy was trained on."""
    shown = without_letterbox(picture, height, width)
    if shown.shape[:2] == (height, width):
        return shown
    return np.asarray(cv2.resize(shown, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _data(folder: Path, facts: Mapping[str, Any]) -> ActionData:
    count = facts["action"]
    relative = np.zeros(count, dtype=bool)
    if facts["relative"]:
        relative = relative_dimensions(count, facts["action_names"], facts["relative_exclude"])
    return ActionData(
        _statistics(folder, "policy_postprocessor", ACTION, count),
        _statistics(folder, "policy_preprocessor", STATE, facts["state"]),
        relative,
    )


def _statistics(folder: Path, processor: str, feature: str, size: int) -> Statistics:
    """Return the statistics of a feature that a processor of the checkpoint has; empty: none."""
    for file in sorted(folder.glob(f"{processor}*.safetensors")):
        found = read_statistics(TensorArchive(file, f"'{file.name}' of '{folder}'"), feature, (size,))
        if found:
            return found
    return {}
