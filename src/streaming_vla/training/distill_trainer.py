"""Trains one gate for a whole decoder by self-distillation: the loss is what the model says differently."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kv_cache.gate import Gate, GateConfig
from kv_cache.gate_file import save_gate
from kv_cache.one_pass import Fate
from kv_cache.sampling import keep_penalty, ramp, threshold_for_count
from kv_cache.spec import CacheSpec
from kv_cache.training.distill import Distiller, Lesson
from kv_cache.training.draws import Draw, check_apart, draw_hard, keep_from, keep_none
from streaming_vla.training.distill_run import Distillation
from streaming_vla.training.losses import check_finite

Rank = Callable[[Tensor], Tensor]  # from logits [B, n] to what is kept first
RANKS: dict[str, Rank] = {
    "oldest": lambda logits: -torch.arange(logits.shape[1]).expand_as(logits),
    "newest": lambda logits: torch.arange(logits.shape[1]).expand_as(logits),
    "random": lambda logits: torch.rand(logits.shape, generator=torch.Generator().manual_seed(0)),
}


class ModelGateTrainer(Distillation):
    """One decision for all layers and heads, as a SessionCache and a CompressedCache take it."""

    def make_gate(self, spec: CacheSpec) -> Gate:
        """Return a gate that keeps everything."""
        gate = Gate(GateConfig.of(spec, **self.run.plan.gate.model_dump()))
        self.distiller = Distiller(self.model, gate, self.run.plan.cache.sizes, self.run.plan.piece)
        return gate

    def teach(self, tokens: Tensor, number: int) -> dict[str, Tensor]:
        """Return the keys that the gate reads and the likely next tokens."""
        taught = self.distiller.teach(tokens)
        return {"keys": taught.keys.half(), "likely": taught.likely.int(), "odds": taught.odds.half()}

    def advance(self) -> dict[str, float]:
        """Take one step; return the parts of its loss. What is drawn follows from the seed and the step's number."""
        learning = self.run.plan.learning
        generator = torch.Generator().manual_seed(self.run.seed + 104_729 * self.step)
        penalty = learning.penalty * ramp(self.step, learning.steps)
        self._optimizer.zero_grad(set_to_none=True)
        parts = {"kl": 0.0, "kept": 0.0, "spread": 0.0}
        for number in torch.randint(len(self.learned), (learning.batch,), generator=generator).tolist():
            divergence, logits, fate = self.distiller.learn(self._lesson(self.learned[number]), draw_hard(generator))
            loss = divergence.mean() + penalty * keep_penalty(logits, learning.count)
            check_finite(loss, self.step)
            (loss / learning.batch).backward()
            figures = {"kl": divergence.mean(), "kept": fate.keep.float().mean(), "spread": logits.std()}
            for name, value in figures.items():
                parts[name] += float(value.detach()) / learning.batch
        self.step_gate()
        return parts

    def finish(self, output: Path) -> dict[str, Any]:
        """Calibrate the threshold, write the gate.

        Returns:
            The threshold, and KL and kept chunks of the gate, of no chunk, and of as many oldest, newest and random.

        Raises:
            ValueError: the gate judges all chunks alike.
        """
        learning, lessons = self.run.plan.learning, [self._lesson(number) for number in self.held_out]
        with torch.inference_mode():
            scores = torch.cat([self.distiller.judge(lesson).sigmoid() for lesson in lessons])
            check_apart(scores)
            threshold = threshold_for_count(scores, min(learning.count, scores.shape[1] / 2))
            kept = int((scores >= threshold).sum(dim=1).float().mean().round())
            draws: dict[str, Draw] = {"gated": keep_from(threshold), "none": keep_none}
            draws |= {name: keep_ranked(rank, kept) for name, rank in RANKS.items()}
            caches = {name: self._validate(draw, lessons) for name, draw in draws.items()}
        figures = {"threshold": threshold, "caches": caches}
        save_gate(output, self.distiller.gate, threshold, self._facts | {"validation": figures})
        return figures

    def _lesson(self, number: int) -> Lesson:
        there = self.lesson(number)
        keys, odds = there["keys"].to(self.spec.dtype), there["odds"].float()
        return Lesson(self.tokens(number), keys, there["likely"].long(), odds)

    def _validate(self, draw: Draw, lessons: list[Lesson]) -> dict[str, float]:
        found = [self.distiller.learn(lesson, draw) for lesson in lessons]
        return {
            "kl": math.fsum(float(divergence.mean()) for divergence, _, _ in found) / len(found),
            "kept": math.fsum(float(fate.keep.sum()) for _, _, fate in found) / len(found),
        }


def keep_ranked(rank: Rank, count: int) -> Draw:
    """Return what keeps the `count` chunks that rank first."""

    def keep(logits: Tensor) -> Fate:
        chosen = rank(logits).topk(min(count, logits.shape[1]), dim=1).indices
        return Fate.of(torch.zeros_like(logits, dtype=torch.bool).scatter(1, chosen, True))

    return keep
