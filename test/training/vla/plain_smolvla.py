"""SmolVLA with a flow head and its loss, written plainly in float64: one observation and one moment at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

LAYERS, HEADS, SHARED, SIZE = 4, 4, 2, 16  # of the tiny policy's configuration
EPSILON = 1e-6
VLM = "model.vlm_with_expert.vlm.model.text_model"
EXPERT = "model.vlm_with_expert.lm_expert"
Tensors = Mapping[str, Tensor]


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt() * weight


def turned(heads: Tensor, positions: Sequence[int]) -> Tensor:
    """Turn heads [T, H, d] to their positions."""
    rows = []
    for row, position in zip(heads, positions, strict=True):
        columns = [None] * SIZE
        for pair in range(SIZE // 2):
            angle = position * 10_000.0 ** (-2 * pair / SIZE)
            first, second = row[:, pair], row[:, pair + SIZE // 2]
            columns[pair] = first * math.cos(angle) - second * math.sin(angle)
            columns[pair + SIZE // 2] = second * math.cos(angle) + first * math.sin(angle)
        rows.append(torch.stack(columns, dim=-1))
    return torch.stack(rows)


def attended(queries: Tensor, keys: Tensor, values: Tensor, sees: Tensor | None = None) -> Tensor:
    """Return what queries [T, H, d] find among keys and values [N, Hkv, d], [T, H * d]."""
    found = []
    for head in range(HEADS):
        of = head // (HEADS // SHARED)
        scores = queries[:, head] @ keys[:, of].T / math.sqrt(SIZE)
        if sees is not None:
            scores = scores.masked_fill(~sees, -math.inf)
        found.append(scores.softmax(-1) @ values[:, of])
    return torch.cat(found, dim=-1)


def mlp(x: Tensor, t: Tensors, layer: str) -> Tensor:
    inner = normed(x, t[f"{layer}.post_attention_layernorm.weight"])
    gate = inner @ t[f"{layer}.mlp.gate_proj.weight"].T
    opened = gate * torch.sigmoid(gate) * (inner @ t[f"{layer}.mlp.up_proj.weight"].T)
    return x + opened @ t[f"{layer}.mlp.down_proj.weight"].T


def linear(x: Tensor, t: Tensors, name: str) -> Tensor:
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def read(t: Tensors, pictures: Tensor, words: Sequence[int], state: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return rotated keys and values [P, Hkv, d] of each layer of one observation."""
    embedding = t[f"{VLM}.embed_tokens.weight"]
    root = math.sqrt(embedding.shape[1])
    said = torch.stack([embedding[word] for word in words])
    padded = torch.cat((state, state.new_zeros(32 - len(state))))
    x = torch.cat((pictures.flatten(0, 1) * root, said * root, linear(padded, t, "model.state_proj")[None]))
    count = len(x)
    sees = torch.ones(count, count, dtype=torch.bool)
    sees[:-1, -1] = False
    cache = []
    for number in range(LAYERS):
        layer = f"{VLM}.layers.{number}"
        inner = normed(x, t[f"{layer}.input_layernorm.weight"])
        queries, keys, values = (
            (inner @ t[f"{layer}.self_attn.{name}_proj.weight"].T).unflatten(-1, (-1, SIZE)) for name in "qkv"
        )
        keys = turned(keys, range(count))
        cache.append((keys, values))
        if number + 1 < LAYERS:
            mixed = attended(turned(queries, range(count)), keys, values, sees)
            x = mlp(x + mixed @ t[f"{layer}.self_attn.o_proj.weight"].T, t, layer)
    return cache


def waves(time: float, width: int) -> Tensor:
    half = width // 2
    periods = [4e-3 * (4.0 / 4e-3) ** (place / (half - 1)) for place in range(half)]
    rounded = float(torch.tensor(time, dtype=torch.float32))
    angles = [2.0 * math.pi * rounded / period for period in periods]
    return torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=torch.float64)


def fresh(t: Tensors, state: Tensor, lacking: Tensor, age: float) -> Tensor:
    angles = torch.stack((state * 4.0, state * 16.0), dim=-1).flatten()
    turns = torch.tensor([age * math.pi * 2.0**k for k in range(6)], dtype=torch.float64)
    features = torch.cat((state, angles.sin(), angles.cos(), lacking, turns.sin(), turns.cos()))
    inner = linear(features, t, "fresh.inner")
    return linear(inner * torch.sigmoid(inner), t, "fresh.outer")


def answer(t: Tensors, cache: list[tuple[Tensor, Tensor]], moved: Tensor, time: float, added: Tensor) -> Tensor:
    """Return what the expert answers to one token, [32]."""
    padded = torch.cat((moved, moved.new_zeros(32 - len(moved))))
    action = linear(padded, t, "model.action_in_proj")
    both = torch.cat((action, waves(time, len(action))))
    inner = linear(both, t, "model.action_time_mlp_in")
    x = (linear(inner * torch.sigmoid(inner), t, "model.action_time_mlp_out") + added)[None]
    for number, (keys, values) in enumerate(cache):
        layer, count = f"{EXPERT}.layers.{number}", len(keys)
        inner = normed(x, t[f"{layer}.input_layernorm.weight"])
        weights = {name: t[f"{layer}.self_attn.{name}_proj.weight"].T for name in "qkvo"}
        queries = (inner @ weights["q"]).unflatten(-1, (-1, SIZE))
        if number % 2 == 0:
            own_keys, own_values = ((inner @ weights[name]).unflatten(-1, (-1, SIZE)) for name in "kv")
            every = torch.cat((keys, turned(own_keys, [count]))), torch.cat((values, own_values))
            mixed = attended(turned(queries, [count]), *every)
        else:
            crossed = [
                (each.flatten(1) @ weights[name]).unflatten(-1, (-1, SIZE))
                for each, name in ((keys, "k"), (values, "v"))
            ]
            mixed = attended(queries, *crossed)
        x = mlp(x + mixed @ weights["o"], t, layer)
    return linear(normed(x[0], t[f"{EXPERT}.norm.weight"]), t, "model.action_out_proj")


def moment_loss(
    t: Tensors,
    cache: list[tuple[Tensor, Tensor]],
    episode: tuple[Any, Any],
    picture: int,
    moment: Any,
    facts: Mapping[str, Any],
) -> Tensor:
    """Return |v - u|^2 / H^2 of one moment of an episode's absolute targets, [A] (method B1, targets as changes).

    Args:
        episode: actions [N, A] and states [N, S], float64; an action moves the number of the state in its place.
        facts: horizon, noise, stability, scale [A], mean and std of the state [S].
    """
    actions, states = episode
    horizon, scale = facts["horizon"], facts["scale"]

    def told(step: int) -> Tensor:  # before the action of a step
        return states[0] if step == 0 else actions[min(step, len(actions)) - 1]

    def between(rows: Any, last: int, step: float) -> Tensor:
        step = min(max(step, 0.0), float(last))
        low, high = math.floor(step), min(math.floor(step) + 1, last)
        return rows(low) + (step - low) * (rows(high) - rows(low))

    now = picture + moment.begun + moment.time * horizon
    noise = facts["noise"] * math.exp(-facts["stability"] * moment.time) * torch.from_numpy(moment.noise)
    velocity = horizon * (told(math.floor(now) + 1) - told(math.floor(now))) / scale - facts["stability"] * noise
    position = between(told, len(actions), now) + noise * scale
    moved = (position - told(picture + moment.begun)) / scale
    state = between(lambda step: states[step], len(states) - 1, max(0.0, now - moment.late))
    age = (moment.begun + moment.time * horizon) / horizon
    added = fresh(t, (state - facts["mean"]) / (facts["std"] + 1e-8), (position - state) / scale, age)
    said = answer(t, cache, moved, moment.time, added)[: len(scale)]
    return (horizon * said - velocity).square() / horizon**2
