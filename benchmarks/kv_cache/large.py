"""Models that are too large to run here: one layer of their size is timed, and all their layers are counted."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from measure import history, in_turn
from torch import Tensor, nn
from torch.nn import functional

from kv_cache import CacheSpec, CacheView
from kv_cache.cost import LLAMA_7B, PALIGEMMA, TransformerShape

SHAPES = {"paligemma": PALIGEMMA, "llama-7b": LLAMA_7B}
POLICIES = ("full", "window", "gated", "mean")  # the others hold as much as these and differ in what they choose
IMAGE_TOKENS = 256  # of one picture of PaliGemma
FLOW_STEPS = 10  # per observation


class Layer(nn.Module):
    """One layer of a language model, random weights, without its norms' cost."""

    def __init__(self, size: TransformerShape) -> None:
        super().__init__()
        self.size = size
        self.project = nn.Linear(size.width, (size.heads + 2 * size.kv_heads) * size.head_dim, bias=False)
        self.mix = nn.Linear(size.heads * size.head_dim, size.width, bias=False)
        self.gate = nn.Linear(size.width, size.hidden, bias=False)
        self.up = nn.Linear(size.width, size.hidden, bias=False)
        self.down = nn.Linear(size.hidden, size.width, bias=False)

    def forward(self, tokens: Tensor, view: CacheView) -> tuple[Tensor, Tensor]:
        """Run new tokens [T, width] against a view of one layer; return their keys and values [1, Hkv, T, d]."""
        size = self.size
        packed = self.project(tokens).unflatten(-1, (-1, size.head_dim)).transpose(0, 1)
        queries, keys, values = packed.split((size.heads, size.kv_heads, size.kv_heads))
        every = (-1, size.heads, -1, -1)  # one key head serves all, or each query head has its own
        seen = functional.scaled_dot_product_attention(
            queries.unsqueeze(0),
            torch.cat((view.keys, keys.unsqueeze(0)), dim=2).expand(every),
            torch.cat((view.values, values.unsqueeze(0)), dim=2).expand(every),
        )
        tokens = tokens + self.mix(seen[0].transpose(0, 1).flatten(1))
        self.down(functional.gelu(self.gate(tokens), approximate="tanh") * self.up(tokens))
        return keys.unsqueeze(0), values.unsqueeze(0)


@torch.inference_mode()
def layer(model: str, tokens: int, repeats: int) -> list[dict[str, Any]]:
    """Time one layer, the policies in turn: a prefill of a picture and a token of an action flow.

    One layer: the matrices of all do not fit beside each other on a small machine. Layers are alike, so the ratio of
    two policies is that of the whole language model; the gate runs once per model, not per layer.
    """
    torch.manual_seed(0)
    size = SHAPES[model]
    network = Layer(size)
    spec = CacheSpec(1, size.kv_heads, size.head_dim, query_heads=size.heads)
    caches = {name: history(spec, name, tokens, spare=IMAGE_TOKENS) for name in POLICIES}
    picture = torch.randn(IMAGE_TOKENS, size.width)
    times = in_turn(
        caches,
        repeats,
        lambda cache: cache.append(*network(picture, cache.view())),
        lambda cache: network(picture[:1], cache.view()),
    )
    return [
        {
            "model": model,
            "policy": name,
            "tokens": tokens,
            "prefill_ms": statistics.median(times[name][0]),
            "flow_step_ms": statistics.median(times[name][1]),
        }
        for name in caches
    ]


def counted(model: str, tokens: int) -> list[dict[str, Any]]:
    """Count, for all layers in float32, bytes held and the FLOPs of a picture's prefill with its flow steps."""
    size = SHAPES[model]
    spec = CacheSpec(size.layers, size.kv_heads, size.head_dim, query_heads=size.heads)
    small = CacheSpec(1, 1, 2)  # how many tokens a policy holds does not depend on the model
    found = []
    for name in POLICIES:
        held = history(small, name, tokens, spare=0).stats().tokens
        steps = size.step_flops(IMAGE_TOKENS, held) + FLOW_STEPS * size.step_flops(1, held)
        found.append(
            {
                "model": model,
                "policy": name,
                "tokens": tokens,
                "held": held,
                "bytes": held * spec.bytes_per_token,
                "flops": steps,
            }
        )
    return found
