"""config.json of a LeRobot checkpoint (lerobot 0.6.1): which policy it is, its features and its sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from streaming_vla.policies.errors import CheckpointError, listed, shortened
from streaming_vla.policies.lerobot.folder import Folder
from streaming_vla.policies.lerobot.stated import Count, Layers, Positive, Size, Stated, Width, stated

CONFIG = "config.json"
STATE = "observation.state"
ACTION = "action"
EMPTY_CAMERA = "empty_camera_"  # part of the name of a camera that a policy has and no robot

TRAINING = """
    compile_mode compile_model device dropout dtype freeze_vision_encoder gradient_checkpointing kl_weight license
    load_vlm_weights memory_frames memory_stride memory_temporal_attention_every optimizer_betas optimizer_eps
    optimizer_grad_clip_norm optimizer_lr optimizer_lr_backbone optimizer_weight_decay pretrained_backbone_weights
    pretrained_path pretrained_revision private push_to_hub repo_id rtc_config rtc_training_max_delay
    scheduler_decay_lr scheduler_decay_steps scheduler_warmup_steps tags time_sampling_beta_alpha
    time_sampling_beta_beta time_sampling_offset time_sampling_scale train_expert_only train_state_proj type use_amp
    use_cache vlm_model_name
"""
PADDING = "empty_cameras pad_language_to prefix_length"  # padded tokens are masked in the policy, and left out here


class Feature(Stated):
    """What an input or output is: its kind and shape."""

    type: Literal["VISUAL", "STATE", "ACTION", "ENV", "REWARD", "LANGUAGE"]
    shape: tuple[Size, ...]


class PolicyConfig(Stated):
    """What all four policies state."""

    NOT_USED: ClassVar[frozenset[str]] = frozenset((TRAINING + PADDING).split())

    input_features: dict[str, Feature]
    output_features: dict[str, Feature]
    normalization_mapping: dict[str, str]
    n_obs_steps: Literal[1]
    chunk_size: Count
    n_action_steps: Count

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the picture features, without cameras that no robot has."""
        visual = [name for name, feature in self.input_features.items() if feature.type == "VISUAL"]
        return tuple(name for name in visual if EMPTY_CAMERA not in name)

    @property
    def state_size(self) -> int:
        """Numbers of the robot's state."""
        return self.input_features[STATE].shape[0]

    @property
    def action_size(self) -> int:
        """Dimensions A of an action."""
        return self.output_features[ACTION].shape[0]

    @property
    def denoise_steps(self) -> int:
        """Steps from noise to a chunk; a policy that gives its chunk at once takes one."""
        return 1


class FlowConfig(PolicyConfig):
    """What the policies that denoise a padded chunk state."""

    max_state_dim: Width
    max_action_dim: Width
    tokenizer_max_length: Count
    min_period: Positive = 4e-3
    max_period: Positive = 4.0


class SmolVLAConfig(FlowConfig):
    """SmolVLA (arXiv 2506.01844)."""

    resize_imgs_with_padding: tuple[Count, Count]  # width, height
    num_steps: Count
    attention_mode: Literal["cross_attn", "self_attn"]
    num_vlm_layers: Layers
    num_expert_layers: int = -1
    self_attn_every_n_layers: int
    expert_width_multiplier: Annotated[float, Field(gt=0.0, le=16.0, allow_inf_nan=False)]

    @property
    def denoise_steps(self) -> int:
        """As the checkpoint says."""
        return self.num_steps


class PiConfig(FlowConfig):
    """pi0 (arXiv 2410.24164) and pi0.5 (arXiv 2504.16054)."""

    image_resolution: tuple[Count, Count]  # height, width
    num_inference_steps: Count
    paligemma_variant: str
    action_expert_variant: str
    use_relative_actions: bool = False
    relative_exclude_joints: tuple[str, ...] = ()
    action_feature_names: tuple[str, ...] | None = None

    @property
    def denoise_steps(self) -> int:
        """As the checkpoint says."""
        return self.num_inference_steps


class ACTConfig(PolicyConfig):
    """ACT (arXiv 2304.13705)."""

    ADVICE: ClassVar[dict[str, str]] = {
        "temporal_ensemble_coeff": "set it to null and n_action_steps to the actions of a chunk that are executed: "
        "chunks are merged by the suite's hand-over"
    }

    vision_backbone: str
    pre_norm: bool
    dim_model: Width
    n_heads: Layers
    dim_feedforward: Width
    feedforward_activation: Literal["relu", "gelu"]
    n_encoder_layers: Layers
    n_decoder_layers: Layers
    use_vae: bool
    latent_dim: Width
    n_vae_encoder_layers: int = Field(ge=0, le=256)


KINDS: Mapping[str, type[PolicyConfig]] = {
    "smolvla": SmolVLAConfig,
    "pi0": PiConfig,
    "pi05": PiConfig,
    "act": ACTConfig,
}


def read_config(folder: Folder) -> tuple[str, PolicyConfig]:
    """Return the type of a checkpoint's policy and what its config.json states.

    Raises:
        CheckpointError: another type, a feature that is not known, or a value that cannot be used.
    """
    content = folder.json(CONFIG, "give a folder as lerobot saves it: config.json, model.safetensors, policy_*.json")
    kind = content.get("type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise CheckpointError(
            f"{folder.who} is of type {shortened(kind)}, expected one of {', '.join(KINDS)}; run other policies by "
            "lerobot itself in an environment of its own, and give its server's address"
        )
    who = f"{folder.who}: {CONFIG}"
    config = stated(KINDS[kind], content, who)
    _check_features(config, who)
    if config.n_action_steps > config.chunk_size:
        raise CheckpointError(
            f"{who}: n_action_steps is {config.n_action_steps}, expected at most chunk_size ({config.chunk_size})"
        )
    return kind, config


def _check_features(config: PolicyConfig, who: str) -> None:
    expected: dict[str, Any] = {STATE: (config.input_features, "STATE"), ACTION: (config.output_features, "ACTION")}
    for name, (features, kind) in expected.items():
        if name not in features or features[name].type != kind or len(features[name].shape) != 1:
            raise CheckpointError(f"{who}: the feature '{name}' of type {kind} and shape [n] is missing")
    strange = [
        f"{name} ({feature.type})"
        for name, feature in {**config.input_features, **config.output_features}.items()
        if name not in expected and feature.type != "VISUAL"
    ]
    if strange:
        raise CheckpointError(
            f"{who}: the features {listed(strange)} are not known here, expected cameras, {STATE} and {ACTION}"
        )
    if not config.cameras:
        raise CheckpointError(f"{who}: it has no camera among its input_features, expected one or more of type VISUAL")
    for name in config.cameras:
        shape = config.input_features[name].shape
        if len(shape) != 3 or shape[0] != 3 or max(shape) > 8192:
            raise CheckpointError(
                f"{who}: the camera '{shortened(name)}' has shape {shape}, expected (3, height, width)"
            )
    if isinstance(config, FlowConfig):
        for field, size in (("max_state_dim", config.state_size), ("max_action_dim", config.action_size)):
            if getattr(config, field) < size:
                raise CheckpointError(f"{who}: {field} is {getattr(config, field)}, the feature has {size} numbers")
