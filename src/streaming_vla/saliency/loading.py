"""Look-ahead predictors on disk: safetensors with the policy that they belong to, which is checked.

A predictor reads the tokens of one encoder. Those of another encoder have the same shape and mean something else, so
the file holds a hash of the encoder's weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from kv_cache.tensor_file import TensorFormat
from streaming_vla.policies.compact.checkpoint import load_policy
from streaming_vla.policies.compact.policy import CompactPolicy
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.models import find_model, find_part
from streaming_vla.saliency.predictor import ChangePredictor

FORMAT = TensorFormat(
    kind="saliency model",
    name="streaming_vla.saliency.1",
    maximum_bytes=64 * 1024**2,
    origin="train one with 'streaming-vla train saliency'",
    error=CheckpointError,
)
LARGEST_SIZE = 65_536  # of tokens, features, actions and width


@dataclass(frozen=True)
class Sizes:
    """Arguments of a ChangePredictor.

    Raises:
        ValueError: a size out of range.
    """

    tokens: int
    features: int
    actions: int
    width: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST_SIZE:
                raise ValueError(f"{name} is {value!r}, expected a whole number from 1 to {LARGEST_SIZE}")

    def make(self) -> ChangePredictor:
        """Return an untrained predictor."""
        return ChangePredictor(self.tokens, self.features, self.actions, self.width)


def sizes_for(policy: CompactPolicy, width: int) -> Sizes:
    """Return the sizes of a predictor for the base camera of `policy`."""
    place = policy.base_encoder.place
    return Sizes(place.shape[0], place.shape[1], policy.spec.layout.size, width)


def encoder_hash(encoder: nn.Module) -> str:
    """Return what names the weights of an encoder: SHA-256 over names, shapes and values."""
    digest = sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_predictor(
    path: Path, predictor: ChangePredictor, sizes: Sizes, policy: CompactPolicy, training: Mapping[str, object]
) -> None:
    """Write a predictor for `policy`, and how it was trained (plain values)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().float().contiguous() for name, value in predictor.state_dict().items()}
    owner = {"name": policy.spec.name, "encoder_sha256": encoder_hash(policy.base_encoder)}
    metadata = {
        "format": FORMAT.name,
        "sizes": json.dumps(vars(sizes)),
        "policy": json.dumps(owner),
        "training": json.dumps(dict(training)),
    }
    save_file(tensors, path, metadata)


def load_predictor(path: Path, policy: CompactPolicy) -> ChangePredictor:
    """Load a predictor and check all of it.

    Raises:
        CheckpointError: missing, too large, no safetensors, another format, of another policy, or tensors that do not
            fit.
    """
    with FORMAT.open(path) as file:
        owner = json.loads(file.metadata["policy"])
        if owner["encoder_sha256"] != encoder_hash(policy.base_encoder):
            raise CheckpointError(
                f"{file.who} belongs to a policy {owner['name']} with other weights than {policy.spec.name} has: "
                "train it again with 'streaming-vla train saliency'"
            )
        sizes = Sizes(**json.loads(file.metadata["sizes"]))
        wanted = sizes_for(policy, sizes.width)
        if sizes != wanted:
            raise CheckpointError(f"{file.who} has {sizes}, policy {policy.spec.name} needs {wanted}")
        predictor = file.build(sizes.make)
    return predictor.eval().requires_grad_(False)


def load_with_predictor(model: str, saliency_model: str) -> CompactPolicy:
    """Load the policy `model` with its look-ahead predictor.

    Args:
        model: name of a shipped model, or path.
        saliency_model: the same of the predictor; "auto": the one of the policy's name and "_saliency", none when there
            is no such file; empty: none.

    Raises:
        CheckpointError: a file cannot be used, or they do not belong together.
    """
    policy = load_policy(find_model(model))
    own = find_part(saliency_model, model, "saliency")
    policy.predictor = None if own is None else load_predictor(own, policy)
    return policy
