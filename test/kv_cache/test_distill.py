"""Self-distillation: the student is what the cache does online, and the teacher is the model itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import ids, llama, small, stream

from kv_cache import Gate, GateConfig, Gated
from kv_cache.huggingface import CompressedCache, spec_of
from kv_cache.policies.base import Sizes
from kv_cache.training.distill import Distiller
from kv_cache.training.draws import draw_hard, keep_all, keep_from, keep_none

PIECE, TOTAL = 8, 64


def sharp() -> Any:
    """A model in which it matters what is attended to."""
    torch.manual_seed(1)
    return llama(initializer_range=0.4).eval()


def distiller(model: Any, sizes: Sizes, summary: str = "mean", layer: int = 0) -> Distiller:
    """Return one whose gate keeps some chunks and not others."""
    torch.manual_seed(0)
    gate = Gate(GateConfig.of(spec_of(model), width=8, hidden=8, summary=summary, layer=layer))
    with torch.no_grad():
        gate.head.weight.mul_(30.0)
        gate.head.bias.zero_()
    return Distiller(model, gate, sizes, PIECE)


@pytest.mark.parametrize("family", ["Llama", "Gemma", "Qwen3"])
def test_the_teacher_is_the_model(family: str) -> None:
    made = distiller(small(family), Sizes(4, 8, 1))
    lesson, wanted = made.teach(ids(TOTAL)), made.model(ids(TOTAL)).logits[0].log_softmax(dim=-1)
    torch.testing.assert_close(lesson.odds, wanted.gather(1, lesson.likely), rtol=1e-4, atol=1e-5)
    assert lesson.keys.shape == (1, made.spec.kv_heads, TOTAL, made.spec.head_dim)
    assert made.model.config._attn_implementation != "kv_cache_training", "the model is as it was"


@pytest.mark.parametrize(
    ("sizes", "summary"), [(Sizes(4, 8, 1), "mean"), (Sizes(4, 9, 4), "attention"), (Sizes(0, 16, 8), "mean")]
)
def test_the_student_is_the_cache(sizes: Sizes, summary: str) -> None:
    made = distiller(sharp(), sizes, summary)
    lesson = made.teach(ids(TOTAL))
    scores = made.judge(lesson).detach().sigmoid().flatten().sort().values
    threshold = float(scores[len(scores) // 2 - 1 :][:2].mean())
    policy = Gated(sizes.sinks, sizes.recent, sizes.chunk, budget=TOTAL, gate=made.gate, threshold=threshold)
    online = stream(made.model, CompressedCache.of(made.model, policy), ids(TOTAL), [PIECE] * (TOTAL // PIECE))
    found, _, fate = made.learn(lesson, keep_from(threshold))
    assert 0 < int(fate.keep.sum()) < fate.keep.shape[1]
    wanted = online[0].log_softmax(dim=-1)
    full = made.model(ids(TOTAL)).logits[0].log_softmax(dim=-1)
    # the likely tokens of a vocabulary of 50 are all but one: the sum is the whole KL
    torch.testing.assert_close(found, (full.exp() * (full - wanted)).sum(dim=-1), rtol=1e-2, atol=1e-4)
    assert float(found[-1].detach()) > 1e-4 > float(found[: sizes.recent].detach().abs().max())


def test_where_all_is_kept_word_for_word_nothing_is_lost() -> None:
    made = distiller(sharp(), Sizes(4, 8, 1))
    lesson = made.teach(ids(TOTAL))
    assert float(made.learn(lesson, keep_all)[0].abs().max()) < 1e-4 < float(made.learn(lesson, keep_none)[0].max())


def test_the_loss_teaches_the_gate_and_nothing_of_the_model() -> None:
    made = distiller(sharp(), Sizes(4, 8, 4), "attention", layer=1)
    before = [value.clone() for value in made.model.parameters()]
    made.learn(made.teach(ids(TOTAL)), draw_hard(torch.Generator().manual_seed(0)))[0].mean().backward()
    for name, value in made.gate.named_parameters():
        assert value.grad is not None and float(value.grad.abs().sum()) > 0.0, name
    assert all(torch.equal(*pair) for pair in zip(before, made.model.parameters(), strict=True))


def test_old_chunks_do_not_weigh_more_because_more_queries_miss_them() -> None:
    made = distiller(sharp(), Sizes(0, 8, 8))
    gradient = made._without_age(TOTAL)(torch.ones(1, 7))
    misses = torch.tensor(
        [48.0, 40.0, 32.0, 24.0, 16.0, 8.0, 8.0]
    )  # queries that come behind each chunk, one piece at least
    torch.testing.assert_close(gradient[0] * misses, misses.mean().expand(7))


def test_a_model_that_caps_its_logits_is_refused() -> None:
    model = small("Gemma2", attn_logit_softcapping=50.0)
    with pytest.raises(ValueError, match="caps its attention logits"):
        distiller(model, Sizes(4, 8, 1)).teach(ids(TOTAL))
