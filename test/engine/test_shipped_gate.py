"""The shipped gate belongs to the shipped policy, and the preset for tasks with a memory to both."""

from __future__ import annotations

from pathlib import Path

from streaming_vla.workbench.machine_options import all_values, engine_options

from kv_cache.gate_file import load_gate
from streaming_vla.engine.options import differences
from streaming_vla.policies.loading import load_policy
from streaming_vla.policies.models import find_model
from streaming_vla.workbench.evaluation.cache_options import gated_cache

PRESET = Path(__file__).parents[2] / "config" / "memory.yaml"


def test_the_preset_runs_the_gate_as_it_was_trained() -> None:
    values = all_values(PRESET)["inference"]
    file, gate = find_model(values["model"]), find_model(values["cache_gate"])
    policy = load_policy(file)
    options = engine_options(values, policy.spec.tokens_per_observation)
    assert differences(load_gate(gate).training, options, file) == []
    wanted = gated_cache(gate, values["cache_budget"]).engine(policy.spec)
    assert (options.cache_policy, options.sinks, options.recent) == (wanted.cache_policy, wanted.sinks, wanted.recent)
    assert (options.chunk, options.budget, options.threshold) == (wanted.chunk, wanted.budget, wanted.threshold)
