"""One prefill of a decoder in one piece, and what every cache makes of it: caches and presses run as they are."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from methods import NEWEST, SINKS
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from kv_cache import CachePolicy, CacheSpec
from kv_cache.heads import HeadGate
from kv_cache.huggingface import CompressedCache
from kv_cache.huggingface_heads import HeadwiseCache


@dataclass
class Prefilled:
    """What the layers of a prefill computed.

    Args:
        keys, values: of each layer, [1, Hkv, T, d], keys rotated.
        queries: by layer, [1, Hq, T, d], before rotation.
        pressed: for every press what it left of each layer.
        press_s: CPU seconds that each press took.
    """

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    queries: dict[int, Tensor] = field(default_factory=dict)
    pressed: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    press_s: dict[str, float] = field(default_factory=dict)


@torch.inference_mode()
def prefill(model: PreTrainedModel, tokens: Tensor, presses: dict[str, Any]) -> Prefilled:
    """Run the model over tokens [1, T]; every press sees each layer as its own hook would."""
    found = Prefilled(pressed={name: [] for name in presses}, press_s=dict.fromkeys(presses, 0.0))
    cache = DynamicCache()

    def hook(module: Any, inputs: Any, given: dict[str, Any], output: Any) -> None:
        states, layer = given["hidden_states"], cache.layers[module.layer_idx]
        for name, press in presses.items():
            begin_s = time.process_time()
            found.pressed[name].append(press.compress(module, states, layer.keys, layer.values, None, given))
            found.press_s[name] += time.process_time() - begin_s

    def listen(number: int, output: Tensor) -> None:  # presses project queries once more
        found.queries.setdefault(number, output.unflatten(-1, (-1, model.config.head_dim)).transpose(1, 2))

    hooks = []
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.rotary_emb = model.model.rotary_emb  # presses look for it there, as in their own context
        hooks.append(layer.self_attn.register_forward_hook(hook, with_kwargs=True))
        hooks.append(layer.self_attn.q_proj.register_forward_hook(lambda m, i, out, n=number: listen(n, out)))
    try:
        model.model(input_ids=tokens, past_key_values=cache, use_cache=True)
    finally:
        for each in hooks:
            each.remove()
        for layer in model.model.layers:
            del layer.self_attn.rotary_emb
    found.keys, found.values = [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]
    return found


@torch.inference_mode()
def cache_of(spec: CacheSpec, found: Prefilled, made_by: CachePolicy | HeadGate | str, budget: int) -> Cache:
    """Return a cache that was given the prefill in one piece.

    Args:
        made_by: a policy, a gate per head, or the name of a press; "full": everything.
        budget: of a gate per head.
    """
    if isinstance(made_by, str):
        cache = DynamicCache()
        pairs = found.pressed[made_by] if made_by != "full" else list(zip(found.keys, found.values, strict=True))
        for layer, pair in enumerate(pairs):
            cache.update(*pair, layer)
        return cache
    if isinstance(made_by, HeadGate):
        heads = HeadwiseCache(spec, made_by, SINKS, int(NEWEST * budget), budget)
        for layer, pair in enumerate(zip(found.keys, found.values, strict=True)):
            heads.update(*pair, layer)
        return heads
    compressed = CompressedCache(spec, made_by)
    for layer, pair in enumerate(zip(found.keys, found.values, strict=True)):
        if made_by.reads_queries:
            compressed.observe_queries(layer, found.queries[layer])
        compressed.update(*pair, layer)
    return compressed


@torch.inference_mode()
def answer(model: PreTrainedModel, cache: Cache, tokens: Tensor, position: int) -> Tensor:
    """Return log-probabilities [T, V] behind each of tokens [1, T], which stand at `position` and on."""
    places = position + torch.arange(tokens.shape[1]).unsqueeze(0)
    with cache.frozen() if isinstance(cache, CompressedCache) else nullcontext():  # it reads on, and chooses no more
        logits = model(input_ids=tokens, position_ids=places, past_key_values=cache, use_cache=True).logits
    return logits[0].float().log_softmax(dim=-1)


def held_bytes(cache: Cache) -> int:
    """Return the bytes of keys and values that a cache holds."""
    if isinstance(cache, HeadwiseCache):
        return cache.bytes
    if isinstance(cache, CompressedCache):
        return sum(row.bytes for row in cache.stats())
    return sum(part.numel() * part.itemsize for layer in cache.layers for part in (layer.keys, layer.values))
