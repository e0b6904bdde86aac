"""What a policy is meant to hold, done token by token in plain lists."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from matrix import SPEC
from torch import Tensor

from kv_cache.chunks import Chunks
from kv_cache.policies import Chunked


@dataclass
class Token:
    """One token of the plain list: place in the session's line, key before rotation and value [L, Hkv, d], score."""

    place: float
    key: Tensor
    value: Tensor
    score: float = 0.0


def by_hand(policy: Chunked, keys: Tensor, values: Tensor) -> tuple[list[Token], list[int]]:
    """Do token by token what the policy is meant to do; return the tokens held and the numbers of kept chunks."""
    sinks: list[Token] = []
    held: list[tuple[int, Token]] = []
    recent: list[Token] = []
    state, number, chunk = policy.start(SPEC, 1, torch.device("cpu")), 0, policy.chunk
    for place in range(keys.shape[2]):
        token = Token(place, keys[:, :, place], values[:, :, place])
        if len(sinks) < policy.sinks:
            sinks.append(token)
            continue
        recent.append(token)
        if len(recent) < policy.recent + chunk:
            continue
        out, recent = recent[:chunk], recent[chunk:]
        shown_keys = torch.stack([each.key for each in out], dim=2)[None, :, :, None]
        shown_values = torch.stack([each.value for each in out], dim=2)[None, :, :, None]
        shown = Chunks(shown_keys, shown_values, torch.tensor([number]), torch.tensor([1]), torch.zeros(1, 1))
        scores, state = policy.score(shown, state)
        key, value = policy.summarise(shown)
        if scores.item() >= policy.least_score:
            held.append((number, Token(0.0, key[0, :, :, 0], value[0, :, :, 0], scores.item())))
        number += 1
        if len(held) > policy.sizes.summaries:
            worst = min(token.score for _, token in held)
            held.remove(next(each for each in held if each[1].score == worst))
    for order, (_, token) in enumerate(held):
        token.place = policy.sinks + order * chunk + (chunk - 1) / 2
    for order, token in enumerate(recent):
        token.place = len(sinks) + len(held) * chunk + order
    return [*sinks, *(token for _, token in held), *recent], [number for number, _ in held]
