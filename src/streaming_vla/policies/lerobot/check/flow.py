"""What SmolVLA, pi0 and pi0.5 compute on their way from an observation to actions, as LeRobot lays it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kv_cache.cache import CacheView, SessionCache
from kv_cache.policies import Full
from kv_cache.rotary import rotate
from streaming_vla.policies.contract import PolicyObservation, prefill_whole, run_slices
from streaming_vla.policies.guide import Guide
from streaming_vla.policies.lerobot.denoising import Pull, denoise, padded
from streaming_vla.policies.lerobot.pi import Pi
from streaming_vla.policies.lerobot.sample import Sample
from streaming_vla.policies.lerobot.smolvla import SmolVLA
from streaming_vla.policies.lerobot.vla_policy import VlaContext, VlaPolicy
from streaming_vla.policies.rtc import SCHEDULES, weights


class StoredNoise(np.random.Generator):
    """Gives the noise of a case."""

    def __init__(self, noise: npt.NDArray[np.float32]) -> None:
        super().__init__(np.random.PCG64(0))
        self._noise = noise

    def standard_normal(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        """Return it."""
        assert tuple(size) == self._noise.shape, "the policy asks for noise of a whole padded chunk"
        return self._noise.astype(dtype)


def computed_by_flow(
    policy: VlaPolicy, observation: PolicyObservation, facts: Mapping[str, Any], given: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of a case by name."""
    sample = policy.sample(observation)
    found = _prefix(policy, sample, facts, given)
    cache = SessionCache(policy.spec.cache, Full(policy.spec.tokens_per_observation))
    prefilled = prefill_whole(policy, observation, cache.view())
    cache.append(prefilled.keys, prefilled.values)
    count = prefilled.keys.shape[2]
    turned = rotate(prefilled.keys, torch.arange(count), frequencies=policy.spec.cache.frequencies)
    for name, tokens in (("prefix_keys", turned), ("prefix_values", prefilled.values)):
        found[name] = _spread(tokens, found["prefix_pad_mask"][0])
    context, noise = prefilled.context, given["noise"][0]
    return (
        found
        | _flow(policy, cache.view(), context, noise, facts)
        | _guided(policy, cache.view(), context, facts, given)
    )


def _prefix(
    policy: VlaPolicy, sample: Sample, facts: Mapping[str, Any], given: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return pictures, text and state, with the padding that LeRobot adds and this policy leaves out."""
    network, sizes = policy.network, policy.sizes
    assert policy.before.tokenizer is not None, "these policies read text"
    length = given["tokens"].shape[1]
    tokens = torch.full((length,), policy.before.tokenizer.padding)
    tokens[: len(sample.tokens)] = torch.tensor(sample.tokens)
    said = torch.arange(length) < len(sample.tokens)
    state = padded(torch.from_numpy(sample.state), sizes.state)
    found = {
        "tokens": tokens.unsqueeze(0),
        "token_mask": said.unsqueeze(0),
        "state_normalised": torch.from_numpy(sample.state).unsqueeze(0),
        "state_padded": state.unsqueeze(0),
    }
    pictures, present = [], []
    for number, feature in enumerate(facts["camera_order"]):
        there = feature in sample.pictures
        empty = torch.full((1, 3, sizes.height, sizes.width), -1.0)
        pixels = policy.pixels(sample.pictures[feature]) if there else empty
        pictures.append(network.picture(pixels))
        present.append(torch.full((len(pictures[-1]),), there))
        found[f"pixels.{number}"], found[f"vision.{number}"] = pixels, pictures[-1].unsqueeze(0)
        found[f"pixels_present.{number}"] = torch.tensor([there])
    embedded, _ = network.prefix(pictures, tokens, state)
    mask = torch.cat(
        (*present, said, torch.ones(embedded.shape[1] - sum(map(len, present)) - length, dtype=torch.bool))
    )
    own_block = torch.zeros(len(mask), dtype=torch.bool)  # True: those before do not see this token
    own_block[sum(map(len, present)) + length :] = True
    found |= {
        "prefix_embeds": embedded,
        "prefix_pad_mask": mask.unsqueeze(0),
        "prefix_att_mask": own_block.unsqueeze(0),
    }
    found["prefix_positions"] = mask.long().cumsum(0).unsqueeze(0) - 1
    return {name: value for name, value in found.items() if name in given}


def _flow(
    policy: VlaPolicy, view: CacheView, context: VlaContext, noise: Tensor, facts: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the steps from noise to actions."""
    network = policy.network
    prepared = context.prepared(network, view)
    found: dict[str, Tensor] = {}
    for time in facts["times"]:
        if isinstance(network, Pi):
            found[f"suffix_embeds.t{time}"] = network.suffix(noise, time, prepared.state).unsqueeze(0)
            if prepared.state is None:
                found[f"adarms_cond.t{time}"] = network.condition(time, noise.device).unsqueeze(0)
        else:
            assert isinstance(network, SmolVLA), "the other one"
            found[f"suffix_embeds.t{time}"] = network.suffix(noise, time).unsqueeze(0)
        found[f"velocity.t{time}"] = network.velocity(noise, time, prepared).unsqueeze(0)
    path = []

    def velocity(noisy: Tensor, time: float) -> Tensor:
        path.append(noisy)
        return network.velocity(noisy, time, prepared)

    chunk = run_slices(denoise(velocity, noise, facts["steps"], None))
    found["path"] = torch.stack((*path, chunk))
    found["chunk_normalised"] = chunk[:, : policy.spec.layout.size].unsqueeze(0)
    actions = run_slices(policy.denoise(view, context, facts["steps"], None, StoredNoise(noise.numpy())))
    return found | {"actions": torch.from_numpy(actions)}


def _guided(
    policy: VlaPolicy, view: CacheView, context: VlaContext, facts: Mapping[str, Any], given: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return chunks that are guided towards the rest of the previous one, as normalised rows and as actions."""
    rtc, horizon, noise = facts["rtc"], policy.sizes.horizon, given["noise"][0]
    previous = given["rtc.previous"][0].numpy()
    rows = np.zeros((horizon, previous.shape[1]), dtype=np.float32)
    rows[: len(previous)] = previous[:horizon]
    prepared = context.prepared(policy.network, view)
    found: dict[str, Tensor] = {}
    for schedule in SCHEDULES:
        end = min(rtc["execution_horizon"], len(previous))
        weight = weights(horizon, rtc["inference_delay"], end, schedule)
        guide = Guide(policy.after.actions(rows, context.raw_state), weight, rtc["max_guidance_weight"], exact=False)
        pull = Pull(
            padded(torch.from_numpy(rows), policy.sizes.action), torch.from_numpy(weight).float()[:, None], guide.gain
        )
        chunk = run_slices(
            denoise(lambda x, time: policy.network.velocity(x, time, prepared), noise, facts["steps"], pull)
        )
        actions = run_slices(policy.denoise(view, context, facts["steps"], guide, StoredNoise(noise.numpy())))
        found[f"rtc.{schedule}.weights"] = torch.from_numpy(weight)
        found[f"rtc.{schedule}.chunk_normalised"] = chunk[:, : policy.spec.layout.size].unsqueeze(0)
        found[f"rtc.{schedule}.actions"] = torch.from_numpy(actions)
    return found


def _spread(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return tokens [L, H, T, d] at the columns of a mask with T True values, [L, 1, H, P, d]."""
    layers, heads, _, size = tokens.shape
    spread = tokens.new_zeros(layers, 1, heads, len(mask), size)
    spread[:, 0, :, mask] = tokens
    return spread
