"""A gate per head: what each head keeps, what a model reads, and what its own attention teaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import ids, llama, small, stream

from kv_cache.gate_file import GateFileError, load_head_gate, save_head_gate
from kv_cache.heads import HeadGate, HeadGateConfig, choose
from kv_cache.huggingface import spec_of
from kv_cache.huggingface_heads import HeadwiseCache
from kv_cache.training.attention_targets import teach_heads

TOTAL = 64


def model_and_gate(**changes: int) -> tuple[Any, HeadGate]:
    """Return a model in which it matters what is attended to, and a gate with opinions."""
    torch.manual_seed(0)
    model = llama(initializer_range=0.4).eval()
    gate = HeadGate(HeadGateConfig.of(spec_of(model), **changes)).requires_grad_(False)
    gate.direct.normal_()
    return model, gate


def test_sinks_the_newest_and_the_best_stay() -> None:
    utilities, positions = torch.tensor([[0.0, 9.0, 5.0, 7.0, 1.0, 0.0, 0.0]]), torch.arange(7).unsqueeze(0)
    assert sorted(choose(utilities, positions, 6, 1, 2, 5)[0].tolist()) == [0, 1, 3, 5, 6]


def test_with_room_for_all_nothing_changes() -> None:
    model, gate = model_and_gate()
    cache = HeadwiseCache.of(model, gate, sinks=2, recent=4, budget=TOTAL)
    found = stream(model, cache, ids(TOTAL, rows=2), [20, 1, 43])
    torch.testing.assert_close(found, model(ids(TOTAL, rows=2)).logits, rtol=1e-3, atol=1e-4)


def test_every_head_keeps_its_own_tokens_and_no_more_than_the_budget() -> None:
    model, gate = model_and_gate()
    cache = HeadwiseCache.of(model, gate, sinks=2, recent=4, budget=12)
    for piece in ids(TOTAL).split([40] + [1] * 24, dim=1):
        model(input_ids=piece, past_key_values=cache, use_cache=True)
        assert cache.tokens == 12 and cache.get_seq_length() >= 40
    kept = [{tuple(head) for head in layer._held[2][0].sort().values.tolist()} for layer in cache.layers]
    assert len(set.union(*kept)) > 1, "heads differ"
    for head in set.union(*kept):
        assert {0, 1, 60, 61, 62, 63} <= set(head)
    one = spec_of(model).bytes_per_token
    assert one * 12 < cache.bytes < 3 * one * 12  # heads of eight numbers are small beside a position


def test_what_is_read_is_what_is_kept() -> None:
    """The logits of a token behind the cache are those of the model with a mask over what was dropped."""
    model, gate = model_and_gate()
    cache = HeadwiseCache.of(model, gate, sinks=2, recent=4, budget=12)
    model(input_ids=ids(TOTAL)[:, :40], past_key_values=cache, use_cache=True)
    layer = cache.layers[0]
    whole = HeadwiseCache.of(model, gate, sinks=2, recent=4, budget=TOTAL)
    model(input_ids=ids(TOTAL)[:, :40], past_key_values=whole, use_cache=True)
    keys, _, positions, _ = (part[0, 1] for part in layer._held)
    torch.testing.assert_close(keys, whole.layers[0]._held[0][0, 1][positions])


def test_generation_runs_and_a_cache_begins_anew() -> None:
    model, gate = model_and_gate()
    cache = HeadwiseCache.of(model, gate, sinks=2, recent=4, budget=12)
    first = model.generate(ids(30), past_key_values=cache, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert first.shape == (1, 38) and cache.tokens == 12
    cache.reset()
    again = model.generate(ids(30), past_key_values=cache, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert torch.equal(first, again)


@pytest.mark.parametrize("family", ["Llama", "Gemma", "Qwen3"])
def test_a_lesson_is_the_models_own_attention(family: str) -> None:
    torch.manual_seed(0)
    model = small(family, initializer_range=0.4)
    model.set_attn_implementation("eager")
    lesson = teach_heads(model, ids(TOTAL), recent=8, most=100, random=torch.Generator().manual_seed(0))
    wanted = model(ids(TOTAL), output_attentions=True).attentions
    spec, moment = spec_of(model), 48  # the second moment, of the last quarter
    heads = torch.stack([each[0].unflatten(0, (spec.kv_heads, -1)) for each in wanted])
    places = moment - lesson.age[24:]
    assert len(set(places.tolist())) == 24 and int(places.max()) < moment - 8
    received = heads[..., moment:, :].mean(dim=(2, 3)).clamp(min=1e-6).log()
    torch.testing.assert_close(lesson.received[..., 24:], received[..., places], rtol=1e-3, atol=1e-3)
    assert lesson.tokens.shape[-1] == 2 * spec.head_dim


def test_a_file_is_checked(tmp_path: Path) -> None:
    _, gate = model_and_gate(hidden=4)
    path = tmp_path / "gate.safetensors"
    save_head_gate(path, gate, {"seed": 0})
    tokens = torch.randn(3, 2, 5, 16)
    torch.testing.assert_close(load_head_gate(path)(tokens), gate(tokens))
    with pytest.raises(GateFileError, match="does not exist; train one with"):
        load_head_gate(tmp_path / "none.safetensors")


def test_sizes_and_gates_that_do_not_fit_are_refused() -> None:
    model, gate = model_and_gate()
    with pytest.raises(ValueError, match=r"budget is 36, it must be above sinks \+ recent"):
        HeadwiseCache.of(model, gate, recent=32, budget=36)
    other = HeadGate(HeadGateConfig(2, 2, 8))
    with pytest.raises(ValueError, match="the gate is for 2 layers of 2 x 8 numbers, the model has 3"):
        HeadwiseCache.of(model, other)
    with pytest.raises(ValueError, match="sliding window"):
        HeadwiseCache.of(small("Mistral", sliding_window=16), gate)
