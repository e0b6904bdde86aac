"""From the options of the inference node to its policy, and to an engine that it fits."""

from __future__ import annotations

from pathlib import Path

from streaming_vla.engine.cache import EngineOptions, differences, engine_options
from streaming_vla.engine.options import InferenceOptions, ModelOptions
from streaming_vla.engine.sessions import check_fit
from streaming_vla.policies.chunk import ChunkOptions
from streaming_vla.policies.contract import FlowPolicy, WarmingPolicy
from streaming_vla.policies.lerobot.options import LoadOptions
from streaming_vla.policies.registry import as_flow_policy, lerobot_folder, load_policy, model_files
from streaming_vla.policies.remote.options import RemoteOptions


def load_model(options: ModelOptions) -> FlowPolicy:
    """Return the policy that the options name.

    Raises:
        CheckpointError: it cannot be loaded, or an option is set that it has no use for.
    """
    load = _load_options(options)
    remote = RemoteOptions(
        remote=options.model_remote,
        key_file=Path(options.model_key_file).expanduser() if options.model_key_file else None,
        timeout_s=options.model_timeout_s,
        cameras=options.cameras_by_name or None,
    )
    return load_policy(options.model, options.saliency_model, _chunk_options(options), load, remote)


def look_at_model(options: ModelOptions) -> FlowPolicy:
    """Return what `load_model` does, for what it says of itself: the weights of a LeRobot checkpoint are not read.

    Raises:
        CheckpointError: see `load_model`.
    """
    folder = lerobot_folder(options.model)
    if folder is None:
        return load_model(options)
    from streaming_vla.policies.lerobot.load import look_at_lerobot

    return as_flow_policy(options.model, look_at_lerobot(folder, _load_options(options)), _chunk_options(options))


def survey_model(options: ModelOptions) -> list[str]:
    """Return a sentence for everything that keeps the model from being loaded, as far as it is seen without weights."""
    folder = lerobot_folder(options.model)
    if folder is None:
        return []
    from streaming_vla.policies.lerobot.survey import survey

    return survey(folder, _load_options(options))


def _chunk_options(options: ModelOptions) -> ChunkOptions:
    return ChunkOptions(steps=options.model_denoise_steps, execution_horizon=options.model_execution_horizon)


def _load_options(options: ModelOptions) -> LoadOptions:
    return LoadOptions(
        assets=Path(options.model_assets).expanduser() if options.model_assets else None,
        device=options.model_device,
        dtype=options.model_dtype,
        cameras=options.cameras_by_name or None,
        action_absolute=options.model_action_absolute,
        compile=options.model_compile,
    )


def warm_up(policy: FlowPolicy, engine: EngineOptions) -> None:
    """Let a policy do before the first motion what takes long (see WarmingPolicy)."""
    if isinstance(policy, WarmingPolicy):
        policy.warm_up(engine.policy().max_tokens)


def fitted(options: InferenceOptions, policy: FlowPolicy) -> tuple[EngineOptions, list[str]]:
    """Return what an engine serves the policy with, and a sentence for everything that its gate was not trained for.

    Raises:
        ValueError: an observation of the policy does not fit into what its cache keeps, or a gate cannot be used.
        MemoryError: the sessions' caches would be too large.
    """
    engine = engine_options(
        options, policy.spec.tokens_per_observation, options.max_sessions, device=policy.spec.device
    )
    check_fit(policy.spec, engine)
    if engine.gate is None or options.cache_policy != "gated":
        return engine, []
    return engine, differences(engine.gate.training, engine.cache, model_files(options.model))
