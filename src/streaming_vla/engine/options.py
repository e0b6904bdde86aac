"""The options of the inference node: model, sessions and KV cache. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from streaming_vla.options.option import Options, option
from streaming_vla.options.shared import NodeOptions, realtime_priority

NO_CAMERA = ("",)  # a list of ROS must not be empty


class ModelOptions(Options):
    """The policy, and how it is loaded; what a model has no use for is refused where it is loaded."""

    model: str = option(
        "compact_mt10",
        "Name of a shipped model, path of a .safetensors checkpoint, python:package.module:factory for a policy of "
        "your own, lerobot:/folder for a checkpoint of LeRobot, openpi://host:8000 (openpi:wss://host with TLS) or "
        "groot://host:5555 for a server, or the name that an installed package registers.",
    )
    saliency_model: str = option(
        "auto",
        "Look-ahead predictor for the monitor's saliency_of pictures: name of a shipped file, or path of a "
        ".safetensors file; auto takes the one of the model's name with _saliency behind it; empty: none.",
    )
    model_assets: str = option(
        "",
        "For lerobot: folder with tokenizer and configuration of the vision-language model; empty: the checkpoint's.",
    )
    model_device: str = option("cpu", "For lerobot: where the model computes, cpu, cuda or cuda:N.")
    model_dtype: Literal["float32", "bfloat16"] = option(
        "float32", "For lerobot: number format of the towers; norms, state, time and actions stay float32."
    )
    model_compile: bool = option(
        False,
        "For lerobot: the denoising steps of SmolVLA, pi0 and pi0.5 are compiled (torch.compile) and tried before the "
        "first motion, which takes a minute or more; for as many tokens as the cache keeps at most. Where the compiler "
        "fails, the log says so and they run without.",
    )
    model_cameras: tuple[str, ...] = option(
        NO_CAMERA,
        "For lerobot: the robot's cameras as camera=feature (front=observation.images.top); one empty name takes every "
        "camera of the checkpoint, under the last part of its name. For openpi and groot: as camera=camera of the "
        "policy.",
    )
    model_action_absolute: bool = option(
        True, "For lerobot: its actions are targets, as in most of LeRobot's data sets; false: they are changes."
    )
    model_remote: str = option(
        "",
        "For openpi and groot: what the server is fed and gives, a shipped description (libero, droid, aloha) or the "
        "path of a YAML file; empty: the server says it, as streaming-vla serve does.",
    )
    model_key_file: str = option(
        "", "For openpi and groot: file whose first line is the key that the server wants; empty: it wants none."
    )
    model_timeout_s: float = option(
        5.0,
        "For openpi and groot: a chunk that is not there so long after its observation was begun is given up.",
        "s",
        ge=0.05,
        le=600.0,
    )
    model_denoise_steps: int = option(
        0, "Of a policy of chunks: Euler steps from noise to a chunk; 0: as the policy says.", "steps", ge=0, le=1000
    )
    model_execution_horizon: int = option(
        0,
        "Of a policy of chunks: actions of a chunk that are meant to be executed; 0: as the policy says.",
        "actions",
        ge=0,
        le=1000,
    )

    @property
    def cameras_by_name(self) -> dict[str, str]:
        """The feature of each of `model_cameras` by the robot's name for it."""
        entries = () if self.model_cameras == NO_CAMERA else self.model_cameras
        return {camera: feature for camera, _, feature in (entry.partition("=") for entry in entries)}

    @model_validator(mode="after")
    def _check_cameras(self) -> ModelOptions:
        cameras = self.cameras_by_name
        if self.model_cameras != NO_CAMERA and (
            len(cameras) < len(self.model_cameras) or not all(cameras) or not all(cameras.values())
        ):
            raise ValueError(
                f"model_cameras is {list(self.model_cameras)}, expected camera=feature, each camera once, as in "
                "front=observation.images.top"
            )
        return self


class CacheOptions(Options):
    """What is kept of a policy's history; what the cache policy has no use for is ignored."""

    cache_policy: Literal["full", "window", "newest", "gated", "mean", "random", "attention", "expected"] = option(
        "window",
        "What is kept of the history in the KV cache: everything, the newest tokens, exactly the newest observation "
        "(of a policy whose observations differ in length), or summaries of older chunks "
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
        "Most tokens that a policy with summaries holds; the chunks of lowest utility go first.",
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
    cache_exact: float = option(
        -1.0,
        "Score from which policy gated keeps a chunk word for word, for what must stay exact; a chunk of a lower score "
        "becomes a summary, and so does this one before it is evicted; below 0: every chunk that is kept is a summary.",
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
