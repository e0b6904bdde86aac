"""The program that runs in lerobot's own environment: it loads a checkpoint by lerobot and answers through its pipes.

    python child.py FOLDER [--device cuda] [--assets FOLDER]

It needs nothing of the suite, so that lerobot's environment (Python 3.12, its own torch) stays as it is. Names of
lerobot are those of 0.6.1. A message is the length of its head, 4 bytes, the head in JSON, and the bytes of its arrays.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np

MOST_HEAD = 1 << 20
MOST_ARRAYS = 1 << 28  # bytes of a message


def write_message(stream: IO[bytes], told: dict[str, Any], arrays: dict[str, Any] | None = None) -> None:
    """Write a message: plain values, and numpy arrays by name."""
    parts = {name: np.ascontiguousarray(value) for name, value in (arrays or {}).items()}
    kinds = {name: [part.dtype.str, list(part.shape)] for name, part in parts.items()}
    head = json.dumps({"told": told, "arrays": kinds}).encode()
    stream.write(struct.pack(">I", len(head)) + head + b"".join(part.tobytes() for part in parts.values()))
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values and the arrays of a message.

    Raises:
        EOFError: the other end is gone.
        ValueError: it is too large, or no message.
    """
    (length,) = struct.unpack(">I", _exactly(stream, 4))
    if length > MOST_HEAD:
        raise ValueError(f"a message claims a head of {length} bytes, at most {MOST_HEAD} are taken")
    head = json.loads(_exactly(stream, length))
    arrays, left = {}, MOST_ARRAYS
    for name, (kind, shape) in head["arrays"].items():
        dtype = np.dtype(kind)
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        left -= size
        if dtype.kind not in "fiub" or size < 0 or left < 0:
            raise ValueError(f"a message claims an array of shape {shape} and type {kind}")
        arrays[name] = np.frombuffer(_exactly(stream, size), dtype).reshape(shape)
    return head["told"], arrays


class Policy:
    """A checkpoint as lerobot runs it.

    Args:
        folder: of the checkpoint.
        device: "cpu", "cuda".
        assets: folder of tokenizer and configuration of a vision-language model; "": the checkpoint's own names.

    Raises:
        ValueError: tensors are missing in the file: lerobot would leave those parts random.
    """

    def __init__(self, folder: str, device: str, assets: str) -> None:
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors

        config = PreTrainedConfig.from_pretrained(folder)
        config.device = device
        overrides: dict[str, Any] = {"device_processor": {"device": device}}
        if hasattr(config, "pretrained_backbone_weights"):  # they are in the file, and would be downloaded
            config.pretrained_backbone_weights = None
        if assets:
            overrides["tokenizer_processor"] = {"tokenizer_name": assets}
            if hasattr(config, "vlm_model_name"):
                config.vlm_model_name, config.load_vlm_weights = assets, False
        self._policy = get_policy_class(config.type).from_pretrained(folder, config=config).eval()
        _check_complete(self._policy.state_dict(), Path(folder) / "model.safetensors")
        self._before, self._after = make_pre_post_processors(
            config, pretrained_path=folder, preprocessor_overrides=overrides
        )
        self._config = config

    def facts(self) -> dict[str, Any]:
        """Return what the policy is fed and what it gives, as its configuration says."""
        config = self._config
        sizes = {name: list(each.shape) for name, each in {**config.input_features, **config.output_features}.items()}
        kinds = {name: str(getattr(each.type, "value", each.type)) for name, each in config.input_features.items()}
        return {
            "type": config.type,
            "cameras": {name: sizes[name][-2:] for name, kind in kinds.items() if kind == "VISUAL"},
            "state": next((sizes[name][0] for name, kind in kinds.items() if kind == "STATE"), 0),
            "action": sizes["action"][0],
            "n_action_steps": int(getattr(config, "n_action_steps", 1)),
            "relative": bool(getattr(config, "use_relative_actions", False)),
            "relative_exclude": list(getattr(config, "relative_exclude_joints", None) or []),
            "action_names": list(getattr(config, "action_feature_names", None) or []),
        }

    def chunk(self, pictures: dict[str, Any], state: Any, instruction: str) -> Any:
        """Return the actions [H, A] for one observation.

        A policy of several observations (diffusion) gets this one as often as it wants, as at the start of an episode.

        Args:
            pictures: [height, width, 3], uint8, by feature.
            state: [n], float32.
            instruction: plain text.
        """
        import torch

        seen: dict[str, Any] = {
            name: torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255.0
            for name, picture in pictures.items()
        }
        seen |= {"observation.state": torch.from_numpy(state.copy()), "task": instruction}
        with torch.inference_mode():
            batch = self._before(seen)
            if int(getattr(self._config, "n_obs_steps", 1)) == 1:
                rows = self._policy.predict_action_chunk(batch)
            else:
                self._policy.reset()
                steps = range(int(self._config.n_action_steps))
                rows = torch.stack([self._policy.select_action(dict(batch)) for _ in steps], dim=1)
            return self._after(rows)[0].float().cpu().numpy()


def main() -> None:
    """Load, say what was loaded, and answer until the other end is gone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--assets", default="")
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # lerobot prints
    questions = sys.stdin.buffer
    try:
        policy = Policy(arguments.folder, arguments.device, arguments.assets)
        write_message(answers, {"facts": policy.facts()})
    except Exception as error:
        write_message(answers, {"error": _sentence(error)})
        return
    while True:
        try:
            told, arrays = read_message(questions)
        except EOFError:
            return
        try:
            state = arrays.pop("observation.state")
            rows = policy.chunk(arrays, state, told["instruction"])
            write_message(answers, {}, {"actions": rows})
        except Exception as error:
            write_message(answers, {"error": _sentence(error)})


def _check_complete(state: dict[str, Any], file: Path) -> None:
    """Refuse a file that lacks tensors; those that are tied to one that is there may lack."""
    from safetensors import safe_open

    with safe_open(str(file), "pt") as opened:
        stored = set(opened.keys())
    there = {name for name in state if name in stored or name.removeprefix("model.") in stored}
    places = {state[name].data_ptr() for name in there}
    missing = sorted(name for name in state if name not in there and state[name].data_ptr() not in places)
    if missing:
        raise ValueError(f"{file} lacks {len(missing)} tensors, {missing[0]} first: lerobot would leave them random")


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


if __name__ == "__main__":
    main()
