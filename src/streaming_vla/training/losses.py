"""The losses of one batch: action flow, chunk denoising, and auxiliary heads: where to look and what to remember."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from streaming_vla.policies.compact.experts import Moment
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.training.augment import augment_pictures, disturbed_state, history_mask
from streaming_vla.training.dataset import ANSWERS, Batch
from streaming_vla.training.plan import Augment, Source, TrainingPlan

SCENE_SIZE = 6
WORST = 2.0  # error of an action that counts, action units


class Auxiliary(nn.Module):
    """Heads that exist in training only: where object and goals are, and what is to be remembered.

    Args:
        width: of the trunk's tokens.
    """

    scene_mean: Tensor
    scene_scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seen = nn.Linear(width, SCENE_SIZE)  # from the first camera's keypoints alone
        self.known = nn.Linear(width, SCENE_SIZE)  # from the trunk's last token of an observation
        self.recall = nn.Linear(width, ANSWERS)
        self.goals = nn.Linear(width, 2 * ANSWERS)  # which of them is right is not asked
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
    state = disturbed_state(given["state"].flatten(0, 1), model.state_scale, plan.augment, generator)
    words = given["words"].repeat_interleave(length, dim=0)
    tokens = model.encode(pictures.flatten(0, 1), state, words)
    block = config.tokens_per_observation
    present = given["present"]
    seen = history_mask(present, source, generator)
    cache, last = model.trunk(tokens.view(count, length * block, -1), block_mask(seen, block, block))

    acting = _acting(length, source, generator)
    # a flow token, and the first of a chunk, stands right behind its own observation
    sees, behind, draws = seen[:, acting], (acting + 1) * block, given["age"].shape[-1]
    acted = Acted.of(given, acting, present, model)

    def act(moment: Moment) -> Tensor:
        mask, places = block_mask(sees, draws, block), behind.repeat_interleave(draws)
        answer: Tensor = model.flow(moment, cache, places, mask)
        return answer

    def denoise(noisy: Tensor, time: Tensor, begin: Moment) -> Tensor:
        mask = block_mask(sees, config.chunk_horizon, block)
        answer: Tensor = model.chunk(noisy, time, begin, cache, behind, mask)
        return answer

    flow, absolute = flow_loss(act, acted, model, plan.augment, generator)
    nothing = flow.new_zeros(())
    chunk = chunk_loss(denoise, acted, model, plan.augment, generator) if weights.chunk else nothing
    doubt = nothing
    if weights.doubt:
        seen = block_mask(sees, 1, block)
        judged = model.flow.judge(acted.first(model), cache, behind, seen)
        fresh = augment_pictures(given["fresh"], plan.augment, generator)[:, acting]
        doubt = doubt_loss(model, *judged, acted, fresh, words.view(count, length, -1)[:, acting])
    ends = last.view(count, length, block, -1)[:, :, -1]
    scene, recall, goals = _auxiliary_losses(auxiliary, tokens[:, 0], ends, given, _shares(present))
    loss = (
        flow
        + weights.absolute * absolute
        + weights.chunk * chunk
        + weights.scene * scene
        + weights.recall * recall
        + weights.goals * goals
        + weights.doubt * doubt
    )
    parts = {"flow": flow, "absolute": absolute, "chunk": chunk, "doubt": doubt}
    parts |= {"scene": scene, "recall": recall, "goals": goals}
    return loss, {name: float(value.detach()) for name, value in parts.items()}


def _auxiliary_losses(
    auxiliary: Auxiliary, keypoints: Tensor, ends: Tensor, given: Mapping[str, Tensor], share: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses of naming the scene, what is to be remembered, and the goals of all answers.

    Args:
        keypoints: [B * T, width], first token of the first camera.
        ends: [B, T, width], last token of every observation.
        given: by the names of Batch.
        share: [B, T], of each observation in the loss of the scene.
    """
    mean, scale = auxiliary.scene_mean, auxiliary.scene_scale
    scene = (given["scene"] - mean) / scale
    seen, known = auxiliary.seen(keypoints).view_as(scene), auxiliary.known(ends)
    off = (seen - scene).square().mean(-1) + (known - scene).square().mean(-1)
    named = given["recall"].flatten()
    recall = functional.cross_entropy(auxiliary.recall(ends).flatten(0, 1), named, ignore_index=-1, reduction="sum") / (
        named >= 0
    ).sum().clamp(min=1)
    return (off * share).sum(), recall, goals_loss(auxiliary.goals(ends), given["goals"], mean[:2], scale[:2])


def goals_loss(told: Tensor, goals: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Return the loss of naming the goals of all answers.

    Args:
        told: [B, T, 2 * ANSWERS], in units of `scale` from `mean` ([2] each, metres).
        goals: [B, T, ANSWERS, 2], metres; NaN where a goal is not shown, which costs nothing.
    """
    wanted = (goals - mean) / scale
    shown = wanted.isfinite()
    loss: Tensor = (told.view_as(wanted) - wanted.nan_to_num()).square()[shown].sum() / shown.sum().clamp(min=1)
    return loss


@dataclass(frozen=True)
class Acted:
    """The T' observations of each sequence whose actions are learned.

    Args:
        age: [B, T', D]; later: [B, T', D, state_size]; pending, answer: [B, T', D, A]; chunk: [B, T', H, A]; see Batch;
            answer and chunk as the heads of the network tell them.
        share: [B, T'], of each observation in the loss; 0 for those that are not learned from.
    """

    age: Tensor
    later: Tensor
    pending: Tensor
    answer: Tensor
    chunk: Tensor
    share: Tensor

    @classmethod
    def of(cls, given: Mapping[str, Tensor], acting: Tensor, taught: Tensor, model: CompactModel) -> Acted:
        """Return the observations `acting` [T'] of a batch's tensors, as far as they are `taught` [B, T] bool.

        Args:
            given: by the names of Batch.
        """
        parts = {name: given[name][:, acting] for name in ("age", "later", "pending", "answer", "chunk")}
        before = parts["pending"]
        parts |= {
            "answer": model.told(parts["answer"], before),
            "chunk": model.chunk_told(parts["chunk"], before[:, :, 0]),
        }
        return cls(**parts, share=_shares(taught[:, acting]))

    def moments(self, model: CompactModel, augment: Augment, generator: torch.Generator) -> Moment:
        """Return the moments [B, T', D] as the network takes them, their states disturbed."""
        return model.moment(disturbed_state(self.later, model.state_scale, augment, generator), self.pending, self.age)

    def first(self, model: CompactModel) -> Moment:
        """Return the first moment of each observation [B, T'] as it was recorded."""
        return model.moment(self.later[:, :, 0], self.pending[:, :, 0], self.age[:, :, 0])


def _shares(present: Tensor) -> Tensor:
    """Return equal shares of what is True in [B, T]."""
    shares: Tensor = present.float() / present.sum().clamp(min=1)
    return shares


def _acting(length: int, source: Source, generator: torch.Generator) -> Tensor:
    """Return which of `length` observations act, see Source.acted."""
    if source.acted is None or source.acted >= length:
        return torch.arange(length, device=generator.device)
    last = source.acted // 2
    drawn = torch.randperm(length - last, generator=generator, device=generator.device)[: source.acted - last]
    return torch.cat((drawn.sort().values, torch.arange(length - last, length, device=generator.device)))


def flow_loss(
    act: Callable[[Moment], Tensor],
    acted: Acted,
    model: CompactModel,
    augment: Augment,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return the losses of summed and of absolute dimensions: squares, and half of the absolute values.

    Args:
        act: answers moments [B, T' * D] with [B, T' * D, A]; the D moments of an observation follow each other.
        augment: disturbs the states.
    """
    answer = act(acted.moments(model, augment, generator).flatten())
    off = answer.view(acted.answer.shape) - acted.answer
    error, weight = off.square() + 0.5 * off.abs(), acted.share.unsqueeze(-1) / acted.age.shape[-1]
    absolute = model.absolute
    return (_mean(error[..., ~absolute]) * weight).sum(), (_mean(error[..., absolute]) * weight).sum()


def _mean(error: Tensor) -> Tensor:
    """Return the mean over the dimensions [..., A]; 0 where a robot has none of the kind."""
    return error.mean(-1) if error.shape[-1] else error.new_zeros(error.shape[:-1])


def chunk_loss(
    velocity: Callable[[Tensor, Tensor, Moment], Tensor],
    acted: Acted,
    model: CompactModel,
    augment: Augment,
    generator: torch.Generator,
) -> Tensor:
    """Return the conditional flow-matching loss of whole chunks (Lipman et al., arXiv 2210.02747).

    Args:
        velocity: answers chunks [B, T', H, A] at times [B, T'] that begin at moments [B, T'] with [B, T', H, A].
        augment: disturbs the states.
    """
    begin = Moment(*(part[:, :, 0] for part in acted.moments(model, augment, generator)))
    actions = acted.chunk
    noise = torch.randn(actions.shape, generator=generator, device=generator.device)
    # more at the noisy end
    time = 1.0 - torch.rand(actions.shape[:2], generator=generator, device=generator.device) ** (1 / 1.5)
    mixed = noise + time[..., None, None] * (actions - noise)
    error = (velocity(mixed, time, begin) - (actions - noise)).square().mean((-2, -1))
    loss: Tensor = (error * acted.share).sum()
    return loss


def doubt_loss(
    model: CompactModel, answer: Tensor, doubt: Tensor, acted: Acted, fresh: Tensor, words: Tensor
) -> Tensor:
    """Return how far off the doubt is: what is said against how much less wrong a picture of then makes the action.

    Args:
        answer, doubt: [B, T', A] and [B, T'], of the first moments.
        fresh: [B, T', cameras, 3, S, S], seen at these moments.
        words: [B, T', maximum_words].
    """
    state = acted.later[:, :, 0]
    with torch.no_grad():
        tokens = model.encode(fresh.flatten(0, 1), state.flatten(0, 1), words.flatten(0, 1))
        cache, _ = model.trunk(tokens, None)
        now = Moment(*(part.flatten(0, 1).unsqueeze(1) for part in acted.first(model)))
        behind = torch.tensor([tokens.shape[1]], device=tokens.device)
        better = model.flow(now._replace(age=torch.zeros_like(now.age)), cache, behind, None).view(answer.shape)
        wrong, less = ((each - acted.answer[:, :, 0]).abs().clamp(max=WORST).mean(-1) for each in (answer, better))
    loss: Tensor = ((doubt - (wrong - less)).square() * acted.share).sum()
    return loss


def check_finite(loss: Tensor, step: int) -> None:
    """Raise ValueError when the loss is no number: what is learned from then on would be none either."""
    if not bool(torch.isfinite(loss)):
        raise ValueError(
            f"training: the loss of step {step} is not finite: look for numbers in the demonstrations that are not, or "
            "lower the learning rate; a run goes on from its last checkpoint"
        )
