"""Hugging Face models of random weights, offline: a compressed cache drops in, and without loss it changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kv_cache import Full, Gate, GateConfig, Gated, Mean, Random, Window

transformers = pytest.importorskip("transformers")
from kv_cache.huggingface import CompressedCache, spec_of  # noqa: E402 (optional)

torch.set_num_threads(1)
HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "gated-cache.md"
TEXT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


def llama(**changes: Any) -> Any:
    """Grouped keys and the base 10 000."""
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**TEXT, **changes}))


def scaled_llama() -> Any:
    """Frequencies that no base gives, and a key head per query head."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    return llama(rope_parameters=rope, num_key_value_heads=4)


def gemma() -> Any:
    """One key head."""
    return transformers.GemmaForCausalLM(transformers.GemmaConfig(**{**TEXT, "num_key_value_heads": 1}))


def paligemma() -> Any:
    """Gemma under a vision tower."""
    config = transformers.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", "projection_dim": 32, **VISION},
        text_config={"model_type": "gemma", **TEXT, "num_key_value_heads": 1},
        projection_dim=32,
        hidden_size=32,
        image_token_id=49,
    )
    return transformers.PaliGemmaForConditionalGeneration(config)


def smolvlm() -> Any:
    """SmolLM (a Llama) under a vision tower."""
    rope = {"rope_type": "default", "rope_theta": 273_768.0}
    config = transformers.SmolVLMConfig(
        vision_config=VISION,
        text_config={
            "model_type": "llama",
            **TEXT,
            "rope_parameters": rope,
        },
        image_token_id=49,
        scale_factor=1,
    )
    return transformers.SmolVLMForConditionalGeneration(config)


MODELS = (llama, scaled_llama, gemma, paligemma, smolvlm)


@pytest.fixture(scope="module", params=MODELS, ids=lambda make: make.__name__)
def model(request: pytest.FixtureRequest) -> Any:
    """A small model with random weights."""
    torch.manual_seed(0)
    make: Callable[[], Any] = request.param
    return make().eval()


def ids(count: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    """Return token ids [rows, count]."""
    return torch.randint(3, 48, (rows, count), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def stream(model: Any, cache: Any, tokens: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Return the logits of tokens that are fed piece by piece."""
    pieces = [
        model(input_ids=piece, past_key_values=cache, use_cache=True).logits for piece in tokens.split(sizes, dim=1)
    ]
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize("endless", [False, True], ids=["absolute", "endless"])
def test_without_loss_it_is_the_models_own_cache(model: Any, endless: bool) -> None:
    tokens, sizes = ids(30), [11, 1, 6, 12]
    wanted = stream(model, transformers.DynamicCache(), tokens, sizes)
    gate = Gate(GateConfig.of(spec_of(model)))
    for policy in (Full(64), Window(2, 40), Gated(2, 5, 1, 64, gate=gate, threshold=0.0)):
        cache = CompressedCache.of(model, policy, endless)
        torch.testing.assert_close(stream(model, cache, tokens, sizes), wanted, rtol=1e-4, atol=1e-5)
        assert cache.get_seq_length() == cache.stats()[0].full_tokens == 30


def test_positions_do_not_matter_to_what_is_seen(model: Any) -> None:
    """The model sees distances only, so both ways of counting give the same logits when chunks are dropped."""
    tokens, sizes = ids(60), [9] * 6 + [6]
    gate = Gate(GateConfig.of(spec_of(model)))
    with torch.no_grad():
        gate.head.weight.mul_(60.0)
        gate.head.bias.zero_()
    policy = Gated(2, 12, 4, 24, gate=gate)
    absolute, endless = CompressedCache.of(model, policy), CompressedCache.of(model, policy, endless=True)
    one = stream(model, absolute, tokens, sizes)
    torch.testing.assert_close(one, stream(model, endless, tokens, sizes), rtol=1e-3, atol=1e-4)
    assert absolute.get_seq_length() == 60
    assert endless.get_seq_length() == endless.rows[0].view().next_position <= policy.sizes.max_positions
    stats = endless.stats()[0]
    assert stats.chunks_kept + stats.chunks_dropped == 11
    assert stats.tokens <= 24


def test_generate_goes_on_with_a_bounded_cache(model: Any) -> None:
    cache = CompressedCache.of(model, Mean(2, 10, 4, 20))
    with torch.no_grad():
        out = model.generate(ids(25), past_key_values=cache, max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert out.shape == (1, 37)
    assert cache.tokens <= 20
    assert cache.stats()[0].full_tokens == 36


def test_generate_is_unchanged_while_everything_fits(model: Any) -> None:
    with torch.no_grad():
        wanted, seen = (
            model.generate(ids(9, rows=2), past_key_values=cache, max_new_tokens=8, do_sample=False, num_beams=2)
            for cache in (transformers.DynamicCache(), CompressedCache.of(model, Window(2, 40)))
        )
    assert seen.tolist() == wanted.tolist()


def test_rows_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    model = llama().eval()
    policy = Gated(2, 8, 3, 16, gate=Gate(GateConfig.of(spec_of(model))), threshold=0.0)
    tokens = ids(40, rows=3)
    together = stream(model, CompressedCache.of(model, policy), tokens, [10] * 4)
    for row in range(3):
        alone = stream(model, CompressedCache.of(model, policy), tokens[row : row + 1], [10] * 4)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_rows_under_chance_keep_the_same_chunks() -> None:
    torch.manual_seed(0)
    model = llama().eval()
    cache = CompressedCache.of(model, Random(2, 8, 3, 16, keep_rate=0.5))
    stream(model, cache, ids(40, rows=2), [10] * 4)
    kept, other = (row.chunks_kept for row in cache.stats())
    assert kept == other
    assert 0 < kept < 10
    with pytest.raises(ValueError, match="a batch of 1, expected 2"):
        stream(model, cache, ids(5), [5])


def test_refusals_are_sentences_and_reset_begins_anew() -> None:
    torch.manual_seed(0)
    model = llama().eval()
    gate = Gate(GateConfig.of(spec_of(model)))
    cache = CompressedCache.of(model, Gated(2, 8, 3, 16, gate=gate))
    with pytest.raises(ValueError, match="2 rows may keep different numbers of chunks under policy gated"):
        stream(model, cache, ids(5, rows=2), [5])
    first = stream(model, cache, ids(12), [6, 6])
    cache.batch_repeat_interleave(2)  # as a beam search does
    with pytest.raises(ValueError, match="2 rows may keep different numbers of chunks under policy gated"):
        stream(model, cache, ids(5, rows=2), [5])
    cache.batch_select_indices(torch.tensor([0]))
    with pytest.raises(ValueError, match="tokens cannot be taken back"):
        cache.crop(-1)
    cache.reset()
    torch.testing.assert_close(stream(model, cache, ids(12), [6, 6]), first, rtol=0, atol=0)
    with pytest.raises(ValueError, match="the gate's weights are for 3 layers of 2 x 8"):
        CompressedCache(replace(spec_of(model), head_dim=16), Gated(2, 8, 3, 16, gate=gate))
    with pytest.raises(ValueError, match="0 different sets of rotary frequencies"):
        spec_of(transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=9)))


def test_the_how_to_page_runs() -> None:
    """Its code block, as it stands there, with a model and observations."""
    torch.manual_seed(0)
    code = re.search(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {"model": llama().eval(), "observations": [ids(25, seed=step) for step in range(20)]}
    with torch.no_grad():
        exec(code.group(1), names)
    stats = names["cache"].stats()[0]
    assert stats.full_tokens == 500
    assert stats.tokens <= 160
    assert len([line for line in code.group(1).splitlines() if line.strip()]) <= 10
