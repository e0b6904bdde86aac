"""From the options of the inference node to its policy."""

from __future__ import annotations

from pathlib import Path

from streaming_vla.engine.options import ModelOptions
from streaming_vla.policies.chunk import ChunkOptions
from streaming_vla.policies.contract import FlowPolicy
from streaming_vla.policies.lerobot.options import LoadOptions
from streaming_vla.policies.registry import load_policy
from streaming_vla.policies.remote.options import RemoteOptions

LEROBOT = "lerobot:"  # of models


def load_model(options: ModelOptions) -> FlowPolicy:
    """Return the policy that the options name.

    Raises:
        CheckpointError: it cannot be loaded, or an option is set that it has no use for.
    """
    load = _load_options(options)
    chunk = ChunkOptions(steps=options.model_denoise_steps, execution_horizon=options.model_execution_horizon)
    remote = RemoteOptions(
        remote=options.model_remote,
        key_file=Path(options.model_key_file).expanduser() if options.model_key_file else None,
        timeout_s=options.model_timeout_s,
        cameras=options.cameras_by_name or None,
    )
    return load_policy(options.model, options.saliency_model, chunk, load, remote)


def survey_model(options: ModelOptions) -> list[str]:
    """Return a sentence for everything that keeps the model from being loaded, as far as it is seen without weights."""
    if not options.model.startswith(LEROBOT):
        return []
    from streaming_vla.policies.lerobot.survey import survey

    return survey(Path(options.model.removeprefix(LEROBOT)).expanduser(), _load_options(options))


def _load_options(options: ModelOptions) -> LoadOptions:
    return LoadOptions(
        assets=Path(options.model_assets).expanduser() if options.model_assets else None,
        device=options.model_device,
        dtype=options.model_dtype,
        cameras=options.cameras_by_name or None,
        action_absolute=options.model_action_absolute,
    )
