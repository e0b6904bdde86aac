"""The options of the inference node: model, sessions and KV cache. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from streaming_vla.options.option import Options, option
from streaming_vla.options.shared import NodeOptions, realtime_priority


class ModelOptions(Options):
    """The weights."""

    model: str = option("compact_mt10", "Name of a shipped model, or path of a .safetensors checkpoint.")
    saliency_model: str = option(
        "auto",
        "Look-ahead predictor for the monitor's saliency_of pictures: name of a shipped file, or path of a "
        ".safetensors file; auto takes the one of the model's name with _saliency behind it; empty: none.",
    )


class CacheOptions(Options):
    """What is kept of a policy's history; what the cache policy has no use for is ignored."""

    cache_policy: Literal["full", "window", "gated", "mean", "random", "attention", "expected"] = option(
        "window",
        "What is kept of the history in the KV cache: everything, the newest tokens, or summaries of older chunks "
        "chosen by a gate, all of them, by chance, by past or by expected attention.",
    )
    cache_sinks: int = option(
        0, "First tokens of the episode that every policy but full always keeps.", "tokens", ge=0, le=100_000
    )
    cache_recent: int = option(
        0,
        "Newest tokens that every policy but full keeps; 0 keeps the newest observation only. The shipped model was "
        "trained with up to 8 observations of 25 tokens, in the memory tasks 120, and was measured with 1 and 4.",
        "tokens",
        ge=0,
        le=1_000_000,
    )
    cache_capacity: int = option(4096, "Tokens that policy full can hold in one episode.", "tokens", ge=1, le=1_000_000)
    cache_chunk: int = option(
        25,
        "Older tokens that are judged together and become one summary; best, and with 0, the tokens of one "
        "observation.",
        "tokens",
        ge=0,
        le=100_000,
    )
    cache_budget: int = option(
        256,
        "Most tokens that a policy with summaries holds; the summaries of lowest utility go first.",
        "tokens",
        live=True,
        ge=1,
        le=1_000_000,
    )
    cache_threshold: float = option(
        -1.0,
        "Least score of a chunk that policy gated keeps; below 0: as calibrated with the gate.",
        live=True,
        ge=-1.0,
        le=2.0,
    )
    cache_gate: str = option(
        "", "Weights of the gate for policy gated: name of a shipped file, or path of a .safetensors file."
    )
    cache_keep_rate: float = option(
        0.1,
        "Share of the chunks that policy random keeps, the same ones in every episode; how many gated keeps is up to "
        "its training and to cache_threshold.",
        ge=0.0,
        le=1.0,
    )

    @model_validator(mode="after")
    def _check_gate(self) -> CacheOptions:
        if self.cache_policy == "gated" and not self.cache_gate:
            raise ValueError(
                "cache_policy is gated, but cache_gate is empty: name the weights of a gate there, "
                "or choose another cache_policy"
            )
        return self


class InferenceOptions(CacheOptions, ModelOptions, NodeOptions):
    """The shared service: one model for all robots, a KV cache for each."""

    max_sessions: int = option(4, "Robots that one node serves at most.", ge=1, le=256)
    sessions: tuple[str, ...] = option(
        (".",), "Namespaces of the robots that are served; '.' is the namespace of this node."
    )
    latency_profile: str = option(
        "",
        "Holds answers back as a slower machine or a network would: name of a shipped profile (config/profiles), or "
        "path of a YAML file; empty: none.",
    )
    realtime_priority: int = realtime_priority(30)
