"""Where tensors live: nothing is made on the CPU when the policy computes elsewhere, and a missing device is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from elsewhere import DEVICE, Elsewhere, There
from golden_files import POLICIES, observed
from safetensors.torch import save_file

from streaming_vla.engine.cache import engine_options
from streaming_vla.engine.options import CacheOptions
from streaming_vla.engine.sessions import Sessions
from streaming_vla.policies.chunk import ChunkAsStream, ChunkOptions
from streaming_vla.policies.contract import FlowQuery, PlannedActions, PolicyObservation, prefill_whole, run_slices
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot.flow_head.fresh_body import FreshBody
from streaming_vla.policies.lerobot.flow_head.sidecar import Sidecar, write_sidecar
from streaming_vla.policies.lerobot.load import load_lerobot
from streaming_vla.policies.lerobot.options import LoadOptions

Load = Callable[..., Any]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While a test runs there is a GPU of a kind, and every checkpoint is loaded to it."""
    monkeypatch.setattr(LoadOptions, "torch_device", DEVICE)
    with Elsewhere():
        yield


def flown(policy: Any, cache: CacheOptions) -> Any:
    """Return the actions of two contexts, the second guided by the first, of a session as the engine makes it."""
    stream = ChunkAsStream(policy, ChunkOptions(steps=2))
    tokens = stream.spec.tokens_per_observation
    session = Sessions(stream.spec, engine_options(cache, tokens, device=stream.spec.device)).open("arm")
    session.begin(0)
    rows: list[Any] = []
    for number in range(2):
        seen = observed(policy, number)
        planned = PlannedActions(np.array(rows[2:]), 2) if rows else None
        seen = PolicyObservation(seen.images, seen.state, seen.instruction, planned=lambda planned=planned: planned)
        left = prefill_whole(stream, seen, session.cache.view())
        context = session.extend(number, left)
        whole = run_slices(stream.complete(seen, context.view, context.own))
        query = [FlowQuery(context.view, np.zeros(6), index, whole) for index in range(8)]
        rows = [stream.flow_step(each) for each in query]
        if stream.spec.device != "cpu" and stream.spec.cache.layers > 1:
            assert isinstance(context.view.keys, There), "the cache lives where the policy does"
    return np.array(rows)


@pytest.mark.parametrize(("policy_name", "dtype"), [*((name, "float32") for name in POLICIES), ("smolvla", "bfloat16")])
def test_nothing_is_left_on_the_cpu(load: Load, policy_name: str, dtype: str, request: pytest.FixtureRequest) -> None:
    cache = CacheOptions(cache_policy="newest")
    wanted = flown(load(policy_name, dtype=dtype), cache)
    request.getfixturevalue("elsewhere")
    policy = load(policy_name, dtype=dtype)
    assert policy.spec.device == str(DEVICE)
    assert all(isinstance(each, There) for each in policy.network.state_dict().values())
    assert flown(policy, cache) == pytest.approx(wanted, rel=1e-3 if dtype == "float32" else 0.2, abs=1e-3)


def flow_headed(folder: Path) -> Path:
    """Return a tiny SmolVLA's folder with a flow head of random numbers beside it."""
    random = torch.Generator().manual_seed(1)
    shapes = {name: value.shape for name, value in FreshBody(6, 6, 48).state_dict().items()}
    tensors = {f"fresh.{name}": 0.3 * torch.randn(shape, generator=random) for name, shape in shapes.items()}
    save_file(tensors, folder / "streaming_vla.safetensors")
    names = tuple(f"joint_{number}" for number in range(6))
    sidecar = Sidecar(head="flow", horizon=12, execution_horizon=6, delay=4, scale=(2.0,) * 6, absolute=(True,) * 6,
                      action_names=names, state_names=names, joints=tuple(range(6)), control_period_s=0.05)  # fmt: skip
    write_sidecar(folder, sidecar, {})
    return folder


def test_nothing_of_a_flow_head_is_left_on_the_cpu(
    copied: Callable[[str], Path], request: pytest.FixtureRequest
) -> None:
    folder = copied("smolvla")
    flow_headed(folder / "checkpoint")

    def steps() -> Any:
        policy: Any = load_lerobot(folder / "checkpoint", LoadOptions(assets=folder / "vlm"))
        assert policy.spec.control_period_s == 0.05 and policy.spec.trained_horizon == 12
        seen = observed(policy)
        session = Sessions(policy.spec, engine_options(CacheOptions(cache_policy="newest"),
                           policy.spec.tokens_per_observation, device=policy.spec.device)).open("arm")  # fmt: skip
        session.begin(0)
        context = session.extend(0, prefill_whole(policy, seen, session.cache.view()))
        position = begun = np.zeros(6)
        found = []
        for index in range(2, 5):
            query = FlowQuery(context.view, position, index, context.own, seen.state, 0.0, None, 2, begun)
            position = policy.flow_step(query)
            found.append(position)
        return np.array(found)

    wanted = steps()
    assert np.abs(np.diff(wanted, axis=0)).max() > 1e-3
    request.getfixturevalue("elsewhere")
    assert steps() == pytest.approx(wanted, rel=1e-3, abs=1e-3)


def test_no_history_is_left_on_the_cpu(load: Load, request: pytest.FixtureRequest) -> None:
    cache = CacheOptions(cache_policy="expected")
    wanted = flown(load("smolvla"), cache)
    request.getfixturevalue("elsewhere")
    assert flown(load("smolvla"), cache) == pytest.approx(wanted, rel=1e-3, abs=1e-3)


def test_the_device_that_finds_it_is_no_cpu(elsewhere: None) -> None:
    there = torch.zeros(3, device=DEVICE)
    assert isinstance(there + 1.0, There) and isinstance(there.cpu(), torch.Tensor)
    assert not isinstance(there.cpu(), There)
    with pytest.raises(AssertionError, match="aten::add got tensors of meta and of cpu"):
        there + torch.zeros(3)


def test_a_missing_gpu_is_one_sentence(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(CheckpointError) as error:
        load("smolvla", device="cuda")
    assert str(error.value) == (
        "model_device is 'cuda', this machine has 0 CUDA devices that this torch can use; say cpu, or install a torch "
        "with CUDA"
    )
