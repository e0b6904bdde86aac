"""What a model's own attention says of each of its tokens: how much the queries to come look at it, head by head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kv_cache.huggingface_spec import rotation, spec_of
from kv_cache.rotary import apply_rotary
from kv_cache.training.attention import attending, causal

LEAST = 1e-6  # attention that counts as none


@dataclass(frozen=True)
class HeadLesson:
    """Tokens of a sequence, and the attention that they received.

    Args:
        tokens: [L, Hkv, n, 2d], keys before rotation and values.
        received: [L, Hkv, n], logarithm of the mean attention of the queries behind the moment of asking.
        age: [n], of each token at that moment.
    """

    tokens: Tensor
    received: Tensor
    age: Tensor


@torch.no_grad()
def teach_heads(model: PreTrainedModel, tokens: Tensor, recent: int, most: int, random: torch.Generator) -> HeadLesson:
    """Run a model over tokens [1, T]; ask at the half and at three quarters for the quarter that follows.

    Every query counts as one whatever it looks at, and a token is judged by the same number of queries at every age: so
    age is known apart from what a token is.

    Args:
        recent: newest tokens that stay in any case, of which nothing is asked.
        most: tokens that are drawn at each moment, the first half of the lesson for the first one.
    """
    spec, total = spec_of(model), tokens.shape[1]
    quarter = total // 4
    moments = (total - 2 * quarter, total - quarter)
    count = min(most, moments[0] - recent)  # as many at both moments
    chosen = [torch.randperm(moment - recent, generator=random)[:count].sort().values for moment in moments]
    every, parts = torch.cat(chosen), list[tuple[Tensor, Tensor]]()
    cos, sin = rotation(spec, torch.arange(total))

    def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        group = queries.shape[1] // keys.shape[1]
        grouped, received = queries[0].unflatten(0, (-1, group)), []  # [Hkv, G, T, d]
        for moment, places in zip(moments, chosen, strict=True):
            asking = grouped[:, :, moment : moment + quarter]
            logits = asking @ keys[0].unsqueeze(1).transpose(-1, -2) / keys.shape[-1] ** 0.5
            later = torch.ones(quarter, total, dtype=torch.bool).triu(moment + 1)
            share = logits.masked_fill_(later, -torch.inf).softmax(dim=-1)
            received.append(share.mean(dim=(1, 2))[:, places])
        plain = torch.cat((apply_rotary(keys, cos, -sin), values), dim=-1)[0]
        parts.append((plain[:, every], torch.cat(received, dim=-1).clamp(min=LEAST).log()))
        return causal(queries, keys, values)

    with attending(model, attend):
        model.get_decoder()(input_ids=tokens, use_cache=False)
    age = torch.cat([moment - places for moment, places in zip(moments, chosen, strict=True)])
    return HeadLesson(torch.stack([part for part, _ in parts]), torch.stack([part for _, part in parts]), age)
