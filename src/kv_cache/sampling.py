"""Training a gate with the task's loss: one pass over [tokens ; summaries] in place of a pass per observation.

Every query of a whole episode sees what the cache would hold when it is asked: a mask hides tokens that have become
summaries and summaries that do not exist yet. Which chunks are kept is drawn hard, so that training sees what
inference does, and the gradient passes straight through the draw.

What helps, measured on benchmarks/kv_cache/cued_recall.py: start from a policy that knows the task, keep it from being
certain (label smoothing, or a loss that does not explode when the cue is missing), clip the gate's gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kv_cache.policies.base import Sizes

TEMPERATURE = 0.5  # of the relaxed draw
SLACK = 1.5  # chunks that a threshold may keep beyond the count, as a factor
MOST = 10.0  # of a dropped summary's logit above all that is seen: its gradient stays finite


def chunk_count(tokens: int, sizes: Sizes) -> int:
    """Return how many chunks have left the window of a cache that was given `tokens` tokens."""
    return max(0, tokens - sizes.sinks - sizes.recent) // sizes.chunk


def chunks_of(tokens: Tensor, sizes: Sizes) -> Tensor:
    """Cut the tokens [..., T, d] of an episode into the n chunks that leave the window, [..., n, C, d]."""
    count = chunk_count(tokens.shape[-2], sizes)
    old = tokens.narrow(-2, sizes.sinks, count * sizes.chunk) if count else tokens[..., :0, :]
    chunks: Tensor = old.unflatten(-2, (count, sizes.chunk))
    return chunks


def memory_mask(allowed: Tensor, held: Tensor, sizes: Sizes) -> Tensor:
    """Return who sees what over [tokens ; summaries], before any chunk is dropped.

    Args:
        allowed: [..., Q, T] bool, who may see which token without compression (block-causal).
        held: [Q], tokens that have been appended when a query is asked; its own block comes on top of them.
        sizes: of the cache.

    Returns:
        [..., Q, T + n] bool.
    """
    total = allowed.shape[-1]
    gone = ((held - sizes.sinks - sizes.recent).clamp(min=0) // sizes.chunk).unsqueeze(-1)  # chunks, [Q, 1]
    token = torch.arange(total, device=allowed.device)
    compressed = (token >= sizes.sinks) & ((token - sizes.sinks) // sizes.chunk < gone)
    made = torch.arange(chunk_count(total, sizes), device=allowed.device) < gone
    made = made.expand(*allowed.shape[:-1], made.shape[-1])
    return torch.cat((allowed & ~compressed, made), dim=-1)


def summary_positions(count: int, sizes: Sizes, device: torch.device | None = None) -> Tensor:
    """Return the positions of `count` summaries while nothing is dropped: the middle of each chunk, [n]."""
    first = sizes.sinks + sizes.chunk * torch.arange(count, device=device, dtype=torch.float64)
    return first + (sizes.chunk - 1) / 2


def closed_positions(keep: Tensor, held: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Return positions as they are after dropped chunks have closed up, which is what a cache has at run time.

    A query is at two places: at its own one for tokens of the window, and nearer to the front for sinks and summaries.

    Args:
        keep: [B, n] bool.
        held: [Q], see memory_mask.

    Returns:
        How far a query moves to the front as seen by sinks and summaries, [B, Q], and positions of summaries, [B, n].
    """
    lost = sizes.chunk * torch.nn.functional.pad((~keep).long().cumsum(dim=1), (1, 0))  # before chunk 0 .. n
    gone = (held - sizes.sinks - sizes.recent).clamp(min=0) // sizes.chunk
    return lost[:, gone], summary_positions(keep.shape[1], sizes, keep.device) - lost[:, :-1]


def hard_sample(logits: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Draw which chunks are kept: a Bernoulli draw by logistic noise.

    Args:
        logits: [B, n], of the gate.
        noise: [B, n], logistic; None draws it.

    Returns:
        keep [B, n] bool, and the weight of each summary in attention [B, n]: exactly 0 or 1, with the gradient of the
        relaxed draw.
    """
    if noise is None:
        uniform = torch.rand_like(logits).clamp(1e-6, 1.0 - 1e-6)
        noise = uniform.log() - (-uniform).log1p()
    relaxed = ((logits + noise) / TEMPERATURE).sigmoid()
    keep = logits + noise > 0
    return keep, keep + (relaxed - relaxed.detach())


def gated_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Attention over [tokens ; summaries] in which a summary's share is multiplied by its weight before normalising.

    A dropped summary gets exactly no attention, and still a gradient: what the answer would have gained from it. As an
    additive bias it gets none, because a softmax does not see minus infinity; a gate trained that way learned to close
    and not what to keep, and a finite bias is out-grown by the logits (benchmarks/kv_cache).

    Args:
        queries: [B, Hq, Q, d], rotated.
        keys, values: [B, Hkv, T + n, d], keys rotated.
        mask: [..., Q, T + n] bool, from memory_mask, that broadcasts against [B, Hq, Q, T + n].
        weight: [B, n], from hard_sample, or 0 and 1 for evaluation.

    Returns:
        [B, Hq, Q, d].
    """
    group = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    logits = (queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5).masked_fill(~mask, -math.inf)
    return gated_share(logits, weight) @ values


def gated_share(logits: Tensor, weight: Tensor) -> Tensor:
    """Return the softmax of logits [B, ..., N] in which each of the last n counts with a weight, [B, n].

    What may not be seen has the logit minus infinity.
    """
    count = weight.shape[1]
    weight = weight.view(len(weight), *(1,) * (logits.dim() - 2), count)
    # the largest of what is seen: beside a dropped one that is larger by far it would vanish
    tokens, summaries = logits.detach().split((logits.shape[-1] - count, count), dim=-1)
    top = torch.cat((tokens, summaries.masked_fill(weight == 0, -math.inf)), dim=-1).amax(dim=-1, keepdim=True)
    share = (logits - top).clamp(max=MOST).exp()
    tokens, summaries = share.split((share.shape[-1] - count, count), dim=-1)
    share = torch.cat((tokens, summaries * weight), dim=-1)
    return share / share.sum(dim=-1, keepdim=True)


def keep_penalty(logits: Tensor, count: float, there: Tensor | None = None) -> Tensor:
    """Return how much more than `count` chunks an episode keeps, as a share of its chunks, squared, mean over B.

    A count, not a rate: what is worth keeping does not grow with the length of an episode. Keeping fewer is free.

    Args:
        logits: [B, n], of the gate.
        there: [B, n] bool, False for chunks behind the end of a shorter episode; None: all are there.
    """
    there = torch.ones_like(logits, dtype=torch.bool) if there is None else there
    kept = (logits.sigmoid() * there).sum(dim=1)
    surplus = (kept - count).clamp(min=0.0) / there.sum(dim=1).clamp(min=1)
    return surplus.square().mean()


def ramp(step: int, steps: int) -> float:
    """Return the weight of the penalty: 0 at the start, 1 from the middle on.

    A constant one closes the gate before it has learned what to keep, and hard draws cannot open it again.
    """
    return min(1.0, 2.0 * step / max(steps, 1))


def threshold_for_count(scores: Tensor, count: float) -> float:
    """Return a threshold at which validation episodes, scores [E, n], keep `count` to 1.5 `count` chunks on average.

    Among these it lies in the widest gap of the scores' log-odds: a gate that has learned tells two groups apart, and
    their exact sizes are not known beforehand.

    Raises:
        ValueError: count is not positive.
    """
    if count <= 0:
        raise ValueError(f"threshold for count: count is {count}, it must be above 0")
    odds = scores.flatten().double().clamp(1e-9, 1.0 - 1e-9).logit().sort(descending=True).values
    least = max(1, round(count * len(scores)))
    if least >= len(odds):
        return float(odds[-1].sigmoid()) / 2
    most = min(max(least, round(SLACK * count * len(scores))), len(odds) - 1)
    gaps = odds[least - 1 : most] - odds[least : most + 1]
    cut = least + int(gaps.argmax())
    return float(((odds[cut - 1] + odds[cut]) / 2).sigmoid())


def threshold_for_recall(scores: Tensor, needed: Tensor, recall: float) -> float:
    """Return the highest threshold that keeps the share `recall` of the chunks [E, n] that are `needed`.

    Raises:
        ValueError: recall is not in (0, 1], or no chunk is needed.
    """
    if not 0.0 < recall <= 1.0 or not bool(needed.any()):
        raise ValueError(
            f"threshold for recall: recall {recall} of {int(needed.sum())} chunks, expected 0 to 1 of some"
        )
    ordered = scores[needed].sort(descending=True).values
    return float(ordered[min(len(ordered), math.ceil(recall * len(ordered))) - 1])
