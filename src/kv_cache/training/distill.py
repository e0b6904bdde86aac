"""Self-distillation of a gate for a Hugging Face decoder: no labels, and nothing of the model changes.

The teacher is the model with its full history. The student is the same model over the same tokens, in pieces, where
each piece sees what a compressed cache would hold. Needs `transformers`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kv_cache.gate import Gate
from kv_cache.huggingface_spec import rotation, spec_of
from kv_cache.one_pass import Asked, Fate, remember
from kv_cache.policies.base import Sizes
from kv_cache.rotary import apply_rotary
from kv_cache.sampling import chunk_count, chunks_of
from kv_cache.training.attention import attending, causal
from kv_cache.training.draws import Draw

TOP = 64  # of the teacher's next tokens that are told apart; all others are one more


@dataclass(frozen=True)
class Lesson:
    """What the teacher says of a sequence of T tokens.

    Args:
        tokens: [1, T].
        keys: [1, Hkv, T, d], of the layer that the gate reads, before rotation.
        likely: [T, TOP], its most likely next tokens.
        odds: [T, TOP], log-probabilities of these.
    """

    tokens: Tensor
    keys: Tensor
    likely: Tensor
    odds: Tensor


class Distiller:
    """Teacher and student.

    Args:
        model: a decoder that spec_of accepts; it is frozen.
        gate: for its cache.
        sizes: of the cache; training has no budget.
        piece: tokens that come at a time.

    Raises:
        ValueError: see spec_of.
    """

    def __init__(self, model: PreTrainedModel, gate: Gate, sizes: Sizes, piece: int) -> None:
        self.model, self.gate, self.sizes, self.piece = model.eval().requires_grad_(False), gate, sizes, piece
        self.spec = spec_of(model)

    @torch.no_grad()
    def teach(self, tokens: Tensor) -> Lesson:
        """Run the model over tokens [1, T] with its full history."""
        kept: list[Tensor] = []

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            if layer == self.gate.config.layer:
                kept.append(self._unrotated(keys))
            return causal(queries, keys, values)

        odds = self._run(tokens, attend).log_softmax(dim=-1)
        top = odds.topk(min(TOP, odds.shape[-1] - 1), dim=-1)
        return Lesson(tokens, kept[0], top.indices, top.values)

    def judge(self, lesson: Lesson) -> Tensor:
        """Return the gate's logits [1, n] of the chunks that leave the window."""
        judged: tuple[Tensor, Tensor] = self.gate(
            chunks_of(lesson.keys, self.sizes), self.gate.start(1, lesson.keys.device)
        )
        return judged[0]

    def learn(self, lesson: Lesson, draw: Draw) -> tuple[Tensor, Tensor, Fate]:
        """Run the student.

        Returns:
            KL [T] of the teacher's next tokens against the student's, the gate's logits [1, n], and the chunks' fate.
        """
        logits = self.judge(lesson)
        fate = draw(logits)
        if fate.weight.requires_grad:
            fate.weight.register_hook(self._without_age(lesson.tokens.shape[1]))
        asked: list[Asked] = []  # made once for all layers
        total = lesson.tokens.shape[1]
        held, places = torch.arange(0, total, self.piece), torch.arange(self.piece)
        own = torch.ones(self.piece, self.piece, dtype=torch.bool).tril()

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            if not asked:
                asked.append(Asked(held, 0, places, total, fate, self.sizes, self.spec))
            queries, keys = self._unrotated(queries), self._unrotated(keys)
            old = chunks_of(keys, self.sizes).unsqueeze(1), chunks_of(values, self.sizes).unsqueeze(1)
            made = self.gate.summary(*old, slice(layer, layer + 1))
            memory = remember(keys, values, (made[0][:, 0], made[1][:, 0]), fate, self.sizes, self.spec)
            queries, keys, values = (each.unflatten(2, (-1, self.piece)) for each in (queries, keys, values))
            return asked[0].attend(queries, memory, (keys, values, own)).flatten(2, 3)

        found = self._run(lesson.tokens, attend).log_softmax(dim=-1)
        return divergence(lesson, found), logits, fate

    def _run(self, tokens: Tensor, attend: object) -> Tensor:
        with attending(self.model, attend):  # type: ignore[arg-type]
            logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits[0].float()
        return logits

    def _unrotated(self, keys: Tensor) -> Tensor:
        cos, sin = rotation(self.spec, torch.arange(keys.shape[2], device=keys.device))
        return apply_rotary(keys, cos, -sin)

    def _without_age(self, total: int) -> object:
        """Return what takes age out of a gradient [1, n]: a chunk that left early is missed by more queries."""
        left = torch.arange(chunk_count(total, self.sizes)) + 1
        first = (self.sizes.sinks + self.sizes.recent + left * self.sizes.chunk + self.piece - 1) // self.piece
        asks = (total - first * self.piece).clamp(min=self.piece)
        return lambda gradient: gradient * (asks.float().mean() / asks)


def divergence(lesson: Lesson, found: Tensor) -> Tensor:
    """Return KL [T] of the teacher's next tokens against log-probabilities [T, V], all but the likely ones as one."""
    odds = lesson.odds.float()
    here = found.gather(1, lesson.likely)
    rest, rest_here = (_log_rest(each) for each in (odds, here))
    return (odds.exp() * (odds - here)).sum(dim=-1) + rest.exp() * (rest - rest_here)


def _log_rest(odds: Tensor) -> Tensor:
    return (1.0 - odds.exp().sum(dim=-1)).clamp(min=1e-6).log()
