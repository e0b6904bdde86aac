"""Joint targets of the compact policy: told as changes of the target before, whatever the robot's state is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from kv_cache import SessionCache
from streaming_vla.engine.options import CacheOptions
from streaming_vla.policies.compact.chunk_head import ChunkBegin
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.compact.policy import CompactPolicy
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, prefill_whole, run_slices
from streaming_vla.workbench.evaluation.cache_options import fitted

LOW, HIGH = (-2.0, -2.0, -2.0, 0.0), (2.0, 2.0, 2.0, 1.0)
SHAPE = {"width": 48, "layers": 2, "image_size": 32, "channels": (8, 16, 16, 24), "keypoints": (4, 4), "state_size": 3}
CONFIG = CompactConfig(
    ("", "go"),
    action_names=("pan", "lift", "dx", "grip"),
    action_absolute=(True, True, False, True),
    action_low=LOW,
    action_high=HIGH,
    action_initial=(0.0, 0.0, 0.0, 0.5),
    action_state=(2, 0, -1, -1),
    **SHAPE,  # type: ignore[arg-type]
)


@pytest.fixture
def model() -> CompactModel:
    torch.manual_seed(0)
    made = CompactModel(CONFIG)
    made.pending_scale.copy_(torch.tensor([0.05, 0.1, 2.0, 1.0]))
    return made.eval()


def test_what_is_told_means_what_it_was(model: CompactModel) -> None:
    before, actions = torch.randn(5, 4), torch.randn(5, 4)
    told = model.told(actions, before)
    torch.testing.assert_close(told[:, 0], (actions[:, 0] - before[:, 0]) / 0.05)
    torch.testing.assert_close(told[:, 2:], actions[:, 2:])
    torch.testing.assert_close(model.meant(told, before), actions)
    chunks = torch.randn(5, 6, 4)
    told = model.chunk_told(chunks, before)
    torch.testing.assert_close(told[:, 3, 1], (chunks[:, 3, 1] - chunks[:, 2, 1]) / 0.1)
    torch.testing.assert_close(model.chunk_meant(told, before), chunks, rtol=1e-4, atol=1e-5)


def test_the_network_is_told_how_far_a_joint_is_behind_its_target(model: CompactModel) -> None:
    state, before = torch.tensor([[0.3, 9.0, -0.2]]), torch.tensor([[-0.1, 0.5, 4.0, 0.7]])
    moment = model.moment(state, before, torch.zeros(1))
    torch.testing.assert_close(moment.pending, torch.tensor([[0.1 / 0.05, 0.2 / 0.1, 4.0 / 2.0]]))


def test_a_flow_goes_on_from_the_newest_target(model: CompactModel) -> None:
    """A network that tells no change repeats the target, and a chunk of it stays."""
    for head in (model.flow.head[1], model.chunk.head[1]):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    policy = CompactPolicy(model, "arm")
    cache = SessionCache(policy.spec.cache, fitted(CacheOptions(), policy.spec, 0))
    state = np.array([0.3, 0.0, -0.2], dtype=np.float32)
    pictures = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    prefilled = prefill_whole(policy, PolicyObservation(pictures, state, "go"), cache.view())
    cache.append(prefilled.keys, prefilled.values)
    position = np.array([1.5, -1.0, 0.0, 0.5])
    for pending in (None, position):
        action = policy.flow_step(FlowQuery(cache.view(), position, 3, state=state, pending=pending))
        np.testing.assert_allclose(action, [1.5, -1.0, 0.0, 0.0], atol=1e-6)
    plan = policy.plan(cache.view(), state)
    np.testing.assert_allclose(plan[:, :2], np.tile([-0.2, 0.3], (len(plan), 1)), atol=1e-6)
    random = np.random.default_rng(0)
    rows = run_slices(policy.chunks.denoise(cache.view(), ChunkBegin(state, position), 3, None, random))
    noise = np.random.default_rng(0).standard_normal((16, 4))
    np.testing.assert_allclose(rows[:, 0], np.clip(1.5 + 0.05 * noise[:, 0].cumsum(), -2, 2), atol=1e-4)


def test_an_older_policy_tells_values(model: CompactModel) -> None:
    fields = json.loads(CONFIG.to_json())
    assert CompactConfig.from_json(json.dumps(fields)) == CONFIG
    del fields["action_state"]
    older = CompactConfig.from_json(json.dumps(fields))
    assert older.action_state == () and older.behind == (False, False, True, False)
    actions = torch.randn(3, 4)
    assert torch.equal(CompactModel(older).meant(actions, torch.randn(3, 4)), actions)


@pytest.mark.parametrize("places", [(0,), (3, -1, -1, -1), (-1, -1, 0, -1), ("a", -1, -1, -1), (-2, -1, -1, -1)])
def test_wrong_places_are_refused(places: tuple[int, ...]) -> None:
    fields = {**json.loads(CONFIG.to_json()), "action_state": places}
    with pytest.raises(ValueError, match="action_state"):
        CompactConfig.from_json(json.dumps(fields))
