"""model_compile: the steps are compiled once, before the first motion, and give the same numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import FLOWS, observed

from kv_cache.cache import SessionCache
from streaming_vla.engine.cache import engine_options
from streaming_vla.engine.loading import warm_up
from streaming_vla.engine.options import CacheOptions
from streaming_vla.policies.chunk import ChunkAsStream
from streaming_vla.policies.contract import prefill_whole, run_slices
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot import compiled
from streaming_vla.policies.lerobot.check.flow import StoredNoise

Load = Callable[..., Any]
TOLERANCE = 1e-4  # of actions in degrees: padding changes the order of sums


class Compiler:
    """Takes a compiler's place: counts what it is given, and gives it back as it is."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        """Return the graph's own forward."""
        self.graphs += 1
        return graph.forward


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """The backend of torch.compile; inductor would take minutes here."""
    torch._dynamo.reset()
    found = Compiler()
    monkeypatch.setattr(compiled, "BACKEND", found)
    return found


def chunks(policy: Any, cache_options: CacheOptions) -> list[Any]:
    """Return the chunks of a session of three observations, whose instructions differ in length."""
    cache = SessionCache(policy.spec.cache, engine_options(cache_options, policy.spec.tokens_per_observation).policy())
    found = []
    for number, words in enumerate(("go", "pick up the cube", "put it down " * 4)):
        seen = observed(policy, number, words)
        left = prefill_whole(policy, seen, cache.view())
        cache.append(left.keys, left.values)
        noise = np.random.default_rng(number).normal(size=(policy.sizes.horizon, policy.sizes.action))
        found.append(run_slices(policy.denoise(cache.view(), left.context, 3, None, StoredNoise(noise))))
    return found


@pytest.mark.parametrize(("policy_name", "cache_policy"), [*((name, "newest") for name in FLOWS), ("smolvla", "mean")])
def test_steps_are_compiled_once_and_give_the_same_numbers(
    load: Load, compiler: Compiler, policy_name: str, cache_policy: str
) -> None:
    cache = CacheOptions(cache_policy=cache_policy, cache_budget=512)
    wanted = chunks(load(policy_name), cache)
    policy = load(policy_name, compile=True)
    warm_up(ChunkAsStream(policy), engine_options(cache, policy.spec.tokens_per_observation))
    assert compiler.graphs == 1, "before the first motion"
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(chunks(policy, cache)))  # as the engine has its own
    thread.start()
    thread.join()
    assert compiler.graphs == 1, "neither the length of an instruction nor a history makes another shape"
    for got, want in zip(found, wanted, strict=True):
        assert got == pytest.approx(want, abs=TOLERANCE, rel=TOLERANCE)


def test_nothing_is_compiled_where_nobody_asks(load: Load, compiler: Compiler) -> None:
    policy = load("pi0")
    policy.warm_up(100)
    assert compiler.graphs == 0 and policy.network.compiled is None


def test_a_compiler_that_fails_is_one_line_and_the_policy_runs(
    load: Load, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler found\nand much more")

    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "BACKEND", fail)
    policy = load("pi05", compile=True)
    policy.warm_up(400)
    [said] = [each.getMessage() for each in caplog.records if each.name.startswith("streaming_vla.")]
    assert said.startswith("model_compile: torch.compile fails, policy checkpoint runs without it: ")
    assert "no C++ compiler found" in said and "\n" not in said and len(said) < 400
    cache = CacheOptions(cache_policy="newest")
    assert np.allclose(chunks(policy, cache), chunks(load("pi05"), cache))


def test_what_has_no_steps_refuses(load: Load) -> None:
    with pytest.raises(CheckpointError, match="model_compile is true, an ACT has no steps"):
        load("act", compile=True)
