"""The losses of one batch: action flow, chunk denoising, and two auxiliary heads that teach the trunk where to look."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from streaming_vla.policy.compact.experts import LayerCache
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
    share = _shares(present)

    acting = _acting(length, source, generator)
    actions, previous = given["actions"][:, acting], given["previous"][:, acting]
    sums = {"rezero": torch.zeros_like(given["previous"]), "episode": given["since_start"], "pending": given["pending"]}
    start = sums[plan.flow.start][:, acting]
    acted = Acted(cache, seen[:, acting], (acting + 1) * block, _shares(present[:, acting]))
    flow, absolute, hidden = _flow_loss(model, actions, previous, start, acted, plan, generator)
    chunk = _chunk_loss(model, actions, acted, generator)
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


@dataclass(frozen=True)
class Acted:
    """The T' observations of each sequence whose actions are learned.

    Args:
        cache: rotated keys and values of every layer, of all T observations.
        seen: [B, T', T] bool, which observations each one sees.
        place: [T'], position of the first token behind each observation.
        share: [B, T'], of each one in the loss; 0 for those that do not exist.
    """

    cache: LayerCache
    seen: Tensor
    place: Tensor
    share: Tensor


def _shares(present: Tensor) -> Tensor:
    shares: Tensor = present.float() / present.sum().clamp(min=1)
    return shares


def _acting(length: int, source: Source, generator: torch.Generator) -> Tensor:
    """Return which of `length` observations act, see Source.acted."""
    if source.acted is None or source.acted >= length:
        return torch.arange(length, device=generator.device)
    last = source.acted // 2
    drawn = torch.randperm(length - last, generator=generator, device=generator.device)[: source.acted - last]
    return torch.cat((drawn.sort().values, torch.arange(length - last, length, device=generator.device)))


def _flow_loss(
    model: CompactModel,
    actions: Tensor,
    previous: Tensor,
    start: Tensor,
    acted: Acted,
    plan: TrainingPlan,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses of summed and of absolute dimensions, and (for the log) of the draws with a hidden state."""
    count, length = acted.share.shape
    draws, block, absolute = plan.flow.draws, model.config.tokens_per_observation, model.flow.absolute
    actions, previous, start = (each.flatten(0, 1) for each in (actions, previous, start))
    targets = draw_targets(actions, previous, start, absolute, plan.flow, generator)
    # a flow token stands right behind its own observation
    places = acted.place.repeat_interleave(draws)
    answer = model.flow(
        targets.position.view(count, length * draws, -1),
        targets.time.view(count, length * draws),
        acted.cache,
        places,
        block_mask(acted.seen, draws, block),
        targets.known.view(count, length * draws),
    )
    error = (answer.view(targets.target.shape) - targets.target).square()
    weight = acted.share.view(-1, 1).expand(-1, draws) / draws
    summed = error[..., ~absolute].mean(-1)
    hidden = weight * ~targets.known
    blind = (summed.detach() * hidden).sum() / hidden.sum().clamp(min=1e-6)
    return (summed * weight).sum(), (error[..., absolute].mean(-1) * weight).sum(), blind


def _chunk_loss(model: CompactModel, actions: Tensor, acted: Acted, generator: torch.Generator) -> Tensor:
    """Return the conditional flow-matching loss of whole chunks (Lipman et al., arXiv 2210.02747)."""
    count, length, horizon, _ = actions.shape
    noise = torch.randn(actions.shape, generator=generator, device=generator.device)
    time = 1.0 - torch.rand((count, length), generator=generator, device=generator.device) ** (
        1 / 1.5
    )  # more at the noisy end
    mixed = noise + time[..., None, None] * (actions - noise)
    mask = block_mask(acted.seen, horizon, model.config.tokens_per_observation)
    velocity = model.chunk(mixed, time, acted.cache, acted.place, mask)
    error = (velocity - (actions - noise)).square().mean((-2, -1))
    loss: Tensor = (error * acted.share).sum()
    return loss
