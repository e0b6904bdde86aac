"""What a cache refuses, and that a refusal changes nothing; formats and rotary positions."""

from __future__ import annotations

import ast
import copy
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matrix import CASES, LSTM_GATE, SPEC, Case, tokens
from torch.utils._python_dispatch import TorchDispatchMode

import kv_cache
from kv_cache import (
    Attention,
    CacheFullError,
    CachePolicy,
    CacheSpec,
    Expected,
    Full,
    Gated,
    Mean,
    SessionCache,
    Window,
    make_policy,
    required_bytes,
    rotate,
)
from kv_cache.batched import BatchedCache

torch.set_num_threads(1)


def test_full_refuses_what_does_not_fit_and_names_the_way_out() -> None:
    cache = SessionCache(SPEC, Full(10))
    cache.append(*tokens(8))
    before = cache.view().keys.clone()
    with pytest.raises(CacheFullError, match=r"8 tokens are held and 3 more .* capacity of 10; .* policy window"):
        cache.append(*tokens(3, seed=1))
    torch.testing.assert_close(cache.view().keys, before, rtol=0, atol=0)
    assert cache.stats().full_tokens == 8
    cache.append(*tokens(2, seed=1))
    assert cache.view().tokens == 10


@pytest.mark.parametrize("policy", [Full(10**9), Window(0, 10**9)], ids=["full", "window"])
def test_sizes_are_checked_before_memory_is_taken(policy: Full | Window) -> None:
    with pytest.raises(MemoryError, match="keep fewer tokens"):
        SessionCache(SPEC, policy)


FIXED = [Full(100), Window(4, 96), Mean(2, 40, 30, 90), Gated(2, 40, 30, 90, gate=LSTM_GATE)]
EXPECTED = Expected(2, 40, 30, 90)


def held_bytes(thing: object) -> int:
    """Return the bytes of all tensors that an object of the package holds, whatever it calls them."""
    if isinstance(thing, torch.Tensor):
        return thing.untyped_storage().nbytes()
    if isinstance(thing, list | tuple):
        return sum(map(held_bytes, thing))
    own = type(thing).__module__.startswith("kv_cache")
    return sum(map(held_bytes, vars(thing).values())) if own else 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("policy", FIXED, ids=lambda policy: policy.name)
def test_reserved_bytes_are_what_tensors_take(policy: CachePolicy, dtype: torch.dtype) -> None:
    spec = replace(SPEC, dtype=dtype)
    cache = SessionCache(spec, policy)
    reserved = cache.stats().allocated_bytes
    assert reserved == required_bytes(spec, policy)
    for seed in range(20):
        cache.append(*tokens(5, seed))
        assert held_bytes(cache) <= reserved
    assert held_bytes(cache) == reserved
    with pytest.raises(MemoryError):
        SessionCache(spec, policy, max_bytes=reserved - 1)


@pytest.mark.parametrize("policy", [EXPECTED, Attention(2, 40, 30, 90)], ids=lambda policy: policy.name)
def test_what_a_policy_remembers_of_queries_is_in_the_reserved_bytes(policy: CachePolicy) -> None:
    cache = SessionCache(SPEC, policy)
    reserved = cache.stats().allocated_bytes
    for seed in range(40):
        observe = cache.view().observe_queries
        assert observe is not None
        for layer in range(SPEC.layers):
            observe(layer, torch.ones(4, 2, 8))
        cache.append(*tokens(5, seed))
        unused = 4 * (policy.max_tokens - cache.view().tokens)  # attention that tokens to come will have received
        assert held_bytes(cache) + unused == reserved == required_bytes(SPEC, policy)
    cache.reset()
    assert held_bytes(cache) + 4 * policy.max_tokens == reserved


class Largest(TorchDispatchMode):
    """Remembers how many bytes the largest tensor takes that is made meanwhile."""

    bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return made


def test_the_start_of_a_session_takes_no_more_than_it_leaves() -> None:
    policy = Expected(0, 1000, 5000, 7000)
    with Largest() as largest:
        policy.start(SPEC, 1, torch.device("cpu"))
    assert largest.bytes <= policy.state_bytes(SPEC, 1)


def test_many_long_chunks_need_memory_for_what_is_held_only() -> None:
    """The positions of a million summaries of 100 000 tokens each would need terabytes."""
    spec, policy = CacheSpec(layers=1, kv_heads=1, head_dim=2), Mean(0, 1, 10**5, 10**6 + 10**5)
    assert policy.sizes.max_positions > 10**11 and required_bytes(spec, policy) < 10**8
    cache = SessionCache(spec, policy)
    cache.append(*tokens(3, spec=spec))
    torch.testing.assert_close(cache.view().keys, rotate(tokens(3, spec=spec)[0], torch.arange(3), spec.rope_base))


WRONG = {
    "no batch here": (torch.zeros(1, 3, 2, 5, 8), "have shape"),
    "too few dimensions": (torch.zeros(3, 2), "have shape"),
    "layers": (torch.zeros(2, 2, 5, 8), "have shape"),
    "heads": (torch.zeros(3, 4, 5, 8), "have shape"),
    "head size": (torch.zeros(3, 2, 5, 6), "have shape"),
    "no token": (torch.zeros(3, 2, 0, 8), "have shape"),
    "not finite": (torch.full((3, 2, 5, 8), math.nan), "are not finite"),
    "whole numbers": (torch.zeros(3, 2, 5, 8, dtype=torch.int64), "have dtype torch.int64, expected a floating point"),
    "another device": (torch.zeros(3, 2, 5, 8, device="meta"), "are on meta, expected cpu; move them there first"),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize(("wrong", "sentence"), WRONG.values(), ids=WRONG)
def test_wrong_tokens_are_refused_and_change_nothing(case: Case, wrong: torch.Tensor, sentence: str) -> None:
    cache = SessionCache(SPEC, case.roomy(20))
    cache.append(*tokens(5))
    before = (cache.view().keys.clone(), cache.stats())
    good = torch.zeros(3, 2, 5, 8)
    for keys, values, named in ((wrong, good, "keys"), (good, wrong, "values")):
        with pytest.raises(ValueError, match=f"session cache: {named} {sentence}"):
            cache.append(keys, values)
    torch.testing.assert_close(cache.view().keys, before[0], rtol=0, atol=0)
    assert cache.stats() == before[1]


def test_as_many_keys_as_values() -> None:
    with pytest.raises(ValueError, match="5 keys and 4 values"):
        SessionCache(SPEC, Full(9)).append(tokens(5)[0], tokens(4)[1])


def test_a_snapshot_of_another_policy_is_refused() -> None:
    with pytest.raises(ValueError, match=r"snapshot is of Full.* this cache has Window"):
        SessionCache(SPEC, Window(0, 9)).restore(SessionCache(SPEC, Full(9)).snapshot())
    for change in ({"head_dim": 16}, {"layers": 2}, {"rope_base": 500.0}):  # the last: keys are kept rotated
        other = SessionCache(replace(SPEC, **change), Full(9))
        for _ in range(2):  # an empty one first
            with pytest.raises(ValueError, match=r"the snapshot is of CacheSpec\(.*, this cache has CacheSpec"):
                SessionCache(SPEC, Full(9)).restore(other.snapshot())
            other.append(*tokens(2, spec=other.spec))


def test_a_device_may_be_named_and_a_cache_made_in_inference_mode_goes_on_outside() -> None:
    with torch.inference_mode():
        cache = SessionCache(SPEC, Gated(2, 7, 3, 14, gate=LSTM_GATE), device="cpu")
        cache.append(*tokens(11))
    cache.append(*tokens(9))
    assert cache.stats().full_tokens == 20


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_gate_may_have_another_number_format(dtype: torch.dtype) -> None:
    gate = copy.deepcopy(LSTM_GATE).to(dtype)
    policy = Gated(0, 7, 4, 14, gate=gate)
    cache, batched = SessionCache(SPEC, policy), BatchedCache(SPEC, policy, 1)
    cache.append(*tokens(30))
    batched.append(*(part.unsqueeze(0) for part in tokens(30)))
    assert cache.stats().chunks_kept + cache.stats().chunks_dropped == 5
    assert int(batched.state.kept + batched.state.dropped) == 5


def test_a_gate_on_another_device_or_with_damaged_weights_is_refused_at_once() -> None:
    gate = copy.deepcopy(LSTM_GATE)
    policy = Gated(0, 7, 4, 14, gate=gate)
    with torch.no_grad():
        gate.head.bias.fill_(math.inf)
    for make in (lambda: SessionCache(SPEC, policy), lambda: BatchedCache(SPEC, policy, 2)):
        with pytest.raises(ValueError, match=r"the gate's weights head\.bias are not finite; load them again"):
            make()
    other = torch.device("cuda")  # nothing is put there
    with pytest.raises(ValueError, match="the gate is on cpu, the cache on cuda; move the gate there"):
        Gated(0, 7, 4, 14, gate=LSTM_GATE).start(SPEC, 1, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_narrow_format_is_kept_and_rotated_without_drift(dtype: torch.dtype) -> None:
    spec = replace(SPEC, dtype=dtype)
    cache = SessionCache(spec, Window(2, 10))
    for step in range(30):
        cache.append(*tokens(3, seed=step))
    view = cache.view()
    assert view.keys.dtype == view.values.dtype == dtype
    assert cache.stats().bytes == 12 * 2 * 3 * 2 * 8 * 2
    raw = torch.cat([tokens(3, seed=step)[0] for step in range(30)], dim=2)[:, :, [0, 1, *range(80, 90)]]
    torch.testing.assert_close(view.keys, rotate(raw.to(dtype), torch.arange(12), spec.rope_base), rtol=0, atol=0)


def test_numbers_too_large_for_the_format_are_refused() -> None:
    cache = SessionCache(replace(SPEC, dtype=torch.float16), Full(9))
    with pytest.raises(ValueError, match="keys are not finite"):
        cache.append(torch.full((3, 2, 1, 8), 1e6), torch.zeros(3, 2, 1, 8))


def test_rotation_is_that_of_the_paper() -> None:
    x = torch.randn(4, 6, dtype=torch.float64)
    positions = torch.tensor([0, 1, 7, 90_000])
    turned = rotate(x, positions, 100.0)
    for row, position in enumerate(positions.tolist()):
        for pair in range(3):
            point = complex(x[row, pair], x[row, pair + 3]) * complex(
                math.cos(position * 100.0 ** (-pair / 3)), math.sin(position * 100.0 ** (-pair / 3))
            )
            assert turned[row, pair] == pytest.approx(point.real, abs=1e-9)
            assert turned[row, pair + 3] == pytest.approx(point.imag, abs=1e-9)
    torch.testing.assert_close(turned[0], x[0])


def test_rotation_refuses_odd_heads_and_missing_positions() -> None:
    with pytest.raises(ValueError, match="head size is 5"):
        rotate(torch.zeros(2, 5), torch.arange(2))
    with pytest.raises(ValueError, match=r"expected \(2,\)"):
        rotate(torch.zeros(2, 4), torch.arange(3))


@pytest.mark.parametrize(
    ("field", "value"),
    [("layers", 0), ("kv_heads", -1), ("head_dim", 0), ("head_dim", 7), ("dtype", torch.int8), ("rope_base", 1.0)],
)
def test_a_spec_names_what_is_wrong(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        CacheSpec(**{"layers": 1, "kv_heads": 1, "head_dim": 4, field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "numbers", "sentence"),
    [
        ("fancy", {}, "'fancy' is unknown, choose one of full, window"),
        ("full", {"capacity": 0}, "capacity is 0"),
        ("window", {"sinks": -1}, "sinks is -1"),
        ("window", {"recent": 0}, "recent is 0"),
    ],
)
def test_a_policy_names_what_is_wrong(name: str, numbers: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_policy(name, **{"sinks": 0, "recent": 4, "capacity": 4, **numbers})


def test_at_least_one_view() -> None:
    with pytest.raises(ValueError, match="views is 0"):
        SessionCache(SPEC, Full(4), views=0)


def test_the_package_stands_alone() -> None:
    folder = Path(kv_cache.__file__).parent
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).partition(".")[0])
    optional = {"transformers", "safetensors"}  # by huggingface*.py and gate_file.py, which nothing else imports
    assert found - set(sys.stdlib_module_names) - optional == {"torch", "kv_cache"}
