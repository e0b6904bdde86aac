"""The shipped gate belongs to the shipped policy, and the preset for tasks with a memory to both."""

from __future__ import annotations

from pathlib import Path

from streaming_vla.engine.cache import differences, engine_options
from streaming_vla.parameters.load import read
from streaming_vla.policies.compact.checkpoint import load_policy
from streaming_vla.policies.models import find_model
from streaming_vla.workbench.evaluation.cache_options import gated_cache

PRESET = Path(__file__).parents[2] / "config" / "memory.yaml"


def test_the_preset_runs_the_gate_as_it_was_trained() -> None:
    inference = read(PRESET).inference
    file, gate = find_model(inference.model), find_model(inference.cache_gate)
    tokens = load_policy(file).spec.tokens_per_observation
    options = engine_options(inference, tokens)
    assert options.gate is not None and differences(options.gate.training, options.cache, [file]) == []
    wanted = engine_options(gated_cache(gate, inference.cache_budget), tokens).cache
    same = {"cache_gate": inference.cache_gate, "cache_capacity": inference.cache_capacity}  # the file; of full
    assert options.cache == wanted.changed(**same)
