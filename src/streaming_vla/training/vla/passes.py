"""Whole batches through a VLA's network, with gradients: what inference does slice by slice, and one at a time.

The layers are the network's own. Observations of different length are padded behind their end, where nobody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from streaming_vla.policies.lerobot.layers import DecoderLayer, RMSNorm, Rotation, attend, rotated
from streaming_vla.policies.lerobot.vla_policy import VlaNetwork


class TrainedNetwork(VlaNetwork, Protocol):
    """What training calls of SmolVLA's and pi0.5's networks besides; see there."""

    causal: bool
    expert_norm: RMSNorm
    action_out_proj: torch.nn.Linear

    @property
    def expert(self) -> Sequence[DecoderLayer]:
        """Layers of the action expert."""

    def pictures(self, pixels: Tensor) -> Tensor:
        """Return the tokens of pictures."""

    def suffix(self, noisy: Tensor, time: float | Tensor) -> Tensor:
        """Return the expert's tokens."""

    def condition(self, time: float | Tensor, device: torch.device) -> Tensor | None:
        """Return what adaptive norms are given; None: there are none."""


class Context(NamedTuple):
    """What the expert reads of B observations.

    Args:
        keys, values: of each layer, [B, Hkv, P, d], keys rotated.
        lengths: tokens of each observation, [B].
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    lengths: Tensor

    @property
    def seen(self) -> Tensor:
        """[B, 1, 1, P], True for tokens that are there."""
        places = torch.arange(self.keys[0].shape[2], device=self.lengths.device)
        return (places < self.lengths.unsqueeze(1)).unsqueeze(1).unsqueeze(1)


class Passes:
    """Passes of a network.

    Args:
        network: of a loaded policy.
        twice: layers are computed again for the gradient instead of being kept.
    """

    def __init__(self, network: TrainedNetwork, twice: bool = False) -> None:
        self.network = network
        self._twice = twice

    def read(self, pixels: Tensor, words: Sequence[Tensor], states: Tensor) -> Context:
        """Return B observations as the expert reads them.

        Args:
            pixels: [B, cameras, 3, S, S] from -1 to 1.
            words: tokens of each instruction, [n].
            states: [B, padded], normalised.
        """
        network = self.network
        count, cameras = pixels.shape[:2]
        tokens = self._run(network.pictures, pixels.flatten(0, 1)).unflatten(0, (count, cameras))
        rows = [
            network.prefix(list(of_one), said, state) for of_one, said, state in zip(tokens, words, states, strict=True)
        ]
        lengths = torch.tensor([row.shape[1] for row, _ in rows], device=pixels.device)
        longest = int(lengths.max())
        x = torch.nn.utils.rnn.pad_sequence([row[0] for row, _ in rows], batch_first=True)
        mask = torch.zeros(count, 1, longest, longest, dtype=torch.bool, device=pixels.device)
        for number, (row, sees) in enumerate(rows):
            own = row.shape[1]
            mask[number, 0, :own, :own] = True if sees is None else sees
            mask[number, 0, own:, 0] = True  # a row that sees nothing has no softmax
        rotation: Rotation | None = None
        keys_of, values_of = [], []
        for number, layer in enumerate(network.text):
            heads = layer.heads(x)
            rotation = rotation or Rotation.at(
                torch.arange(longest, device=x.device), heads.keys.shape[-1], network.rope_base
            )
            keys_of.append(rotated(heads.keys, rotation))
            values_of.append(heads.values)
            if number + 1 < len(network.text):  # of the last layer nothing but keys and values is read
                x = self._run(_text_layer, layer, x, rotation, mask)
        return Context(tuple(keys_of), tuple(values_of), lengths)

    def answer(self, noisy: Tensor, time: Tensor, context: Context, chunk: bool, added: Tensor | None = None) -> Tensor:
        """Return what the expert answers to T tokens of each observation, [B, T, max_action_dim].

        Args:
            noisy: [B, T, max_action_dim].
            time: [B, T].
            chunk: the tokens follow each other, as the rows of a chunk do; otherwise each stands alone.
            added: to the tokens, [B, T, width].
        """
        network = self.network
        count, device = noisy.shape[1], noisy.device
        with torch.autocast(device.type, enabled=False):  # what actions and times pass through stays precise
            tokens = network.suffix(noisy, time)
            tokens = tokens if added is None else tokens + added
            condition = network.condition(time, device)
        steps = torch.arange(count, device=device) if chunk else torch.zeros(count, dtype=torch.long, device=device)
        head_dim, base = context.keys[0].shape[-1], network.rope_base
        places = (context.lengths.unsqueeze(1) + steps).unsqueeze(1)  # [B, 1, T]
        turned, from_zero = Rotation.at(places, head_dim, base), Rotation.at(steps, head_dim, base)
        seen = context.seen.expand(-1, 1, count, -1)
        mask = torch.cat((seen, self._own(count, chunk, device).expand(len(seen), 1, -1, -1)), dim=-1)
        for layer, keys, values in zip(network.expert, context.keys, context.values, strict=True):
            if layer.crosses:
                tokens = self._run(_crossing_layer, layer, tokens, keys, values, from_zero, seen, condition)
            else:
                tokens = self._run(_expert_layer, layer, tokens, keys, values, turned, mask, condition)
        with torch.autocast(device.type, enabled=False):
            out, _ = network.expert_norm(tokens, condition)
            answer: Tensor = network.action_out_proj(out.float())
        return answer

    def _own(self, count: int, chunk: bool, device: torch.device) -> Tensor:
        """Return which of the tokens see which, [T, T]."""
        if not chunk:
            return torch.eye(count, dtype=torch.bool, device=device)
        every = torch.ones(count, count, dtype=torch.bool, device=device)
        return every.tril() if self.network.causal else every

    def _run(self, layer: Callable[..., Tensor], *given: Any) -> Tensor:
        if self._twice and torch.is_grad_enabled():
            made: Tensor = checkpoint(layer, *given, use_reentrant=False)
            return made
        return layer(*given)


def _text_layer(layer: DecoderLayer, x: Tensor, rotation: Rotation, mask: Tensor) -> Tensor:
    queries, keys, values, gate = layer.heads(x)
    return layer.finish(x, attend(rotated(queries, rotation), rotated(keys, rotation), values, mask), gate)


def _crossing_layer(
    layer: DecoderLayer,
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    rotation: Rotation,
    seen: Tensor,
    condition: Tensor | None,
) -> Tensor:
    queries, gate = layer.queries(x, condition)
    attended = attend(rotated(queries, rotation), *layer.project(keys, values), seen)
    return layer.finish(x, attended, gate, condition)


def _expert_layer(
    layer: DecoderLayer,
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    rotation: Rotation,
    mask: Tensor,
    condition: Tensor | None,
) -> Tensor:
    queries, own_keys, own_values, gate = layer.heads(x, condition)
    keys = torch.cat((keys.to(own_keys.dtype), rotated(own_keys, rotation)), dim=2)
    values = torch.cat((values.to(own_values.dtype), own_values), dim=2)
    return layer.finish(x, attend(rotated(queries, rotation), keys, values, mask), gate, condition)
