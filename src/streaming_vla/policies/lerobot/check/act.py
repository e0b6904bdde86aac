"""What ACT computes on its way from an observation to actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kv_cache.cache import SessionCache
from kv_cache.policies import Full
from streaming_vla.policies.contract import PolicyObservation, prefill_whole, run_slices
from streaming_vla.policies.lerobot.act_policy import ACTPolicy
from streaming_vla.policies.lerobot.ensemble import ensembled

DECAY = 0.01  # of the ensemble in the cases


def computed_by_act(
    policy: ACTPolicy, observation: PolicyObservation, facts: Mapping[str, Any], given: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of a case by name."""
    network, sample = policy.network, policy.sample(observation)
    maps = [network.backbone(picture) for picture in sample.pictures.values()]
    tokens, places = network.tokens(maps, torch.from_numpy(sample.state))
    seen = network.encode(tokens, places)
    found = {f"normalised.{camera}": sample.pictures[feature] for camera, feature in facts["cameras"].items()}
    found |= {f"backbone.{number}": each for number, each in enumerate(maps)}
    found |= {
        "state_normalised": torch.from_numpy(sample.state).unsqueeze(0),
        "encoder_in": tokens,
        "encoder_pos": places,
        "encoder_out": seen,
        "decoder_out": network.decode(seen, places),
    }
    view = SessionCache(policy.spec.cache, Full(1)).view()
    context = prefill_whole(policy, observation, view).context
    actions = run_slices(policy.denoise(view, context, 1, None, np.random.default_rng(0)))
    found["chunk_normalised"] = torch.from_numpy(context.chunk).unsqueeze(0)
    found["actions"] = torch.from_numpy(actions)
    if "ensemble.chunks" in given:
        chunks = [chunk[0].double().numpy() for chunk in given["ensemble.chunks"]]
        found["ensemble.actions"] = torch.from_numpy(ensembled(chunks, DECAY))
    return found
