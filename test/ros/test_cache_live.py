"""The gated cache of the inference node: its statistics give the memory map, and it is tuned while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ros
OBSERVATIONS = 6


@pytest.fixture(scope="module")
def inference(suite: Any, probe: Any, toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from kv_cache import Gate, GateConfig
    from kv_cache.gate_file import save_gate
    from streaming_vla.policies.compact.checkpoint import load_policy

    spec = load_policy(toy_model).spec
    gate = tmp_path_factory.mktemp("gate") / "gate.safetensors"
    sizes = {"sinks": 0, "recent": 2 * spec.tokens_per_observation, "chunk": spec.tokens_per_observation}
    save_gate(gate, Gate(GateConfig.of(spec.cache)), 0.0, {"plan": {"cache": sizes}})
    suite.start(
        "inference",
        model=str(toy_model),
        cache_policy="gated",
        cache_gate=str(gate),
        cache_recent=spec.tokens_per_observation,
        cache_chunk=spec.tokens_per_observation,
        cache_budget=10 * spec.tokens_per_observation,
    )
    probe.wait_for_nodes("inference")
    return probe, spec, suite, str(gate)


def put(probe: Any, name: str, value: Any) -> Any:
    from rcl_interfaces.srv import SetParameters
    from rclpy.parameter import Parameter

    parameters = [Parameter(name, value=value).to_parameter_msg()]
    return probe.call(SetParameters, "/inference/set_parameters", parameters=parameters).results[0]


def observe(probe: Any, spec: Any, heard: list[Any], numbers: range, publisher: Any, episode: int = 2) -> Any:
    """Send observations one by one and return the statistics after the last."""
    from observations import observation

    for number in numbers:
        before = len(heard)
        publisher.publish(observation(spec, number, episode))
        probe.wait(lambda before=before: len(heard) > before, f"observation {number} is not prefilled", 20.0)
    return heard[-1][1]


def test_what_is_recorded_gives_the_memory_map(inference: Any) -> None:
    from streaming_vla_interfaces import msg as wire

    from streaming_vla.engine.options import InferenceOptions
    from streaming_vla.workbench.demo.recording import Recorder
    from streaming_vla.workbench.report.memory_series import memory_series
    from streaming_vla.workbench.report.records import EpisodeRecord

    probe, spec, _, gate = inference
    recorder = Recorder(probe.node)
    heard = probe.record(wire.KvCacheStats, "/kv_cache_stats")
    publisher = probe.publisher(wire.Observation, "/observation")
    probe.wait(lambda: probe.node.count_publishers("/kv_cache_stats"), "nobody tells of the cache")
    observe(probe, spec, heard, range(OBSERVATIONS), publisher, episode=1)
    probe.spin(0.3)
    record = EpisodeRecord("streaming", "reach", 0, "reach", 1, 0.05, 0.0, end_s=float("inf"))
    recorder.fill(record)
    assert [at.sequence for at in record.cache] == sorted(record.pictures) == list(range(OBSERVATIONS))
    changes = {"cache_policy": "gated", "cache_gate": gate, "cache_recent": spec.tokens_per_observation}
    changes |= {"cache_chunk": spec.tokens_per_observation, "cache_budget": 10 * spec.tokens_per_observation}
    series = memory_series(record, InferenceOptions(**changes))
    assert [count for _, count in series["chunks_kept"]] == list(range(1, OBSERVATIONS))
    about = series["memory_map"]["about"]
    assert f"{OBSERVATIONS - 1} kept as a summary (0 to {OBSERVATIONS - 2}); 1 in the window" in about
    assert series["memory_map"]["data"]


def test_budget_and_threshold_are_set_live_and_told(inference: Any) -> None:
    from streaming_vla_interfaces import msg as wire

    probe, spec, suite, _ = inference
    block = spec.tokens_per_observation
    heard = probe.record(wire.KvCacheStats, "/kv_cache_stats")
    publisher = probe.publisher(wire.Observation, "/observation")
    before = observe(probe, spec, heard, range(OBSERVATIONS), publisher)
    assert (before.policy, before.chunks_kept, before.chunks_dropped) == ("gated", OBSERVATIONS - 1, 0)
    assert before.tokens == block + OBSERVATIONS - 1 and len(before.scores) == OBSERVATIONS - 1
    assert before.bytes == before.tokens * spec.cache.bytes_per_token
    assert before.full_bytes == OBSERVATIONS * block * spec.cache.bytes_per_token
    assert before.flops_saved == (before.full_tokens - before.tokens) * spec.cache.flops_per_pair
    assert put(probe, "cache_threshold", 2.0).successful
    dropped = observe(probe, spec, heard, range(OBSERVATIONS, OBSERVATIONS + 2), publisher)
    assert (dropped.chunks_kept, dropped.chunks_dropped) == (OBSERVATIONS - 1, 2)
    assert put(probe, "cache_budget", 2 * block).successful
    evicted = observe(probe, spec, heard, range(OBSERVATIONS + 2, OBSERVATIONS + 3), publisher)
    assert evicted.chunks_evicted == OBSERVATIONS - 2 and evicted.tokens == block + 1
    refused = put(probe, "cache_budget", block)
    assert not refused.successful and "below the" in refused.reason
    fixed = put(probe, "cache_chunk", block + 1)
    assert not fixed.successful and "read-only" in fixed.reason
    assert f"cache_recent is {block}, its gate was trained for {2 * block}" in suite.log("inference")
