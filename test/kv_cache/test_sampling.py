"""Training a gate: one pass sees what the cache would hold, the gradient arrives, and the cue's chunk is kept."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix import SPEC, attend, tokens, wild_gate

from kv_cache import Gate, GateConfig, Gated, SessionCache, rotate
from kv_cache.chunks import Chunks
from kv_cache.gate_file import GateFileError, load_gate, save_gate
from kv_cache.policies.base import Sizes
from kv_cache.sampling import (
    chunks_of,
    closed_positions,
    gated_attention,
    hard_sample,
    keep_penalty,
    memory_mask,
    ramp,
    threshold_for_count,
    threshold_for_recall,
)

torch.set_num_threads(1)
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "kv_cache" / "cued_recall.py"


@pytest.fixture(scope="module")
def recall() -> ModuleType:
    """The benchmark's module."""
    spec = importlib.util.spec_from_file_location("cued_recall", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cued_recall"] = module
    spec.loader.exec_module(module)
    return module


@settings(max_examples=15)
@given(
    sinks=st.integers(0, 3),
    recent=st.integers(1, 8),
    chunk=st.integers(1, 4),
    step=st.integers(1, 6),
    seed=st.integers(0, 5),
)
@torch.no_grad()
def test_one_pass_sees_what_the_cache_holds(sinks: int, recent: int, chunk: int, step: int, seed: int) -> None:
    """Attention of every query over [tokens ; summaries] equals attention over the cache before its observation."""
    total, sizes = 36, Sizes(sinks, recent, chunk)
    gate = wild_gate(seed=seed)
    policy = Gated(sinks, recent, chunk, 100, gate=gate)
    keys, values = tokens(total, seed)
    cache = SessionCache(SPEC, policy)
    old_keys, old_values = chunks_of(keys, sizes), chunks_of(values, sizes)
    logits, _ = gate(old_keys[0].unsqueeze(0), gate.start(1))
    keep = logits.sigmoid() >= 0.5
    held = torch.arange(total) // step * step
    block = torch.arange(total)[:, None] // step >= torch.arange(total) // step
    made = memory_mask(block, held, sizes)
    made[:, total:] &= keep
    mask = torch.zeros(made.shape).masked_fill(~made, -math.inf)
    moved, places = closed_positions(keep, held, sizes)
    query = torch.randn(SPEC.layers, SPEC.kv_heads, 1, 8, generator=torch.Generator().manual_seed(seed))
    everything = torch.cat((values, old_values.mean(dim=3)), dim=2)
    for start in range(0, total, step):
        piece = slice(start, start + step)
        view = cache.view()
        own = rotate(keys[:, :, piece], view.next_position + torch.arange(len(range(total)[piece])))
        asked = rotate(query, torch.tensor([view.next_position]))
        wanted = attend(asked, torch.cat((view.keys, own), 2), torch.cat((view.values, values[:, :, piece]), 2))
        near = rotate(query, torch.tensor([start])) @ rotate(keys, torch.arange(total)).transpose(-1, -2)
        far_query = rotate(query, torch.tensor([start]) - moved[0, start])
        front = far_query @ rotate(keys[:, :, :sinks], torch.arange(sinks)).transpose(-1, -2)
        far = far_query @ rotate(old_keys.mean(dim=3), places[0]).transpose(-1, -2)
        scores = torch.cat((front, near[..., sinks:], far), dim=-1) / math.sqrt(8) + mask[start]
        if start >= sinks:  # until then the sinks are part of the window
            torch.testing.assert_close(scores.softmax(dim=-1) @ everything, wanted, rtol=1e-4, atol=1e-5)
        cache.append(keys[:, :, piece], values[:, :, piece])


def test_a_dropped_chunk_gets_exactly_nothing_but_a_gradient() -> None:
    """Forward it is plain attention without the dropped summary; backward the gate hears what it would have brought."""
    logits = torch.tensor([[2.0, -2.0, 0.5]], requires_grad=True)
    keep, weight = hard_sample(logits, torch.zeros(1, 3))
    assert keep.tolist() == [[True, False, True]]
    assert weight.tolist() == [[1.0, 0.0, 1.0]]
    torch.manual_seed(0)
    query, keys, values = torch.randn(1, 4, 1, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8)
    mask = torch.ones(1, 5, dtype=torch.bool)
    seen = gated_attention(query, keys, values, mask, weight)
    kept = torch.tensor([True, True, True, False, True])
    group = torch.nn.functional.scaled_dot_product_attention(
        query, keys[:, :, kept].repeat_interleave(2, 1), values[:, :, kept].repeat_interleave(2, 1)
    )
    torch.testing.assert_close(seen, group)
    # what would be gained by keeping it, measured along the answer that it would give
    wanted = gated_attention(query, keys, values, mask, torch.ones(1, 3)).detach()
    (seen - wanted).square().sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] < 0


def test_draws_follow_the_scores() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([-2.0, 0.0, 1.5]).expand(20_000, 3)
    drawn = hard_sample(logits)[0].float().mean(dim=0)
    torch.testing.assert_close(drawn, logits[0].sigmoid(), rtol=0, atol=0.015)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("summary", ["mean", "attention", "mlp"])
def test_the_tasks_gradient_reaches_the_gate_and_its_summary(cell: str, summary: str) -> None:
    sizes = Sizes(2, 5, 3)
    gate = Gate(GateConfig.of(SPEC, cell=cell, summary=summary))
    keys, values = tokens(40)
    old_keys, old_values = chunks_of(keys, sizes).unsqueeze(0), chunks_of(values, sizes).unsqueeze(0)
    logits, _ = gate(old_keys[:, 0], gate.start(1))
    none = torch.zeros(1)
    made = Chunks(old_keys, old_values, none, none, none)
    summary_keys, summary_values = Gated(2, 5, 3, 40, gate=gate).summarise(made)
    _, weight = hard_sample(logits, torch.zeros_like(logits))
    everything = torch.cat((keys, summary_keys[0]), dim=2), torch.cat((values, summary_values[0]), dim=2)
    mask = memory_mask(torch.ones(1, 40, dtype=torch.bool), torch.tensor([40]), sizes)
    seen = gated_attention(torch.randn(3, 4, 1, 8), *everything, mask, weight.expand(3, -1))
    seen.square().sum().backward()
    for name, parameter in gate.named_parameters():
        if name in ("summary.enter",):  # its gradient waits for the layer behind it to leave zero
            continue
        assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, name


def test_the_gates_state_goes_from_chunk_to_chunk_and_belongs_to_its_session() -> None:
    for cell in ("gru", "lstm"):
        gate = wild_gate(cell)
        keys = torch.randn(2, 2, 6, 3, 8)
        at_once, state = gate(keys, gate.start(2))
        first, between = gate(keys[:, :, :4], gate.start(2))
        second, after = gate(keys[:, :, 4:], between)
        torch.testing.assert_close(torch.cat((first, second), dim=1), at_once)
        torch.testing.assert_close(after, state)
        changed = keys.clone()
        changed[1] += 1.0
        torch.testing.assert_close(gate(changed, gate.start(2))[0][0], at_once[0])
        assert not torch.allclose(gate(keys[:, :, 4:], gate.start(2))[0], second)  # it does remember
        padded, kept = gate(keys, gate.start(2), torch.tensor([4, 6]))
        torch.testing.assert_close(kept[0][0], between[0][0])
        torch.testing.assert_close(padded[1], at_once[1])


def test_the_penalty_counts_chunks_and_comes_late() -> None:
    logits = torch.full((2, 10), 20.0, requires_grad=True)
    assert keep_penalty(logits, 4.0).item() == pytest.approx(0.36)
    assert keep_penalty(logits - 40.0, 4.0).item() == 0.0
    assert [ramp(step, 100) for step in (0, 25, 50, 100)] == [0.0, 0.5, 1.0, 1.0]


def test_thresholds_come_from_validation_scores() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.15, 0.7]])
    assert threshold_for_count(scores, 1.0) == pytest.approx(0.5)
    assert threshold_for_count(scores, 3.0) == pytest.approx(0.05)
    two_groups = torch.tensor([[0.9995, 0.99, 0.01, 0.02], [0.98, 0.03, 0.02, 0.01], [0.97, 0.01, 0.02, 0.03]])
    assert 0.1 < threshold_for_count(two_groups, 1.0) < 0.9  # four belong together, three were expected
    needed = torch.tensor([[True, False, False], [True, False, True]])
    assert threshold_for_recall(scores, needed, 1.0) == pytest.approx(0.3)
    assert threshold_for_recall(scores, needed, 0.6) == pytest.approx(0.7)
    with pytest.raises(ValueError, match="count is 0"):
        threshold_for_count(scores, 0)
    with pytest.raises(ValueError, match=r"recall 1\.0 of 0 chunks"):
        threshold_for_recall(scores, ~needed & needed, 1.0)


def test_a_gate_learns_to_keep_the_cue(recall: ModuleType) -> None:
    """A few seconds of the benchmark: far from done, but the chunk of the cue stands out for every colour."""
    model, gate = recall.train(0, steps=100, gate_steps=60, frames=12)
    outcome = recall.evaluate(model, gate, frames=20, count=60)
    assert min(outcome.cue_kept) >= 0.9
    assert outcome.success >= 0.9
    assert outcome.chunks_kept <= 3


def test_a_gate_comes_back_from_its_file(tmp_path: Path) -> None:
    gate, path = wild_gate("lstm", "mlp"), tmp_path / "gate.safetensors"
    save_gate(path, gate, 0.37, {"task": "reach"})
    loaded = load_gate(path)
    assert (loaded.threshold, loaded.training) == (0.37, {"task": "reach"})
    keys = torch.randn(1, 2, 3, 4, 8)
    torch.testing.assert_close(loaded.gate(keys, gate.start(1))[0], gate(keys, gate.start(1))[0])


def test_a_wrong_file_is_one_clear_sentence(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(GateFileError, match="does not exist"):
        load_gate(tmp_path / "none.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other, {"format": "something"})
    with pytest.raises(GateFileError, match="has format 'something'"):
        load_gate(other)
    other.write_bytes(b"nonsense")
    with pytest.raises(GateFileError, match="cannot be read"):
        load_gate(other)
    gate = wild_gate()
    with torch.no_grad():
        gate.head.bias.fill_(math.nan)
    save_gate(other, gate, 0.5, {})
    with pytest.raises(GateFileError, match="not finite"):
        load_gate(other)
    config = GateConfig.of(SPEC).to_json()
    metadata = {"format": "kv_cache.gate.1", "architecture": config, "threshold": "0.5", "training": "{}"}
    save_file(dict(wild_gate().state_dict()), other, metadata)
    with pytest.raises(GateFileError, match=r"tensor '.*' has shape .*, expected"):
        load_gate(other)
    metadata["architecture"] = GateConfig.of(SPEC, hidden=2**40).to_json()
    save_file(dict(wild_gate().state_dict()), other, metadata)
    with pytest.raises(GateFileError, match=r"cannot be read .*overflowed"):
        load_gate(other)
