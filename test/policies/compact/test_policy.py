"""The compact policy: slices equal the whole, history counts, and the flow's state cannot look ahead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kv_cache.cache import CacheView, SessionCache
from kv_cache.policies import make_policy
from streaming_vla.policies.compact.chunk_head import ChunkBegin
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.experts import Moment
from streaming_vla.policies.compact.language import UNKNOWN, Tokenizer, build_vocabulary, split_words
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.compact.policy import CompactPolicy
from streaming_vla.policies.contract import FlowQuery, Guide, PolicyObservation, run_slices
from streaming_vla.training.losses import block_mask

CONFIG = CompactConfig(words=(UNKNOWN, "close", "open", "the", "drawer"), width=48, layers=3, image_size=32)

BEGIN = ChunkBegin(np.array([0.3, -0.2, 0.1, 0.5], dtype=np.float32))


@pytest.fixture(scope="module")
def policy() -> CompactPolicy:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return CompactPolicy(CompactModel(CONFIG), "toy")


def observation(seed: int, instruction: str = "open the drawer") -> PolicyObservation:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    return PolicyObservation(images, random.normal(size=4).astype(np.float32), instruction)


def new_cache(recent: int = 1000) -> SessionCache:
    return SessionCache(CONFIG.cache, make_policy("window", sinks=0, recent=recent, capacity=1))


def prefill(policy: CompactPolicy, cache: SessionCache, seen: PolicyObservation) -> int:
    """Prefill and append; return the number of slices."""
    work = policy.prefill(seen, cache.view())
    slices = 1
    while True:
        try:
            next(work)
            slices += 1
        except StopIteration as done:
            cache.append(done.value.keys, done.value.values)
            return slices


def test_sliced_prefill_equals_the_training_pass(policy: CompactPolicy) -> None:
    model = policy.model
    cache = new_cache()
    seen = [observation(1), observation(2), observation(3, "close the drawer")]
    slices = [prefill(policy, cache, each) for each in seen]
    assert set(slices) == {len(CONFIG.cameras) + CONFIG.layers}
    tokenize = Tokenizer(CONFIG.words, CONFIG.maximum_words)
    with torch.inference_mode():
        pictures = torch.from_numpy(np.stack([each.images for each in seen])).permute(0, 1, 4, 2, 3) / 127.5 - 1
        words = torch.tensor([tokenize(each.instruction) for each in seen])
        tokens = model.encode(pictures, torch.from_numpy(np.stack([each.state for each in seen])), words)
        block = CONFIG.tokens_per_observation
        causal = torch.ones(3, 3, dtype=torch.bool).tril().unsqueeze(0)
        whole, _ = model.trunk(tokens.flatten(0, 1).unsqueeze(0), block_mask(causal, block, block))
    view = cache.view()
    for layer, (keys, values) in enumerate(whole):
        torch.testing.assert_close(view.keys[layer], keys[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(view.values[layer], values[0], atol=1e-4, rtol=1e-4)


def test_flow_steps_of_one_pass_do_not_see_each_other(policy: CompactPolicy) -> None:
    cache = new_cache()
    prefill(policy, cache, observation(1))
    view = cache.view()
    model = policy.model
    layers = [(k.unsqueeze(0), v.unsqueeze(0)) for k, v in zip(view.keys, view.values, strict=True)]
    with torch.inference_mode():
        moment = model.moment(torch.randn(1, 5, 4), torch.randn(1, 5, 4), torch.randint(0, 32, (1, 5)))
        together = model.flow(moment, layers, torch.full((5,), view.next_position), None)
        for index in range(5):
            alone = model.flow(
                Moment(*(part[:, index : index + 1] for part in moment)), layers, torch.tensor([25]), None
            )
            torch.testing.assert_close(alone[0, 0], together[0, index], atol=1e-5, rtol=1e-4)


def test_an_action_is_for_the_robots_state_and_the_actions_that_it_lacks(policy: CompactPolicy) -> None:
    cache = new_cache()
    prefill(policy, cache, observation(1))
    view, state = cache.view(), np.array([0.3, -0.2, 0.1, 0.5], dtype=np.float32)

    def action(state: np.ndarray, pending: list[float] | None) -> np.ndarray:
        told = None if pending is None else np.array(pending)
        return policy.flow_step(FlowQuery(view, np.zeros(4), 3, state=state, pending=told))

    still = action(state, None)
    np.testing.assert_array_equal(action(state, [0.0] * 4), still)
    np.testing.assert_array_equal(action(state, [0.0, 0.0, 0.0, 1.0]), still)  # the gripper's command is absolute
    for changed in (action(state, [1.0, 4.0, -2.0, 0.0]), action(state + np.float32(0.1), None)):
        assert not np.allclose(changed, still, atol=1e-4)
    # a state that is not known is that of the picture
    np.testing.assert_array_equal(
        policy.flow_step(FlowQuery(view, np.zeros(4), 3, context=state)),
        policy.flow_step(FlowQuery(view, np.zeros(4), 3, state=state)),
    )
    with pytest.raises(ValueError, match="needs the robot's state"):
        policy.flow_step(FlowQuery(view, np.zeros(4), 3))


def test_a_doubt_is_of_the_moment_that_is_asked_for(policy: CompactPolicy) -> None:
    cache = new_cache()
    prefill(policy, cache, observation(1))
    said = [
        policy.doubt(FlowQuery(cache.view(), np.zeros(4), index, state=BEGIN.state, pending=np.full(4, pending)))
        for index, pending in ((3, 0.0), (20, 0.0), (3, 1.0))
    ]
    assert len(set(said)) == 3 and min(said) > 0.0
    assert not policy.doubts, "nobody has trained it"


def test_a_plan_moves_the_robot_along(policy: CompactPolicy) -> None:
    cache = new_cache()
    prefill(policy, cache, observation(1))
    view, state = cache.view(), observation(1).state
    still = [policy.flow_step(FlowQuery(view, np.zeros(4), index, state=state)) for index in range(6)]
    planned = policy.plan(view, state)
    assert planned.shape == (CONFIG.trained_horizon, 4)
    for index in range(6):
        pending = np.sum(still[:index], axis=0) if index else np.zeros(4)
        alone = policy.flow_step(FlowQuery(view, np.zeros(4), index, state=state, pending=pending))
        np.testing.assert_allclose(planned[index], alone, atol=1e-4)
    assert not np.allclose(planned[5], still[5], atol=1e-5)


def test_history_and_every_input_reach_the_action(policy: CompactPolicy) -> None:
    def action(
        first: PolicyObservation | None, second: PolicyObservation, shift: float = 0.0, index: int = 3
    ) -> np.ndarray:
        cache = new_cache()
        if first is not None:
            prefill(policy, cache, first)
        prefill(policy, cache, second)
        now = second.state + np.float32(shift)
        return policy.flow_step(FlowQuery(cache.view(), np.zeros(4), index, state=now))

    base = action(observation(1), observation(2))
    assert base.shape == (4,)
    assert np.array_equal(base, action(observation(1), observation(2)))
    changed = observation(2)
    changed.images[1] = 0
    for other in (
        action(observation(5), observation(2)),
        action(None, observation(2)),
        action(observation(1), changed),
        action(observation(1), PolicyObservation(observation(2).images, observation(2).state, "close the drawer")),
        action(observation(1), PolicyObservation(observation(2).images, observation(9).state, "open the drawer")),
        action(observation(1), observation(2), shift=1.0),
        action(observation(1), observation(2), index=4),
    ):
        assert not np.allclose(base, other, atol=1e-6)


def test_only_distance_in_the_history_counts(policy: CompactPolicy) -> None:
    """An observation alone gives the same action wherever it stands."""
    cache = new_cache()
    prefill(policy, cache, observation(1))
    work = policy.prefill(observation(1), CacheView(cache.view().keys[:, :, :0], cache.view().values[:, :, :0], 700))
    while True:
        try:
            next(work)
        except StopIteration as done:
            keys, values = done.value[:2]
            break
    from kv_cache.rotary import rotate

    far = CacheView(rotate(keys, torch.arange(700, 725), CONFIG.rope_base), values, 725)
    now = observation(1).state
    near = policy.flow_step(FlowQuery(cache.view(), np.zeros(4), 0, state=now))
    np.testing.assert_allclose(near, policy.flow_step(FlowQuery(far, np.zeros(4), 0, state=now)), atol=1e-4)


def test_chunks_of_one_pass_do_not_see_each_other(policy: CompactPolicy) -> None:
    cache = new_cache()
    prefill(policy, cache, observation(1))
    view = cache.view()
    layers = [(k.unsqueeze(0), v.unsqueeze(0)) for k, v in zip(view.keys, view.values, strict=True)]
    with torch.inference_mode():
        noisy, time = torch.randn(1, 3, CONFIG.chunk_horizon, 4), torch.rand(1, 3)
        begin = policy.model.moment(torch.randn(1, 3, 4), torch.randn(1, 3, 4), torch.randint(0, 32, (1, 3)))
        together = policy.model.chunk(noisy, time, begin, layers, torch.full((3,), 25), None)
        for index in range(3):
            one = slice(index, index + 1)
            now = Moment(*(part[:, one] for part in begin))
            alone = policy.model.chunk(noisy[:, one], time[:, one], now, layers, torch.tensor([25]), None)
            torch.testing.assert_close(alone[0, 0], together[0, index], atol=1e-5, rtol=1e-4)


def denoised(policy: CompactPolicy, view: CacheView, guide: Guide | None = None, steps: int = 10) -> np.ndarray:
    """Return a chunk from the noise of seed 0."""
    return run_slices(policy.chunks.denoise(view, BEGIN, steps, guide, np.random.default_rng(0)))


def test_a_chunk_is_for_the_moment_at_which_it_begins(policy: CompactPolicy) -> None:
    cache = new_cache()
    prefill(policy, cache, observation(1))
    view, now = cache.view(), denoised(policy, cache.view())
    for later in (replace(BEGIN, age=4), replace(BEGIN, pending=np.ones(4)), ChunkBegin(BEGIN.state + np.float32(0.1))):
        given = run_slices(policy.chunks.denoise(view, later, 10, None, np.random.default_rng(0)))
        assert not np.allclose(given, now, atol=1e-4)


@pytest.mark.parametrize("exact", [False, True])
def test_guidance_pulls_the_held_actions_to_their_target(policy: CompactPolicy, exact: bool) -> None:
    cache = new_cache()
    prefill(policy, cache, observation(1))
    target = np.full((CONFIG.chunk_horizon, 4), 0.5)
    weight = np.zeros(CONFIG.chunk_horizon)
    weight[:4] = 1.0
    free, held = denoised(policy, cache.view()), denoised(policy, cache.view(), Guide(target, weight, exact=exact))
    assert free.shape == held.shape == target.shape
    error_free, error_held = np.abs(free - target)[:4].mean(), np.abs(held - target)[:4].mean()
    assert error_held < 0.3 * error_free
    none = denoised(policy, cache.view(), Guide(target, np.zeros_like(weight), exact=exact))
    np.testing.assert_allclose(none, free, atol=1e-5)


def test_denoising_is_euler_steps_from_the_given_noise_one_slice_each(policy: CompactPolicy) -> None:
    cache = new_cache()
    prefill(policy, cache, observation(1))
    view = cache.view()
    layers = [(k.unsqueeze(0), v.unsqueeze(0)) for k, v in zip(view.keys, view.values, strict=True)]
    noise = np.random.default_rng(7).standard_normal((CONFIG.chunk_horizon, 4))
    chunk = torch.from_numpy(noise.astype(np.float32))[None, None]
    now = policy.model.moment(torch.from_numpy(BEGIN.state).view(1, 1, 4), torch.zeros(1, 1, 4), torch.zeros(1, 1))
    with torch.inference_mode():
        for step in range(4):
            time = torch.full((1, 1), step / 4)
            chunk = chunk + policy.model.chunk(chunk, time, now, layers, torch.tensor([view.next_position]), None) / 4
    work = policy.chunks.denoise(view, BEGIN, 4, None, np.random.default_rng(7))
    slices = 0
    while True:
        try:
            next(work)
            slices += 1
        except StopIteration as done:
            given = done.value
            break
    assert slices == 3, "it yields between the steps"
    np.testing.assert_allclose(given, np.clip(chunk[0, 0].double().numpy(), -1.0, 1.0), atol=1e-6)


def test_flow_step_outside_the_horizon_is_refused(policy: CompactPolicy) -> None:
    cache = new_cache()
    prefill(policy, cache, observation(1))
    with pytest.raises(ValueError, match="outside the trained horizon"):
        policy.flow_step(FlowQuery(cache.view(), np.zeros(4), CONFIG.trained_horizon))


def test_actions_are_within_the_limits(policy: CompactPolicy) -> None:
    cache = new_cache()
    prefill(policy, cache, observation(1))
    action = policy.flow_step(FlowQuery(cache.view(), np.zeros(4), 0, state=np.full(4, 50.0, dtype=np.float32)))
    assert (np.abs(action) <= 1.0).all()


def test_words() -> None:
    assert split_words("Open the DRAWER, now!") == ["open", "the", "drawer", "now"]
    vocabulary = build_vocabulary(["open the drawer", "close the drawer"])
    assert vocabulary == (UNKNOWN, "close", "drawer", "open", "the")
    assert Tokenizer(vocabulary, 4)("open a drawer") == [3, 0, 2, -1]
    assert Tokenizer(vocabulary, 2)("open the drawer") == [3, 4]


def test_an_empty_instruction_is_finite(policy: CompactPolicy) -> None:
    cache = new_cache()
    prefill(policy, cache, observation(1, ""))
    now = observation(1).state
    assert np.isfinite(policy.flow_step(FlowQuery(cache.view(), np.zeros(4), 0, state=now))).all()


def test_flow_steps_of_several_robots_in_one_pass_are_those_of_each(policy: CompactPolicy) -> None:
    views = []
    for seed in range(3):
        cache = new_cache()
        prefill(policy, cache, observation(seed))
        views.append(cache.view())
    random = np.random.default_rng(0)
    states = random.normal(size=(3, 4)).astype(np.float32)
    queries = [FlowQuery(view, np.zeros(4), index, state=states[index]) for index, view in enumerate(views)]
    together = policy.flow_steps(queries)
    for query, action in zip(queries, together, strict=True):
        assert action == pytest.approx(policy.flow_step(query), abs=1e-5)
    with pytest.raises(ValueError, match="flow step 32 is outside"):
        policy.flow_steps([*queries, FlowQuery(views[0], np.zeros(4), 32, state=states[0])])
