"""The losses of one batch: action flow, chunk denoising, and two auxiliary heads that teach the trunk where to look."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from streaming_vla.policy.compact.model import CompactModel
from streaming_vla.training.augment import augment_pictures, history_mask
from streaming_vla.training.dataset import Batch
from streaming_vla.training.flow_targets import draw_targets
from streaming_vla.training.plan import Source, TrainingPlan

RECALL_CLASSES = 4
SCENE_SIZE = 6


class Auxiliary(nn.Module):
    """Heads that exist in training only: where object and goal are, and what is to be remembered.

    Args:
        width: of the trunk's tokens.
    """

    scene_mean: Tensor
    scene_scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seen = nn.Linear(width, SCENE_SIZE)  # from the first camera's keypoints alone
        self.known = nn.Linear(width, SCENE_SIZE)  # from the trunk's last token of an observation
        self.recall = nn.Linear(width, RECALL_CLASSES)
        self.register_buffer("scene_mean", torch.zeros(SCENE_SIZE))
        self.register_buffer("scene_scale", torch.ones(SCENE_SIZE))


def block_mask(seen: Tensor, rows: int, columns: int) -> Tensor:
    """Blow a mask of observations [B, T, T] up to tokens, [B, 1, T * rows, T * columns]."""
    return seen.repeat_interleave(rows, dim=1).repeat_interleave(columns, dim=2).unsqueeze(1)


def batch_loss(
    model: CompactModel,
    auxiliary: Auxiliary,
    batch: Batch,
    source: Source,
    plan: TrainingPlan,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one batch and its parts for the log."""
    config, weights = model.config, plan.weights
    given = {name: torch.from_numpy(array).to(generator.device) for name, array in vars(batch).items()}
    pictures = augment_pictures(given["pictures"], plan.augment, generator)
    count, length = pictures.shape[:2]
    state = given["state"].flatten(0, 1)
    state = state + plan.augment.state_noise * model.state_scale * torch.randn(
        state.shape, generator=generator, device=generator.device
    )
    words = given["words"].repeat_interleave(length, dim=0)
    tokens = model.encode(pictures.flatten(0, 1), state, words)
    block = config.tokens_per_observation
    present = given["present"]
    seen = history_mask(present, source, generator)
    cache, last = model.trunk(tokens.view(count, length * block, -1), block_mask(seen, block, block))
    share = present.float() / present.sum().clamp(min=1)  # [B, T]

    actions = given["actions"]
    flow, absolute, hidden = _flow_loss(model, actions, given["previous"], cache, seen, share, plan, generator)
    chunk = _chunk_loss(model, actions, cache, seen, share, generator)
    scene = (given["scene"] - auxiliary.scene_mean) / auxiliary.scene_scale
    told = auxiliary.seen(tokens[:, 0]).view_as(scene)
    ends = last.view(count, length, block, -1)[:, :, -1]
    where = (told - scene).square().mean(-1) + (auxiliary.known(ends) - scene).square().mean(-1)
    recall = functional.cross_entropy(
        auxiliary.recall(ends).flatten(0, 1), given["recall"].flatten(), ignore_index=-1, reduction="sum"
    ) / max(1, int((batch.recall >= 0).sum()))
    parts = {
        "flow": flow,
        "absolute": absolute,
        "hidden": hidden,
        "chunk": chunk,
        "scene": (where * share).sum(),
        "recall": recall,
    }
    loss = (
        flow
        + weights.absolute * absolute
        + weights.chunk * chunk
        + weights.scene * parts["scene"]
        + weights.recall * recall
    )
    return loss, {name: float(value.detach()) for name, value in parts.items()}


def _flow_loss(
    model: CompactModel,
    actions: Tensor,
    previous: Tensor,
    cache: list[tuple[Tensor, Tensor]],
    seen: Tensor,
    share: Tensor,
    plan: TrainingPlan,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses of summed and of absolute dimensions, and (for the log) of the draws with a hidden state."""
    count, length = share.shape
    draws, block, absolute = plan.flow.draws, model.config.tokens_per_observation, model.flow.absolute
    targets = draw_targets(actions.flatten(0, 1), previous.flatten(0, 1), absolute, plan.flow, generator)
    # a flow token stands right behind its own observation
    places = (torch.arange(1, length + 1, device=share.device) * block).repeat_interleave(draws)
    answer = model.flow(
        targets.position.view(count, length * draws, -1),
        targets.time.view(count, length * draws),
        cache,
        places,
        block_mask(seen, draws, block),
        targets.known.view(count, length * draws),
    )
    error = (answer.view(targets.target.shape) - targets.target).square()
    weight = share.view(-1, 1).expand(-1, draws) / draws
    summed = error[..., ~absolute].mean(-1)
    hidden = weight * ~targets.known
    blind = (summed.detach() * hidden).sum() / hidden.sum().clamp(min=1e-6)
    return (summed * weight).sum(), (error[..., absolute].mean(-1) * weight).sum(), blind


def _chunk_loss(
    model: CompactModel,
    actions: Tensor,
    cache: list[tuple[Tensor, Tensor]],
    seen: Tensor,
    share: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return the conditional flow-matching loss of whole chunks (Lipman et al., arXiv 2210.02747)."""
    count, length, horizon, _ = actions.shape
    noise = torch.randn(actions.shape, generator=generator, device=generator.device)
    time = 1.0 - torch.rand((count, length), generator=generator, device=generator.device) ** (
        1 / 1.5
    )  # more at the noisy end
    mixed = noise + time[..., None, None] * (actions - noise)
    block = model.config.tokens_per_observation
    first = torch.arange(1, length + 1, device=share.device) * block
    velocity = model.chunk(mixed, time, cache, first, block_mask(seen, horizon, block))
    error = (velocity - (actions - noise)).square().mean((-2, -1))
    loss: Tensor = (error * share).sum()
    return loss
