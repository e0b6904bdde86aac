"""The compact network over whole episodes in one pass: what is seen is what its cache would hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kv_cache.gate import Gate
from kv_cache.one_pass import Asked, Fate, LayerMemory, remember
from kv_cache.policies.base import Sizes
from kv_cache.sampling import chunks_of
from kv_cache.training.draws import Draw
from streaming_vla.policies.compact.experts import Expert, LayerCache, Moment
from streaming_vla.policies.compact.layers import Layer
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.training.losses import block_mask


@dataclass(frozen=True)
class Passed:
    """What a pass over B episodes of T observations leaves behind.

    Args:
        logits: [B, n], of the gate.
        fate: of the chunks.
        memory: of every layer.
        ends: [B, T, width], the last token of every observation as the last layer projects it.
    """

    logits: Tensor
    fate: Fate
    memory: list[LayerMemory]
    ends: Tensor


class GatedNetwork:
    """Runs a CompactModel over episodes; only what its cache would hold is seen.

    Args:
        model: the policy.
        gate: made for its cache.
        sizes: of the cache; `recent` at least one observation.

    Raises:
        ValueError: an observation does not fit into the window.
    """

    def __init__(self, model: CompactModel, gate: Gate, sizes: Sizes) -> None:
        block = model.config.tokens_per_observation
        if sizes.recent < block:
            raise ValueError(f"gate: recent is {sizes.recent} tokens, below the {block} of an observation")
        self.model, self.gate, self.sizes = model, gate, sizes
        self._spec, self._block = model.config.cache, block

    def run(self, tokens: Tensor, draw: Draw) -> Passed:
        """Run the trunk.

        Args:
            tokens: [B, T * tokens_per_observation, width].
            draw: says which chunks stay.
        """
        sizes = self.sizes
        batch, total, _ = tokens.shape
        logits, fate, memory = tokens.new_zeros(batch, 0), Fate.of(tokens.new_zeros(batch, 0, dtype=torch.bool)), []
        asked: Asked | None = None
        for number, layer in enumerate(self.model.trunk_layers):
            queries, keys, values = layer.heads_of(tokens)
            old_keys, old_values = chunks_of(keys, sizes), chunks_of(values, sizes)
            if asked is None:
                if old_keys.shape[2]:
                    logits, _ = self.gate(old_keys, self.gate.start(batch, tokens.device))
                    fate = draw(logits)
                held = torch.arange(0, total, self._block)
                asked = self._asked(held, self._block, torch.arange(self._block), total, fate)
            one = slice(number, number + 1)
            made = self.gate.summary(old_keys.unsqueeze(1), old_values.unsqueeze(1), one)
            memory.append(remember(keys, values, (made[0][:, 0], made[1][:, 0]), fate, sizes, self._spec))
            if isinstance(layer, Layer):
                seen = asked.attend(queries.unflatten(2, (-1, self._block)), memory[-1])
                tokens = layer.finish(tokens, _joined(seen))
        return Passed(logits, fate, memory, tokens[:, self._block - 1 :: self._block])

    def answer(
        self, expert: Expert, tokens: Tensor, passed: Passed, acting: Tensor, places: Tensor, own: Tensor
    ) -> Tensor:
        """Let an expert answer behind some observations.

        Args:
            tokens: [B, T', Q, width], embedded.
            acting: [T'], numbers of the observations.
            places: [Q], of an observation's tokens behind it.
            own: [Q, Q] bool, who of them sees whom.

        Returns:
            [B, T' * Q, A].
        """
        count = tokens.shape[2]
        tokens, total = tokens.flatten(1, 2), passed.memory[0].keys.shape[2]
        asked = self._asked((acting + 1) * self._block, 0, places, total, passed.fate)
        for layer, memory in zip(expert.layers, passed.memory, strict=True):
            queries, keys, values = (part.unflatten(2, (-1, count)) for part in layer.heads_of(tokens))
            tokens = layer.finish(tokens, _joined(asked.attend(queries, memory, (keys, values, own))))
        answer: Tensor = expert.head(tokens)
        return answer

    def flow(self, passed: Passed, acting: Tensor, moment: Moment) -> Tensor:
        """Answer moments [B, T' * D], D for each of the observations `acting` [T']."""
        count = moment.age.shape[1] // len(acting)
        tokens = self.model.flow.embed(moment).unflatten(1, (-1, count))
        alone = torch.eye(count, dtype=torch.bool, device=tokens.device)
        places = torch.zeros(count, device=tokens.device)
        return self.answer(self.model.flow, tokens, passed, acting, places, alone)

    def chunk(self, passed: Passed, acting: Tensor, noisy: Tensor, time: Tensor, begin: Moment) -> Tensor:
        """Answer chunks [B, T', H, A] at times [B, T'], one for each of `acting` [T'], that begin at [B, T']."""
        horizon = noisy.shape[2]
        tokens = self.model.chunk.embed(noisy, time, begin)
        every = torch.ones(horizon, horizon, dtype=torch.bool, device=tokens.device)
        places = torch.arange(horizon, device=tokens.device)
        return self.answer(self.model.chunk, tokens, passed, acting, places, every).view(noisy.shape)

    def _asked(self, held: Tensor, own: int, places: Tensor, total: int, fate: Fate) -> Asked:
        held = held.to(fate.keep.device)
        return Asked(held, own, places.to(held.device), total, fate, self.sizes, self._spec)


class FullNetwork:
    """A CompactModel that sees all of an episode: what a gated one is measured against, and must not forget."""

    def __init__(self, model: CompactModel) -> None:
        self.model, self._block = model, model.config.tokens_per_observation

    def run(self, tokens: Tensor, draw: Draw) -> Passed:
        """Run the trunk over tokens [B, T * tokens_per_observation, width]; there is no chunk whose fate is drawn."""
        batch, total, _ = tokens.shape
        nothing = tokens.new_zeros(batch, 0)
        seen = _past(total // self._block, tokens.device).unsqueeze(0)
        cache, last = self.model.trunk(tokens, block_mask(seen, self._block, self._block).expand(batch, -1, -1, -1))
        memory = [LayerMemory(keys, values, keys[:, :, :0], values[:, :, :0]) for keys, values in cache]
        return Passed(nothing, Fate.of(nothing.bool()), memory, last[:, self._block - 1 :: self._block])

    def flow(self, passed: Passed, acting: Tensor, moment: Moment) -> Tensor:
        """Answer moments [B, T' * D], D for each of the observations `acting` [T']."""
        count = moment.age.shape[1] // len(acting)
        cache, behind, mask = self._read(passed, acting, count)
        answer: Tensor = self.model.flow(moment, cache, behind.repeat_interleave(count), mask)
        return answer

    def chunk(self, passed: Passed, acting: Tensor, noisy: Tensor, time: Tensor, begin: Moment) -> Tensor:
        """Answer chunks [B, T', H, A] at times [B, T'], one for each of `acting` [T'], that begin at [B, T']."""
        answer: Tensor = self.model.chunk(noisy, time, begin, *self._read(passed, acting, noisy.shape[2]))
        return answer

    def _read(self, passed: Passed, acting: Tensor, rows: int) -> tuple[LayerCache, Tensor, Tensor]:
        """Return keys and values, the places behind the observations [T'], and what their `rows` queries each see."""
        seen = _past(passed.ends.shape[1], acting.device)[acting].unsqueeze(0)
        mask = block_mask(seen, rows, self._block).expand(len(passed.ends), -1, -1, -1)
        return [(layer.keys, layer.values) for layer in passed.memory], (acting + 1) * self._block, mask


Network = GatedNetwork | FullNetwork


def _past(length: int, device: torch.device) -> Tensor:
    """Return which of `length` observations each one sees, [T, T] bool."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def _joined(seen: Tensor) -> Tensor:
    """From heads of groups [B, H, S, Q, d] to tokens [B, S * Q, H * d]."""
    return seen.flatten(2, 3).transpose(1, 2).flatten(2)
