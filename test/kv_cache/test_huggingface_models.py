"""Which Hugging Face models a compressed cache takes: those whose keys it can turn back, the others are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kv_cache import Window

transformers = pytest.importorskip("transformers")
from small_models import ids, llama, small, stream  # noqa: E402 (optional)

from kv_cache.huggingface import CompressedCache, spec_of  # noqa: E402 (optional)

torch.set_num_threads(1)


def dynamic_llama() -> Any:
    """Its frequencies change with the length of the sequence."""
    return llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, max_position_embeddings=64)


NOT_THESE = {
    "no rotary positions": (
        lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=9)),
        "0 sets of rotary frequencies",
    ),
    "interleaved pairs": (lambda: small("Cohere"), "at position 7 layer 0 does not turn its keys"),
    "part of a head, interleaved": (lambda: small("Glm"), "at position 7 layer 0 does not turn its keys"),
    "a layer without positions": (
        lambda: small("SmolLM3", no_rope_layers=[1, 0, 1]),
        "at position 7 layer 1 does not turn its keys",
    ),
    "dynamic frequencies": (dynamic_llama, "at position 71 layer 0 does not turn its keys"),
    "several axes": (
        lambda: small("Qwen2", rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}),
        "its rotary positions have several axes",
    ),
    "keys of another size": (
        lambda: small(
            "DeepseekV3",
            first_k_dense_replace=3,
            q_lora_rank=8,
            kv_lora_rank=8,
            qk_rope_head_dim=4,
            qk_nope_head_dim=4,
            v_head_dim=8,
            num_key_value_heads=4,
        ),
        "spec of DeepseekV3ForCausalLM: ",
    ),
    "no model": (lambda: torch.nn.Linear(2, 2), "spec of Linear: expected a model of transformers"),
    "an encoder": (
        lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
        ),
        "it has an encoder beside its decoder",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), NOT_THESE.values(), ids=NOT_THESE)
def test_a_model_whose_keys_cannot_be_turned_back_is_refused(make: Callable[[], Any], sentence: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=sentence):
        spec_of(make())


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3", "Gemma2", "Mistral", "Phi3"])
def test_what_is_dropped_does_not_depend_on_how_positions_are_counted(family: str) -> None:
    """A model whose keys were turned back wrongly would see other distances in each of the two countings."""
    torch.manual_seed(0)
    model = small(family).train()  # with dropout, were there any, and as it was afterwards
    tokens, policy = ids(60), Window(2, 20)
    seen = [CompressedCache.of(model, policy, endless) for endless in (False, True)]
    assert model.training
    one, other = (stream(model.eval(), cache, tokens, [10] * 6) for cache in seen)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
