"""Loads the published StreamingVLA weights: names and shapes of pi0.5, sizes in code, statistics below assets/."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streaming_vla.policies.contract import PolicySpec
from streaming_vla.policies.errors import CheckpointError, listed
from streaming_vla.policies.layout import ActionLayout
from streaming_vla.policies.lerobot.expert import lay_out
from streaming_vla.policies.lerobot.folder import Folder
from streaming_vla.policies.lerobot.geometry import GEOMETRY, Geometry, published
from streaming_vla.policies.lerobot.load import BOTH_SIDES, WEIGHTS, set_precision
from streaming_vla.policies.lerobot.options import LoadOptions
from streaming_vla.policies.lerobot.pi import Pi, PiShape
from streaming_vla.policies.lerobot.pi import names_of as names_of_pi
from streaming_vla.policies.lerobot.stated import stated
from streaming_vla.policies.lerobot.streamingvla.norm_stats import Scale, read_scale
from streaming_vla.policies.lerobot.streamingvla.policy import HORIZON, PADDED, PUSHED, StreamingVLAPolicy
from streaming_vla.policies.lerobot.streamingvla.predictor import Predictor, names_of, sizes_of
from streaming_vla.policies.lerobot.tensor_archive import TensorArchive
from streaming_vla.policies.lerobot.text import Tokenizer, find_tokenizer
from streaming_vla.policies.lerobot.weights import build, load

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb")  # the release's third camera is masked: it changes nothing
MOST_WORDS = 200
EARLY = 2  # actions that are left when the release looks again, and that its predictor looks ahead over
PERIODS = (4e-3, 4.0)
LIBERO = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
TOKENIZER = "google/paligemma-3b-pt-224"
WIDENED = 0.1  # of the range of the actions, at both ends


def load_streamingvla(
    path: Path, options: LoadOptions | None = None, predictor: Path | None = None, normalisation: str = "linear"
) -> StreamingVLAPolicy:
    """Load the release's policy, and its observation predictor where it is given.

    Args:
        path: folder with model.safetensors and assets/.../norm_stats.json.
        options: assets must hold PaliGemma's tokenizer; cameras name the robot's for CAMERAS.
        predictor: .safetensors file of the observation predictor (the release has it as a .pth, which is not read:
            nothing here unpickles).
        normalisation: see `read_scale`.

    Raises:
        CheckpointError: it cannot be used; one sentence says why, and what to give.
    """
    options = options or LoadOptions()
    if options.compile:
        raise CheckpointError("model_compile is true, the steps of StreamingVLA are not compiled: leave it false")
    folder = Folder(path)
    assets = Folder(options.assets, "model_assets") if options.assets is not None else None
    device, dtype = options.torch_device, options.torch_dtype
    geometry = _geometry(folder, assets)
    scale = read_scale(folder, normalisation)
    tokenizer = Tokenizer(
        find_tokenizer([*([assets.path] if assets else []), folder.path], TOKENIZER), MOST_WORDS, geometry.vocab
    )
    network = build(lambda: Pi(geometry, PiShape(True, 1, PADDED, PADDED, *PERIODS)))
    network = set_precision(network, dtype)
    spec = _spec(folder.path.resolve().name, options, scale, network, geometry, predictor is not None)
    weights = folder.file(WEIGHTS, "download it from the release's page")
    load(network, TensorArchive(weights, f"{folder.who}: {WEIGHTS}"), names_of_pi(geometry, True), device)
    lay_out(network.expert)
    looking = None if predictor is None else _predictor(predictor, geometry, options)
    return StreamingVLAPolicy(spec, network, scale, tokenizer, device, looking)


def _geometry(folder: Folder, assets: Folder | None) -> Geometry:
    for place in (assets, folder):
        if place is not None and place.has(GEOMETRY):
            content = place.json(GEOMETRY, "")
            return stated(Geometry, content.get("fixture", content), f"{place.who}: {GEOMETRY}")
    return published()


def _predictor(path: Path, geometry: Geometry, options: LoadOptions) -> Predictor:
    folder = Folder(path.parent, "the folder of the predictor")
    file = folder.file(path.name, "give the .safetensors file that the release's .pth was converted to")
    archive = TensorArchive(file, f"predictor '{path}'")
    sizes = sizes_of(archive)
    if sizes.tokens != geometry.text.width or sizes.actions != PUSHED:
        raise CheckpointError(
            f"{archive.who} reads tokens of width {sizes.tokens} and {sizes.actions} actions, the policy has "
            f"{geometry.text.width} and {PUSHED}: give the predictor of this policy"
        )
    network = build(lambda: Predictor(sizes)).to(options.torch_dtype)
    return load(network, archive, names_of(network), options.torch_device)


def _spec(
    name: str, options: LoadOptions, scale: Scale, network: Pi, geometry: Geometry, looks_ahead: bool
) -> PolicySpec:
    count = len(scale.slope)
    names = options.action_names or (LIBERO if count == len(LIBERO) else tuple(f"action_{n}" for n in range(count)))
    if len(names) != count or count > PADDED or count < PUSHED:
        raise CheckpointError(
            f"action_names are {listed(names)}, the statistics have {count} actions ({PUSHED} or more)"
        )
    wanted = dict(zip(CAMERAS, CAMERAS, strict=True)) if not options.cameras else dict(options.cameras)
    if sorted(wanted.values()) != sorted(CAMERAS):
        raise CheckpointError(f"model_cameras has {listed(wanted.values())}, expected {listed(CAMERAS)}")
    camera_of = {feature: camera for camera, feature in wanted.items()}
    span = np.maximum(scale.high - scale.low, 1e-3)
    low, high = scale.low - WIDENED * span, scale.high + WIDENED * span
    zeros = (0.0,) * count
    layout = ActionLayout(names, (False,) * count, tuple(map(float, low)), tuple(map(float, high)), zeros)
    return PolicySpec(
        name=name,
        cameras=tuple(camera_of[feature] for feature in CAMERAS),
        image_size=geometry.vision.image,
        state_size=count,
        layout=layout,
        execution_horizon=options.execution_horizon or HORIZON,
        trained_horizon=HORIZON,
        tokens_per_observation=len(CAMERAS) * geometry.picture_tokens + MOST_WORDS,
        cache=network.cache_spec(options.torch_dtype),
        trained_delay=EARLY if looks_ahead else 0,
        control_period_s=options.control_period_s,
        image_fit=BOTH_SIDES,
        state_names=tuple(f"executed_{name}" for name in names),
        device=str(options.torch_device),
    )
