"""The one decoder layer against transformers' Llama and Gemma, and against formulas written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from kv_cache.cache import CacheView, SessionCache
from kv_cache.policies import Full
from kv_cache.rotary import rotate
from kv_cache.spec import CacheSpec
from streaming_vla.policies.contract import run_slices
from streaming_vla.policies.lerobot.expert import lay_out, prepare, run_expert
from streaming_vla.policies.lerobot.layers import DecoderLayer, LayerSizes, RMSNorm, Rotation, attend, rotated
from streaming_vla.policies.lerobot.prefix import extend

transformers = pytest.importorskip("transformers")
BASE = 10_000.0
SIZES = LayerSizes(width=48, mlp=80, heads=6, kv_heads=2, head_dim=16)


def drawn(module: nn.Module, seed: int) -> nn.Module:
    """Give every parameter random numbers of order one."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn(value.shape, generator=random) / max(1, value.shape[-1]) ** 0.5)
    return module.eval()


def no_history(spec: CacheSpec) -> CacheView:
    return SessionCache(spec, Full(64)).view()


def transformers_tower(gelu: bool) -> nn.Module:
    """A Llama or Gemma of SIZES."""
    common = {
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 11,
        "rms_norm_eps": 1e-6,
    }
    if gelu:
        config = transformers.GemmaConfig(**common, hidden_activation="gelu_pytorch_tanh")
        return transformers.GemmaModel(config)
    return transformers.LlamaModel(transformers.LlamaConfig(**common))


@pytest.mark.parametrize("gelu", [False, True], ids=["llama", "gemma"])
@pytest.mark.parametrize("causal", [False, True])
@torch.inference_mode()
def test_a_text_tower_keeps_the_keys_and_values_of_transformers(gelu: bool, causal: bool) -> None:
    sizes = replace(SIZES, gelu=gelu, unit_offset=gelu)
    theirs = drawn(transformers_tower(gelu), seed=1)
    ours = [DecoderLayer(sizes) for _ in range(3)]
    for layer, source in zip(ours, theirs.layers, strict=True):
        layer.load_state_dict(source.state_dict())
    tokens = torch.randn(1, 9, 48, generator=torch.Generator().manual_seed(2))
    sees = torch.ones(9, 9, dtype=torch.bool).tril() if causal else None
    mask = torch.zeros(9, 9) if sees is None else torch.zeros(9, 9).masked_fill(~sees, float("-inf"))
    cache = transformers.DynamicCache()
    theirs(
        inputs_embeds=tokens, attention_mask=mask[None, None], position_ids=torch.arange(9)[None], past_key_values=cache
    )
    keys, values = run_slices(extend(ours, tokens, no_history(CacheSpec(3, 2, 16)), sees, BASE))
    for number, layer in enumerate(cache.layers):
        assert torch.allclose(rotate(keys[number], torch.arange(9)), layer.keys[0], atol=2e-6)
        assert torch.allclose(values[number], layer.values[0], atol=2e-6)


@torch.inference_mode()
def test_tokens_behind_a_history_are_those_of_one_sequence() -> None:
    layers = [drawn(DecoderLayer(SIZES), seed) for seed in range(3)]
    spec = CacheSpec(3, 2, 16)
    tokens = torch.randn(1, 12, 48, generator=torch.Generator().manual_seed(3))
    later = torch.ones(12, 12, dtype=torch.bool)
    later[:7, 7:] = False  # the first seven come first and do not see the others
    whole, _ = run_slices(extend(layers, tokens, no_history(spec), later, BASE))
    cache = SessionCache(spec, Full(64))
    cache.append(*run_slices(extend(layers, tokens[:, :7], cache.view(), None, BASE)))
    behind, _ = run_slices(extend(layers, tokens[:, 7:], cache.view(), None, BASE))
    assert torch.allclose(behind, whole[:, :, 7:], atol=2e-6)


@torch.inference_mode()
def test_an_expert_reads_a_context_as_layer_by_layer_attention_does() -> None:
    crossing = 2 * 16
    layers = [drawn(DecoderLayer(SIZES, crossing if number % 2 else None), number) for number in range(4)]
    random = torch.Generator().manual_seed(4)
    view = CacheView(*torch.randn(2, 4, 2, 11, 16, generator=random), next_position=11)
    tokens = torch.randn(1, 5, 48, generator=random)
    sees = torch.ones(5, 5, dtype=torch.bool).tril()
    context = prepare(layers, view, 5, sees, BASE)
    for _ in range(2):  # a second step finds the context as the first one did
        out = run_expert(layers, tokens, context)
        assert torch.allclose(out, plain(layers, tokens, view, sees), atol=3e-6)


def plain(layers: list[DecoderLayer], tokens: Tensor, view: CacheView, sees: Tensor) -> Tensor:
    """The same written out: every head on its own, a softmax, nothing kept."""
    count = tokens.shape[1]
    for number, layer in enumerate(layers):
        crosses = number % 2 == 1
        normed = layer.input_layernorm(tokens)[0]
        keys, values = view.keys[number], view.values[number]
        first = 0 if crosses else view.next_position
        queries = split(layer.self_attn.q_proj(normed))
        queries = rotate(queries, first + torch.arange(count))
        mask = torch.ones(count, view.tokens, dtype=torch.bool)
        if crosses:
            keys = split(layer.self_attn.k_proj(keys.transpose(0, 1).flatten(1)[None]))
            values = split(layer.self_attn.v_proj(values.transpose(0, 1).flatten(1)[None]))
        else:
            own = rotate(split(layer.self_attn.k_proj(normed)), first + torch.arange(count))
            keys = torch.cat((keys, own), dim=1)
            values = torch.cat((values, split(layer.self_attn.v_proj(normed))), dim=1)
            mask = torch.cat((mask, sees), dim=1)
        heads = []
        for head in range(6):
            logits = queries[head] @ keys[head // 3].T / 4.0
            heads.append(torch.softmax(logits.masked_fill(~mask, float("-inf")), dim=-1) @ values[head // 3])
        tokens = tokens + layer.self_attn.o_proj(torch.cat(heads, dim=-1))[None]
        tokens = tokens + layer.mlp(layer.post_attention_layernorm(tokens)[0])
    return tokens


def split(flat: Tensor) -> Tensor:
    return flat[0].unflatten(-1, (-1, 16)).transpose(0, 1)


@torch.inference_mode()
def test_an_adaptive_norm_scales_shifts_and_gates() -> None:
    sizes = LayerSizes(width=8, mlp=8, heads=1, kv_heads=1, head_dim=8, unit_offset=True, condition=4)
    norm = drawn(RMSNorm(sizes), seed=5)
    x, condition = torch.randn(1, 3, 8), torch.randn(1, 4)
    scale, shift, gate = (norm.dense.weight @ condition[0] + norm.dense.bias).split(8)
    out, opened = norm(x, condition)
    root = (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert torch.allclose(out, x / root * (1 + scale) + shift, atol=1e-6)
    assert torch.allclose(opened[0], gate, atol=1e-6)


@torch.inference_mode()
def test_a_bias_of_log_two_counts_a_token_twice() -> None:
    layers = [drawn(DecoderLayer(SIZES, 32 if number % 2 else None), number) for number in range(2)]
    random = torch.Generator().manual_seed(6)
    keys, values = torch.randn(2, 2, 2, 6, 16, generator=random)
    twice = torch.tensor([0, 1, 2, 2, 3, 4, 5])
    bias = torch.zeros(6)
    bias[2] = torch.log(torch.tensor(2.0))
    tokens = torch.randn(1, 3, 48, generator=random)
    biased = run_expert(layers, tokens, prepare(layers, CacheView(keys, values, 9, bias), 3, None, BASE))
    doubled = CacheView(keys[:, :, twice], values[:, :, twice], 9)
    assert torch.allclose(biased, run_expert(layers, tokens, prepare(layers, doubled, 3, None, BASE)), atol=2e-6)


@torch.inference_mode()
def test_a_view_that_is_moved_is_read_as_if_it_had_begun_there() -> None:
    layers = [drawn(DecoderLayer(SIZES, 32 if number % 2 else None), number) for number in range(2)]
    keys, values = torch.randn(2, 2, 2, 6, 16, generator=torch.Generator().manual_seed(7))
    tokens = torch.randn(1, 3, 48)
    here = CacheView(rotate(keys, torch.arange(6)), values, 6)
    far = CacheView(rotate(keys, 400 + torch.arange(6)), values, 406)
    expected = run_expert(layers, tokens, prepare(layers, here, 3, None, BASE))
    moved = run_expert(layers, tokens, prepare(layers, far, 3, None, BASE, first=6))
    unmoved = run_expert(layers, tokens, prepare(layers, far, 3, None, BASE))
    assert torch.allclose(moved, expected, atol=5e-6)
    assert (unmoved - expected).abs().max() > 0.01  # layers that cross read where the keys are


def test_attention_of_grouped_heads_is_that_of_repeated_ones() -> None:
    random = torch.Generator().manual_seed(8)
    queries = torch.randn(1, 6, 3, 16, generator=random)
    keys, values = torch.randn(2, 1, 2, 5, 16, generator=random)
    every = [each.repeat_interleave(3, dim=1) for each in (keys, values)]
    assert torch.allclose(attend(queries, keys, values), attend(queries, *every), atol=1e-6)


def test_rotation_is_the_caches() -> None:
    x = torch.randn(2, 4, 16)
    rotation = Rotation.at(torch.arange(3, 7), 16, BASE)
    assert torch.equal(rotated(x, rotation), rotate(x, torch.arange(3, 7)))


@torch.inference_mode()
def test_matrices_by_columns_are_the_same_matrices() -> None:
    layer = drawn(DecoderLayer(SIZES), seed=9)
    before = layer.mlp.gate_proj.weight.clone()
    tokens = torch.randn(1, 3, 48)
    expected = layer.mlp(tokens)
    lay_out([layer])
    assert torch.equal(layer.mlp.gate_proj.weight, before)
    assert layer.mlp.gate_proj.weight.t().is_contiguous() == torch.backends.mkl.is_available()
    assert torch.allclose(layer.mlp(tokens), expected, atol=1e-6)
    coarse = drawn(DecoderLayer(SIZES), seed=9).bfloat16()
    lay_out([coarse])
    assert coarse.mlp.gate_proj.weight.is_contiguous()
