"""Trains a gate for every key head by self-distillation: it foretells the attention that the model itself will pay."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kv_cache.gate_file import save_head_gate
from kv_cache.heads import HeadGate, HeadGateConfig
from kv_cache.spec import CacheSpec
from kv_cache.training.attention_targets import HeadLesson, teach_heads
from streaming_vla.training.distill_run import Distillation
from streaming_vla.training.losses import check_finite
from streaming_vla.training.schedule import cosine

DRAWN = 400  # tokens of a sequence that are kept for each moment of asking
READY = 48  # lessons in memory
SHARES = (4, 8)  # one token in so many is kept in validation


class HeadGateTrainer(Distillation):
    """A gate as a HeadwiseCache takes it. The teacher runs once over every sequence; a step costs next to nothing."""

    gate: HeadGate

    def make_gate(self, spec: CacheSpec) -> HeadGate:
        """Return a gate that knows how large keys and values are, from the first sequence, and nothing else."""
        plan = self.run.plan
        gate = HeadGate(HeadGateConfig.of(spec, hidden=plan.gate.hidden, longest=plan.length))
        self._ready = lru_cache(maxsize=READY)(self._read)
        lesson = self._ready(self.learned[0])
        with torch.no_grad():
            gate.mean.copy_(lesson.tokens.mean(dim=2, keepdim=True))
            gate.scale.copy_(lesson.tokens.std(dim=2, keepdim=True).clamp(min=1e-3))
            gate.ageing[..., 0].copy_(lesson.received.mean(dim=2))
        return gate

    def teach(self, tokens: Tensor, number: int) -> dict[str, Tensor]:
        """Return tokens as the heads see them, and the attention that they received."""
        random = torch.Generator().manual_seed(self.run.seed + number)
        taught = teach_heads(self.model, tokens, self.run.plan.cache.recent, DRAWN, random)
        return {"tokens": taught.tokens.half(), "received": taught.received.half(), "age": taught.age.int()}

    def advance(self) -> dict[str, float]:
        """Take one step; return the parts of its loss. What is drawn follows from the seed and the step's number."""
        learning = self.run.plan.learning
        generator = torch.Generator().manual_seed(self.run.seed + 104_729 * self.step)
        self._optimizer.param_groups[0]["lr"] = learning.gate_rate * cosine(self.step / learning.steps)
        drawn = torch.randint(len(self.learned), (learning.batch,), generator=generator).tolist()
        parts = []
        for number in drawn:
            lesson = self._ready(self.learned[number])
            some = torch.randperm(len(lesson.age), generator=generator)[: learning.tokens]
            parts.append(HeadLesson(lesson.tokens[:, :, some], lesson.received[:, :, some], lesson.age[some]))
        lesson = HeadLesson(
            *(torch.cat([getattr(p, n) for p in parts], dim=-2 if n == "tokens" else -1) for n in NAMES)
        )
        self._optimizer.zero_grad(set_to_none=True)
        loss = (self._foretold(lesson) - lesson.received).square().mean()
        check_finite(loss, self.step)
        loss.backward()
        self.step_gate()
        return {"squared_error": float(loss.detach())}

    @torch.inference_mode()
    def finish(self, output: Path) -> dict[str, Any]:
        """Judge the gate and write it.

        Returns:
            The share of the attention to older tokens that is kept with one token in four and in eight: by the gate, by
            age alone, at random, and by who knows the future.
        """
        kept: dict[str, dict[str, list[float]]] = {}
        for number in self.held_out:
            lesson = self._ready(number)
            ranks = {
                "gated": self._foretold(lesson),
                "newest": -lesson.age.expand_as(lesson.received).float(),
                "random": torch.rand(lesson.received.shape, generator=torch.Generator().manual_seed(number)),
                "future": lesson.received,
            }
            for share in SHARES:
                for name, rank in ranks.items():
                    kept.setdefault(f"one_in_{share}", {}).setdefault(name, []).append(caught(lesson, rank, share))
        figures = {share: {name: sum(all_) / len(all_) for name, all_ in of.items()} for share, of in kept.items()}
        save_head_gate(output, self.gate, self._facts | {"validation": figures})
        return figures

    def _foretold(self, lesson: HeadLesson) -> Tensor:
        foretold: Tensor = self.gate(lesson.tokens) + self.gate.of_age(lesson.age)
        return foretold

    def _read(self, number: int) -> HeadLesson:
        there = self.lesson(number)
        return HeadLesson(*(there[name].float() for name in NAMES))


NAMES = ("tokens", "received", "age")


def caught(lesson: HeadLesson, rank: Tensor, share: int) -> float:
    """Return the part of the attention received that the tokens which rank first hold, mean over heads and moments."""
    moments, parts = lesson.received.shape[-1] // 2, []
    for begin in (0, moments):
        received = lesson.received[..., begin : begin + moments].exp()
        best = rank[..., begin : begin + moments].topk(max(1, moments // share), dim=-1).indices
        parts.append(float((received.gather(-1, best).sum(dim=-1) / received.sum(dim=-1)).mean()))
    return sum(parts) / len(parts)
