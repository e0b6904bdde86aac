"""What a gate is taught with: the policy's own losses and the naming of what is to be remembered."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kv_cache.policies.base import Sizes
from kv_cache.sampling import chunk_count, keep_penalty
from kv_cache.training.draws import Draw
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.training.augment import augment_pictures, disturbed_state
from streaming_vla.training.dataset import ANSWERS
from streaming_vla.training.gate_data import NOTHING, GateBatch
from streaming_vla.training.gate_network import Network, Passed
from streaming_vla.training.gate_plan import GatePlan
from streaming_vla.training.losses import Acted, chunk_loss, flow_loss, goals_loss
from streaming_vla.training.plan import Augment

# a probe that is certain loses so much when the cue is missing that the gate stays open
SMOOTHING = 0.1


class Probe(nn.Module):
    """Heads that exist in training only: what is to be remembered (or that nothing is), and where every goal is.

    Both read an observation's last token. Without the second the trunk of a policy that learns along loses the places
    that it was taught in the stages before, and with them the actions that lead there.

    Args:
        width: of the trunk's tokens.
        mean, scale: [2], of x and y of objects and goals, metres.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.recall = nn.Linear(width, NOTHING + 1)
        self.goals = nn.Linear(width, 2 * ANSWERS)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)


def embed(model: CompactModel, batch: GateBatch, augment: Augment, generator: torch.Generator) -> Tensor:
    """Return the tokens of a batch, disturbed by `augment`, [B, T * tokens_per_observation, width]."""
    count, length = batch.present.shape
    pictures = augment_pictures(batch.given["pictures"], augment, generator).flatten(0, 1)
    state = disturbed_state(batch.given["state"].flatten(0, 1), model.state_scale, augment, generator)
    words = batch.given["words"].repeat_interleave(length, dim=0)
    return model.encode(pictures, state, words).view(count, -1, model.config.width)


def chunks_where(observations: Tensor, block: int, sizes: Sizes) -> Tensor:
    """Return the chunks [B, n] that hold a token of the marked observations [B, T] of `block` tokens."""
    count = chunk_count(observations.shape[1] * block, sizes)
    begin = sizes.sinks + sizes.chunk * torch.arange(count, device=observations.device)
    before = functional.pad(observations.long().cumsum(dim=1), (1, 0))
    return before[:, (begin + sizes.chunk - 1) // block + 1] > before[:, begin // block]


def judged(present: Tensor, block: int, sizes: Sizes) -> Tensor:
    """Return the chunks [B, n] that have left the window when the last observation of `present` [B, T] has come."""
    number = torch.arange(chunk_count(present.shape[1] * block, sizes), device=present.device)
    left = (present.sum(dim=1, keepdim=True) * block - sizes.sinks - sizes.recent).clamp(min=0)
    return number < left // sizes.chunk


def gate_loss(
    network: Network,
    draw: Draw,
    probe: Probe,
    batch: GateBatch,
    tokens: Tensor,
    plan: GatePlan,
    penalty: float,
    generator: torch.Generator,
) -> tuple[Tensor, Passed, dict[str, float]]:
    """Return the loss of a batch, the pass that gave it and its parts for the log.

    Args:
        tokens: of the batch, see embed.
        penalty: weight of what is kept beyond the plan's count.
    """
    passed = network.run(tokens, draw)
    weights = plan.weights
    there = judged(batch.present, network.model.config.tokens_per_observation, plan.cache.sizes)
    there = there[:, : passed.logits.shape[1]]  # with a full history there are none
    some = batch.taught.any(dim=0)
    some[0] |= not some.any()  # where nothing is learned one answers whose share is 0
    acting = some.nonzero().squeeze(1)
    acted = Acted.of(batch.given, acting, batch.taught, network.model)
    flow, absolute = flow_loss(
        lambda moment: network.flow(passed, acting, moment), acted, network.model, plan.augment, generator
    )
    loss = flow + weights.absolute * absolute
    if plan.learning.policy_rate and weights.chunk:
        chunk = chunk_loss(
            lambda *noisy: network.chunk(passed, acting, *noisy), acted, network.model, plan.augment, generator
        )
        loss = loss + weights.chunk * chunk
    named = batch.recall.masked_fill(~batch.present, -1).flatten()
    told = probe.recall(passed.ends).flatten(0, 1)
    recall = functional.cross_entropy(told, named, ignore_index=-1, reduction="sum", label_smoothing=SMOOTHING)
    recall = recall / (named >= 0).sum().clamp(min=1)
    goals = goals_loss(probe.goals(passed.ends), batch.given["goals"], probe.mean, probe.scale)
    surplus = keep_penalty(passed.logits, plan.keep.count, there)
    loss = loss + weights.recall * recall + weights.goals * goals + penalty * surplus
    kept = (passed.fate.keep & there).float().sum(dim=1).mean()
    parts = {"flow": flow, "recall": recall, "goals": goals, "kept": kept}
    if there.any():
        parts["spread"] = passed.logits[there].std(correction=0)  # near 0: the gate judges all chunks alike
    return loss, passed, {name: float(value.detach()) for name, value in parts.items()}
