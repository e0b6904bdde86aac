"""Loads a LeRobot checkpoint folder as a policy: every file is checked before the first weight is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot import act, pi, smolvla
from streaming_vla.policies.lerobot.act_policy import ACTPolicy
from streaming_vla.policies.lerobot.config import ACTConfig, FlowConfig, PiConfig, SmolVLAConfig, read_config
from streaming_vla.policies.lerobot.expert import lay_out
from streaming_vla.policies.lerobot.flow_head.fresh_body import FreshBody
from streaming_vla.policies.lerobot.flow_head.policy import FlowHeadPolicy
from streaming_vla.policies.lerobot.flow_head.sidecar import TENSORS, Sidecar, read_sidecar
from streaming_vla.policies.lerobot.flow_head.units import FlowUnits
from streaming_vla.policies.lerobot.folder import Folder
from streaming_vla.policies.lerobot.geometry import read_geometry
from streaming_vla.policies.lerobot.layers import RMSNorm
from streaming_vla.policies.lerobot.options import LoadOptions
from streaming_vla.policies.lerobot.processors import (
    NEW_LINE,
    NORMALISER,
    STATE_AS_TEXT,
    TOKENIZER,
    Postprocessor,
    Preprocessor,
)
from streaming_vla.policies.lerobot.specs import cameras_of, make_spec
from streaming_vla.policies.lerobot.steps import tokenizer_named
from streaming_vla.policies.lerobot.tensor_archive import TensorArchive
from streaming_vla.policies.lerobot.vla_policy import PolicySizes, VlaPolicy
from streaming_vla.policies.lerobot.vlm_config import read_vlm
from streaming_vla.policies.lerobot.weights import Names, build, compare, load

WEIGHTS = "model.safetensors"
Network = TypeVar("Network", bound=nn.Module)
Fill = Callable[[nn.Module, TensorArchive, Names, torch.device], nn.Module]
"""Puts a file's tensors into a network."""
BOTH_SIDES, LEFT_TOP = "letterbox", "letterbox_left_top"  # see PolicySpec.image_fit
PRECISE = ("state_proj", "action_in_proj", "action_out_proj")
FLOW_HEADS = ("smolvla", "pi05")  # pi0 has a token of its own for the state in every step
FRESH_NAMES = Names({name: f"fresh.{name}" for name in ("inner", "outer")})
TIME = ("action_time_mlp_in", "action_time_mlp_out", "time_mlp_in", "time_mlp_out")


Loaded = VlaPolicy | ACTPolicy | FlowHeadPolicy
ASSETS = "vlm"  # folder in a checkpoint that was trained here: tokenizer and configuration of its vision-language model


def load_lerobot(path: Path, options: LoadOptions | None = None) -> Loaded:
    """Load the checkpoint of a SmolVLA, pi0, pi0.5 or ACT, also one with a flow head of ours.

    Args:
        path: folder as lerobot saves it.
        options: what no file of it says.

    Raises:
        CheckpointError: it cannot be used; one sentence says why, and what to give.
    """
    return _opened(path, options or LoadOptions(), load)


def look_at_lerobot(path: Path, options: LoadOptions) -> Loaded:
    """Return what `load_lerobot` does without its weights: for what it says of itself, it cannot be run.

    Files, names and shapes are compared as there; CheckpointError likewise.
    """

    def leave(network: Network, archive: TensorArchive, names: Names, device: torch.device) -> Network:
        compare(network, archive, names)
        return network

    return _opened(path, options, leave)


def assets_of(path: Path, options: LoadOptions) -> Folder | None:
    """Return the folder of tokenizer and configuration: the one that is given, or the checkpoint's own."""
    own = path.expanduser() / ASSETS
    given = options.assets or (own if own.is_dir() else None)
    return None if given is None else Folder(given, "model_assets")


def _opened(path: Path, options: LoadOptions, fill: Fill) -> Loaded:
    folder = Folder(path)
    assets = assets_of(path, options)
    kind, config = read_config(folder)
    if isinstance(config, ACTConfig):
        return _load_act(folder, config, options, fill)
    if find_spec("transformers") is None:
        raise CheckpointError(f"a {kind} needs transformers: pip install 'streaming_vla[vla]'")
    assert isinstance(config, FlowConfig), "the other three"
    return _load_flow(folder, assets, kind, config, options, fill)


@dataclass(frozen=True)
class _Flow:
    """What tells SmolVLA, pi0 and pi0.5 from each other.

    Args:
        network: as `build` makes it.
        names: of its tensors in the file.
        height, width: of its pictures.
        centred: of the letterbox.
        vocabulary: rows of its embedding.
        picture_tokens: of a camera.
        own_tokens: beside pictures and words.
        step: that its preprocessor must have.
    """

    network: smolvla.SmolVLA | pi.Pi
    names: Names
    height: int
    width: int
    centred: bool
    vocabulary: int
    picture_tokens: int
    own_tokens: int
    step: tuple[str, ...]


def _smolvla(folder: Folder, assets: Folder | None, config: SmolVLAConfig) -> _Flow:
    vlm = read_vlm(assets, tokenizer_named(folder))
    width, height = config.resize_imgs_with_padding
    tokens = vlm.picture_tokens(width, height)
    network = build(lambda: smolvla.SmolVLA(config, vlm))
    names = smolvla.names_of(config, vlm)
    return _Flow(network, names, height, width, smolvla.CENTRED, vlm.vocabulary, tokens, 1, NEW_LINE)


def _pi(folder: Folder, assets: Folder | None, config: PiConfig, adaptive: bool) -> _Flow:
    geometry = read_geometry(folder, assets, config)
    height, width = config.image_resolution
    shape = pi.PiShape(
        adaptive, config.chunk_size, config.max_action_dim, config.max_state_dim, config.min_period, config.max_period
    )
    network = build(lambda: pi.Pi(geometry, shape))
    names, step = pi.names_of(geometry, adaptive), (STATE_AS_TEXT,) if adaptive else NEW_LINE
    return _Flow(network, names, height, width, pi.CENTRED, geometry.vocab, geometry.picture_tokens, 0, step)


def _load_flow(
    folder: Folder, assets: Folder | None, kind: str, config: FlowConfig, options: LoadOptions, fill: Fill
) -> VlaPolicy | FlowHeadPolicy:
    device, dtype = options.torch_device, options.torch_dtype
    sidecar = read_sidecar(folder, config)
    has_flow_head = sidecar is not None and sidecar.head == "flow"
    if has_flow_head and kind not in FLOW_HEADS:
        raise CheckpointError(f"{folder.who} is a {kind} with a flow head, expected one of {', '.join(FLOW_HEADS)}")
    rows = 1 if has_flow_head else config.chunk_size  # tokens of a step
    shaped = config.model_copy(update={"chunk_size": rows})
    if isinstance(shaped, SmolVLAConfig):
        flow = _smolvla(folder, assets, shaped)
    else:
        assert isinstance(shaped, PiConfig), "the other two"
        flow = _pi(folder, assets, shaped, adaptive=kind == "pi05")
    before = Preprocessor(folder, config, assets, flow.vocabulary, ((NORMALISER,), (TOKENIZER,), flow.step))
    after = Postprocessor(folder, config, before.relative, before.state_statistics)
    cameras = cameras_of(config, before.renamed, options.cameras, all_needed=False)
    spec = make_spec(
        folder.path.resolve().name,
        config,
        options,
        cameras,
        after.data,
        before.action_names,
        flow.network.cache_spec(dtype),
        len(cameras) * flow.picture_tokens + config.tokenizer_max_length + flow.own_tokens,
        max(flow.height, flow.width),
        BOTH_SIDES if flow.centred else LEFT_TOP,
        sidecar,
    )
    fill(set_precision(flow.network, dtype), weights_of(folder), flow.names, device)
    lay_out(flow.network.expert)
    sizes = PolicySizes(
        flow.height,
        flow.width,
        flow.centred,
        config.max_state_dim,
        config.max_action_dim,
        rows,
        device,
        options.compile,
    )
    policy = VlaPolicy(spec, flow.network, sizes, before, after, cameras, flow.names)
    return policy if sidecar is None or not has_flow_head else _with_flow_head(folder, policy, sidecar, fill)


def _with_flow_head(folder: Folder, policy: VlaPolicy, sidecar: Sidecar, fill: Fill) -> FlowHeadPolicy:
    spec = policy.spec
    fresh = build(lambda: FreshBody(spec.state_size, spec.layout.size, policy.network.expert_width))
    path = folder.file(TENSORS, "it holds the flow head's own tensors: copy it too")
    fill(fresh, TensorArchive(path, f"{folder.who}: {TENSORS}"), FRESH_NAMES, policy.sizes.device)
    return FlowHeadPolicy(policy, fresh, FlowUnits.of(sidecar, spec.layout))


def _load_act(folder: Folder, config: ACTConfig, options: LoadOptions, fill: Fill) -> ACTPolicy:
    if options.compile:
        raise CheckpointError("model_compile is true, an ACT has no steps of a flow that are compiled: leave it false")
    device, dtype = options.torch_device, options.torch_dtype
    before = Preprocessor(folder, config, None, 0, ((NORMALISER,),))
    after = Postprocessor(folder, config, before.relative, before.state_statistics)
    cameras = cameras_of(config, before.renamed, options.cameras, all_needed=True)
    network, names = build(lambda: act.ACT(config)), act.names_of(config)
    shapes = {name: config.input_features[name].shape[1:] for name in cameras.values()}
    spec = make_spec(
        folder.path.resolve().name,
        config,
        options,
        cameras,
        after.data,
        before.action_names,
        act.EMPTY_TOKEN,
        1,
        max(size for shape in shapes.values() for size in shape),
        BOTH_SIDES,
    )
    network.to(dtype)
    fill(network, weights_of(folder), names, device)
    return ACTPolicy(spec, network, before, after, shapes, device)


def set_precision(network: Network, dtype: torch.dtype) -> Network:
    """Give a network its number format; norms, and what actions, state and time pass through, stay float32."""
    network.to(dtype)
    for name, module in network.named_modules():
        if isinstance(module, RMSNorm) or name in (*PRECISE, *TIME):
            module.float()
    return network


def weights_of(folder: Folder) -> TensorArchive:
    """Return the checkpoint's weights, of which the header is read; CheckpointError when they cannot be used."""
    path = folder.file(WEIGHTS, "it holds the policy's weights: copy it too, in one piece")
    return TensorArchive(path, f"{folder.who}: {WEIGHTS}")
