"""Validation of a gate: its threshold, and what is remembered with it and with other caches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kv_cache.policies.base import Sizes
from kv_cache.sampling import threshold_for_count, threshold_for_recall
from kv_cache.training.draws import Draw, check_apart, keep_all, keep_from, keep_none
from streaming_vla.training.gate_data import GateBatch
from streaming_vla.training.gate_losses import Probe, chunks_where, gate_loss, judged
from streaming_vla.training.gate_network import FullNetwork, GatedNetwork, Network
from streaming_vla.training.gate_plan import GatePlan

Embedded = tuple[GateBatch, Tensor]


@torch.inference_mode()
def calibrate(
    network: GatedNetwork, probe: Probe, batches: Sequence[Embedded], plan: GatePlan
) -> tuple[float, dict[str, Any]]:
    """Return the threshold and what validation sequences say of it.

    The threshold lies in the widest gap of the scores around the plan's count, or lower if the cue of some class would
    be dropped more often than the plan allows.

    Args:
        batches: of memory sources, with their tokens.

    Returns:
        The threshold, and per cache (`all` keeps every chunk): recall (share of sequences whose last observation names
        what was to be remembered), flow (loss), tokens held at the end; and the share of the sequences of each class in
        which a chunk of the cue is kept.

    Raises:
        ValueError: the gate judges all chunks alike, or a class has no chunk of its cue.
    """
    block = network.model.config.tokens_per_observation
    scores, best, kinds = [], [], []
    for batch, embedded in batches:
        _, passed, _ = gate_loss(network, keep_all, probe, batch, embedded, plan, 0.0, _fresh())
        there = judged(batch.present, block, network.sizes)
        of_cue = chunks_where(batch.cue, block, network.sizes) & there
        scores.append(passed.logits.sigmoid() * there)
        best.append((scores[-1] * of_cue).amax(dim=1).where(of_cue.any(dim=1), math.nan))
        kinds += [f"{task}.{label}" for task, label in zip(batch.tasks, batch.recall[:, -1].tolist(), strict=True)]
    check_apart(torch.cat([each.flatten() for each in scores]))
    cues = torch.cat(best)  # [E], the score of the best chunk of each sequence's cue; NaN where it is in none
    groups = {kind: torch.tensor([each == kind for each in kinds]) & ~cues.isnan() for kind in sorted(set(kinds))}
    if never := [kind for kind, group in groups.items() if not group.any()]:
        raise ValueError(
            f"gate: no chunk holds the cue of {', '.join(never)}: the plan's cache.sinks or cache.recent keep it, or "
            "the source's length is too short for it to leave the window"
        )
    most = max(each.shape[1] for each in scores)
    padded = torch.cat([functional.pad(each, (0, most - each.shape[1])) for each in scores])
    thresholds = [threshold_for_count(padded, plan.keep.count)]
    thresholds += [threshold_for_recall(cues, group, plan.keep.recall) for group in groups.values()]
    threshold = min(thresholds)
    kept = {kind: float((cues[group] >= threshold).float().mean()) for kind, group in groups.items()}
    caches: dict[str, tuple[Network, Draw]] = {
        "full": (FullNetwork(network.model), keep_none),
        "gated": (network, keep_from(threshold)),
        "all": (network, keep_all),
        "window": (network, keep_none),
    }
    results = {name: _judge(*cache, network.sizes, probe, batches, plan) for name, cache in caches.items()}
    return threshold, {"threshold": threshold, "cue_kept": kept, "caches": results}


def _judge(
    network: Network, draw: Draw, sizes: Sizes, probe: Probe, batches: Sequence[Embedded], plan: GatePlan
) -> dict[str, float]:
    block = network.model.config.tokens_per_observation
    right, flow, tokens = [], [], []
    for batch, embedded in batches:
        _, passed, parts = gate_loss(network, draw, probe, batch, embedded, plan, 0.0, _fresh())
        flow.append(parts["flow"])
        count = batch.present.sum(dim=1)
        last = (count - 1).view(-1, 1, 1).expand(-1, 1, passed.ends.shape[-1])
        told = probe.recall(passed.ends.gather(1, last)).squeeze(1).argmax(dim=1)
        wanted = batch.recall.gather(1, (count - 1).unsqueeze(1)).squeeze(1)
        right.append((told == wanted)[wanted >= 0].float())
        if isinstance(network, FullNetwork):
            tokens.append((count * block).float())
            continue
        there = judged(batch.present, block, sizes)
        kept = (passed.fate.keep & there).sum(dim=1)
        tokens.append((count * block - there.sum(dim=1) * sizes.chunk + kept).float())
    recall = torch.cat(right)
    return {
        "recall": float(recall.mean()) if len(recall) else math.nan,
        "flow": sum(flow) / len(flow),
        "tokens": float(torch.cat(tokens).mean()),
    }


def _fresh() -> torch.Generator:
    """Every cache is judged with the same noise."""
    return torch.Generator().manual_seed(0)
