"""The observation predictor: what the base camera's tokens become when actions are executed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot.tensor_archive import TensorArchive
from streaming_vla.policies.lerobot.weights import Names

HEADS = 16


@dataclass(frozen=True)
class PredictorSizes:
    """What a predictor is made of, as its tensors' shapes tell.

    Args:
        tokens: width of the tokens it reads and changes.
        width: of its blocks; a light one projects to a smaller one and back.
        light: it has these projections.
        layers, mlp, condition, actions: sizes of the rest.
    """

    tokens: int
    width: int
    light: bool
    layers: int
    mlp: int
    condition: int
    actions: int


class _ConditionalNorm(nn.Module):
    def __init__(self, sizes: PredictorSizes) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(sizes.width)
        self.cond_to_affine = nn.Sequential(nn.Linear(sizes.condition, 2 * sizes.width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gamma, beta = functional.relu(self.cond_to_affine(condition)).chunk(2, dim=-1)
        normed: Tensor = self.norm(x)
        return normed * (1.0 + gamma) + beta


class _Block(nn.Module):
    def __init__(self, sizes: PredictorSizes) -> None:
        super().__init__()
        self.qkv_proj = nn.Linear(sizes.width, 3 * sizes.width)
        self.out_proj = nn.Linear(sizes.width, sizes.width)
        self.ln1, self.ln2 = _ConditionalNorm(sizes), _ConditionalNorm(sizes)
        self.mlp = nn.Sequential(nn.Linear(sizes.width, sizes.mlp), nn.GELU(), nn.Linear(sizes.mlp, sizes.width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        heads = self.qkv_proj(x).unflatten(-1, (3, HEADS, -1)).permute(1, 2, 0, 3)  # [3, heads, T, d]
        attended = functional.scaled_dot_product_attention(*(each.unsqueeze(0) for each in heads))
        x = self.ln1(x + self.out_proj(attended[0].transpose(0, 1).flatten(1)), condition)
        out: Tensor = self.ln2(x + self.mlp(x), condition)
        return out


class Predictor(nn.Module):
    """The network; names are those of its file."""

    def __init__(self, sizes: PredictorSizes) -> None:
        super().__init__()
        self._sizes = sizes
        self.action_proj = nn.Sequential(nn.Linear(sizes.actions, sizes.condition * sizes.layers))
        self.blocks = nn.ModuleList(_Block(sizes) for _ in range(sizes.layers))
        if sizes.light:
            self.input_proj = nn.Sequential(
                nn.Linear(sizes.tokens, sizes.width),
                nn.LayerNorm(sizes.width),
                nn.SiLU(),
                nn.Linear(sizes.width, sizes.width),
            )
            self.out_proj = nn.Linear(sizes.width, sizes.tokens)

    def forward(self, tokens: Tensor, pending: Tensor) -> Tensor:
        """Return the change of tokens [T, width of tokens] by summed raw actions [6], to be added to them."""
        sizes, dtype = self._sizes, next(self.parameters()).dtype
        conditions = functional.relu(self.action_proj(pending.to(dtype))).view(sizes.layers, sizes.condition)
        x = tokens.to(dtype)
        if sizes.light:
            x = self.input_proj(x)
        for block, condition in zip(self.blocks, conditions, strict=True):
            x = block(x, condition)
        return self.out_proj(x) if sizes.light else x


def sizes_of(archive: TensorArchive) -> PredictorSizes:
    """Return the sizes that a file's tensors tell.

    Raises:
        CheckpointError: it holds no predictor.
    """
    names = ("blocks.0.qkv_proj.weight", "blocks.0.mlp.0.weight", "blocks.0.ln1.cond_to_affine.0.weight")
    try:
        qkv, mlp, affine = (archive.tensors[name].shape for name in names)
        light = "input_proj.0.weight" in archive.tensors
        tokens = archive.tensors["input_proj.0.weight"].shape[1] if light else qkv[1]
        rows, actions = archive.tensors["action_proj.0.weight"].shape
        sizes = PredictorSizes(tokens, qkv[1], light, rows // affine[1], mlp[0], affine[1], actions)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{archive.who} holds no observation predictor: expected tensors like {', '.join(names)}"
        ) from error
    if sizes.width % HEADS or not 1 <= sizes.layers <= 256 or rows != sizes.layers * sizes.condition:
        raise CheckpointError(
            f"{archive.who} tells {sizes.layers} layers of width {sizes.width}, expected at most 256 and a multiple of "
            f"{HEADS}"
        )
    return sizes


def names_of(predictor: Predictor) -> Names:
    """Return how the network's tensors are called in a file: as in the network."""
    return Names({name: name for name, _ in predictor.named_children()})


def change(predictor: Predictor, tokens: Tensor, pending: Tensor) -> Tensor:
    """Return the change in the tokens' own number format."""
    with torch.inference_mode():
        moved: Tensor = predictor(tokens, pending)
        return moved.to(tokens.dtype)
