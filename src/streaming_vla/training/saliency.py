"""Trains the look-ahead predictor of a policy, and checks it on episodes that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from streaming_vla.policies.compact.policy import CompactPolicy
from streaming_vla.saliency.loading import Sizes, save_predictor, sizes_for
from streaming_vla.saliency.predictor import ChangePredictor, norm, predictor_loss, typical_change
from streaming_vla.training.dataset import fingerprint
from streaming_vla.training.saliency_data import Pairs, PairSampler, chosen_files, encode_all, is_held_out
from streaming_vla.training.saliency_plan import SaliencyPlan

LINEAR_PAIRS = 16_000  # pairs that the linear baseline is fitted on
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)  # of the linear baseline, per pair; the check takes the one that suits it best

Report = Callable[[str, int, int], None]
"""Told what is done, how much of it, and how much there is."""


@dataclass(frozen=True)
class Check:
    """Held-out pairs: mean squared error per feature, and rank correlation of the said with the true size of a change.

    Args:
        error: of the predictor; error_nothing: of "nothing changes"; error_linear: of a ridge regression from tokens
            and actions.
        rank: of the predictor's saliency; rank_linear: of the regression's; rank_action_norm: of the length of the
            summed action.
    """

    pairs: int
    error: float
    error_nothing: float
    error_linear: float
    rank: float
    rank_linear: float
    rank_action_norm: float

    def sentence(self) -> str:
        """Return the check in one line."""
        return (
            f"held out ({self.pairs} pairs): error {self.error:.4f}, nothing changes {self.error_nothing:.4f}, linear "
            f"{self.error_linear:.4f}; rank correlation with the true change {self.rank:.2f}, linear "
            f"{self.rank_linear:.2f}, action norm {self.rank_action_norm:.2f}"
        )


def train_saliency(
    policy: CompactPolicy, folder: Path, plan: SaliencyPlan, output: Path, seed: int, report: Report
) -> Check:
    """Train a predictor on the demonstrations in `folder`, check it, and write it to `output`.

    Raises:
        FileNotFoundError: there are no demonstrations.
        ValueError: they do not fit the policy or the plan.
    """
    files = chosen_files(folder, plan.episodes_per_task)
    held_out = [is_held_out(file, plan.held_out) for file in files]
    if all(held_out) or not any(held_out):
        raise ValueError(
            f"saliency: of {len(files)} episodes {sum(held_out)} are held out, expected some and not all: record more "
            "demonstrations, or change held_out"
        )
    encoded = 0

    def done() -> None:
        nonlocal encoded
        encoded += 1
        report("encoding episodes", encoded, len(files))

    absolute = policy.spec.layout.absolute
    learned, checked = (
        PairSampler(
            list(encode_all([f for f, out in zip(files, held_out, strict=True) if out is want], policy, done)),
            plan.longest_wait,
            absolute,
        )
        for want in (False, True)
    )
    sizes = sizes_for(policy, plan.width)
    predictor = fit(learned, sizes, plan, seed, report)
    check = check_against(
        predictor,
        learned.draw(LINEAR_PAIRS, np.random.default_rng((seed, 1))),
        checked.draw(plan.check_pairs, np.random.default_rng((seed, 2))),
        ~np.asarray(absolute),
    )
    about = {
        "plan": plan.model_dump(mode="json"),
        "seed": seed,
        "demonstrations": fingerprint(files) | {"frames": learned.frames + checked.frames},
        "check": asdict(check),
    }
    save_predictor(output, predictor, sizes, policy, about)
    return check


def fit(pairs: PairSampler, sizes: Sizes, plan: SaliencyPlan, seed: int, report: Report) -> ChangePredictor:
    """Return a trained predictor, in evaluation mode, its scale set to a typical change."""
    torch.manual_seed(seed)
    random = np.random.default_rng((seed, 0))
    predictor = sizes.make()
    optimiser = torch.optim.AdamW(
        predictor.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay, betas=(0.9, 0.99)
    )
    for step in range(plan.steps):
        for group in optimiser.param_groups:
            group["lr"] = plan.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / plan.steps))
        drawn = pairs.draw(plan.batch, random)
        optimiser.zero_grad(set_to_none=True)
        predictor_loss(predictor, drawn.tokens, drawn.actions, drawn.later).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(predictor.parameters(), 1.0)
        optimiser.step()
        report("training steps", step + 1, plan.steps)
    typical = pairs.draw(LINEAR_PAIRS, random)
    predictor.scale.copy_(typical_change(typical.tokens, typical.later))
    return predictor.eval()


@torch.inference_mode()
def check_against(
    predictor: ChangePredictor, learned: Pairs, held_out: Pairs, summed: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> Check:
    """Compare a predictor with "nothing changes", a linear regression fitted on `learned`, and the action's length.

    Args:
        summed: [A], dimensions that are changes.
    """
    true = held_out.change
    said = predictor(held_out.tokens, held_out.actions)
    linear = _linear(learned, held_out)
    size = norm(true)
    return Check(
        pairs=len(true),
        error=float((said - true).square().mean()),
        error_nothing=float(true.square().mean()),
        error_linear=float((linear - true).square().mean()),
        rank=_rank_correlation(norm(said), size),
        rank_linear=_rank_correlation(norm(linear), size),
        rank_action_norm=_rank_correlation(held_out.actions[:, torch.from_numpy(summed)].norm(dim=-1), size),
    )


def _linear(learned: Pairs, held_out: Pairs) -> Tensor:
    """Return what the best of several ridge regressions from tokens and actions says of the held-out pairs."""
    inputs = [torch.cat((pairs.tokens.flatten(1), pairs.actions), dim=1) for pairs in (learned, held_out)]
    mean, scale = inputs[0].mean(0), inputs[0].std(0).clamp(min=1e-6)
    rows, new = ((values - mean) / scale for values in inputs)
    target = learned.change.flatten(1)
    offset = target.mean(0)
    gram, product = rows.T @ rows, rows.T @ (target - offset)
    eye = len(rows) * torch.eye(gram.shape[0])
    answers: list[Tensor] = [new @ torch.linalg.solve(gram + ridge * eye, product) + offset for ridge in RIDGES]
    true = held_out.change
    shaped: list[Tensor] = [answer.view_as(true) for answer in answers]
    errors = [float((answer - true).square().mean()) for answer in shaped]
    return shaped[errors.index(min(errors))]


def _rank_correlation(first: Tensor, second: Tensor) -> float:
    """Return Spearman's rank correlation of two vectors without many ties."""
    ranks = torch.stack([values.argsort().argsort().float() for values in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1])
