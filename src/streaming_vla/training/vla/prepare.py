"""Everything that a VLA's training on a data set needs: the checkpoint to start from, its policy, and batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from kv_cache.tensor_file import content_digest
from streaming_vla.datasets.dataset import Dataset
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.facts import Camera, DatasetFacts
from streaming_vla.datasets.rates import rate_of_period
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.layout import ActionLayout
from streaming_vla.policies.lerobot.config import ACTION, STATE
from streaming_vla.policies.lerobot.flow_head.fresh_body import FreshBody
from streaming_vla.policies.lerobot.flow_head.sidecar import NO_JOINT, TENSORS, Sidecar
from streaming_vla.policies.lerobot.flow_head.units import FlowUnits, scale_of
from streaming_vla.policies.lerobot.folder import Folder
from streaming_vla.policies.lerobot.load import FRESH_NAMES, WEIGHTS, assets_of, load_lerobot
from streaming_vla.policies.lerobot.options import LoadOptions
from streaming_vla.policies.lerobot.tensor_archive import TensorArchive
from streaming_vla.policies.lerobot.vla_policy import VlaPolicy
from streaming_vla.policies.lerobot.weights import load as load_tensors
from streaming_vla.policies.registry import lerobot_folder
from streaming_vla.training.own_episodes import Part, ReadOptions, check_rate, read_parts, told_findings
from streaming_vla.training.vla.batches import Batches
from streaming_vla.training.vla.episodes import Seeing, Shown, fingerprint, make_ready
from streaming_vla.training.vla.plan import NetworkPart, VlaPlan
from streaming_vla.training.vla.small import SMALL, make_small
from streaming_vla.training.vla.start import make_start
from streaming_vla.training.vla.trainer import VlaRun
from streaming_vla.training.vla.windows import Path as ActionPath

Head = Literal["flow", "chunk"]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What is to be trained.

    Args:
        head: that learns.
        model: `lerobot:/folder`, or SMALL: a small SmolVLA of random weights.
        data: folder of the data set.
        plan: every hyperparameter.
        folder: of the run.
        reading: how the data set is read.
        assets: folder with tokenizer and configuration of the vision-language model; None: the checkpoint's own.
        cameras: of the data set, in the order in which the policy sees them; (): all, in the checkpoint's order where
            it has the same names.
        device: "cpu", "cuda" or "cuda:1".
    """

    head: Head
    model: str
    data: Path
    plan: VlaPlan
    folder: Path
    reading: ReadOptions
    cameras: tuple[str, ...]
    assets: Path | None = None
    seed: int = 0
    device: str = "cpu"


def prepare(wanted: Wanted, show: Shown, tell: Tell) -> tuple[VlaRun, Sidecar]:
    """Return a run, and what is to be said of its checkpoint.

    Args:
        show: is told how many episodes' pictures are ready, and of how many.
        tell: is told what is to be known of data set and checkpoint, one sentence each.

    Raises:
        ValueError: data set, checkpoint and plan do not go together.
    """
    with Dataset(wanted.data) as data:
        facts, plan = data.facts, wanted.plan
        layout = _layout(wanted, data, tell)
        episodes = {episode.entry.number: part for episode, part in read_parts(data, layout, wanted.reading)}.values()
        if not episodes:
            raise DatasetError(f"data set '{wanted.data}' has no episode")
        sidecar = _sidecar(wanted, facts, layout, list(episodes))
        vectors = {
            STATE: np.concatenate([part.states for part in episodes]),
            ACTION: np.concatenate([part.whole for part in episodes]),
        }
        source, assets = _source(wanted, facts, [text for entry in data.entries for text in entry.tasks])
        cameras = _cameras(wanted, facts, source, tell)
        if len(plan.augment.blank) not in (0, len(cameras)):
            raise ValueError(
                f"the plan's augment.blank has {len(plan.augment.blank)} numbers for {len(cameras)} cameras"
            )
        start = wanted.folder / "start"
        make_start(source, start, facts, cameras, vectors, plan, assets)
        policy = _policy(start, sidecar, cameras, wanted.device)
        seeing = Seeing(tuple(each.name for each in cameras), policy.spec.image_size, policy.spec.image_fit)
        parts = make_ready(data, wanted.folder / "pictures", layout, seeing, wanted.reading, show)
    units = FlowUnits.of(sidecar, policy.spec.layout)
    run_facts = {
        "head": wanted.head,
        "plan": plan.model_dump(mode="json"),
        "seed": wanted.seed,
        "data": fingerprint(parts),
        "start": content_digest(start / WEIGHTS),
    }
    fresh = _fresh(policy, source, wanted.seed) if wanted.head == "flow" else None
    batches = Batches(parts, units, plan, vectors[STATE].std(axis=0), wanted.seed)
    return VlaRun(policy, fresh, batches, plan, wanted.seed, run_facts, wanted.folder), sidecar


def _layout(wanted: Wanted, data: Dataset, tell: Tell) -> ActionLayout:
    """Return the layout of the actions of a data set that can be learned from, without limits: it has them as they are.

    Raises:
        DatasetError: its rate or its state is not the robot's.
    """
    facts, names = data.facts, wanted.reading.state_names
    check_rate(facts, wanted.data, wanted.reading)
    if names and names != facts.state_names:
        raise DatasetError(
            f"the state of data set '{wanted.data}' is {', '.join(facts.state_names)}, robot_state_joints are "
            f"{', '.join(names)}: give them alike, in the same order"
        )
    for sentence in told_findings(data):
        tell(sentence)
    if not facts.action_absolute:
        tell(f"'{wanted.data}' does not say whether actions are targets or changes: they are taken for targets")
    count = len(facts.action_names)
    absolute = facts.action_absolute or (True,) * count
    return ActionLayout(facts.action_names, absolute, (-np.inf,) * count, (np.inf,) * count, (0.0,) * count)


def _sidecar(wanted: Wanted, facts: DatasetFacts, layout: ActionLayout, episodes: Sequence[Part]) -> Sidecar:
    """Return what is to be said of the checkpoint; an action moves the number of the state that has its name."""
    places = {name: place for place, name in enumerate(facts.state_names)}
    absolute, joints = np.array(layout.absolute), np.array([places.get(name, NO_JOINT) for name in layout.names])
    paths = [ActionPath.of(part.whole, part.states, absolute, joints) for part in episodes]
    changes = np.concatenate([np.diff(path.told, axis=0) for path in paths])
    return Sidecar(
        head=wanted.head,
        horizon=wanted.plan.horizon,
        execution_horizon=wanted.plan.execution_horizon,
        delay=wanted.plan.flow.delay if wanted.head == "flow" else 0,
        scale=tuple(scale_of(changes).tolist()),
        absolute=layout.absolute,
        action_names=layout.names,
        state_names=facts.state_names,
        joints=tuple(joints.tolist()),
        control_period_s=float(1 / rate_of_period(wanted.reading.period_s)),
    )


def _source(wanted: Wanted, facts: DatasetFacts, said: Sequence[str]) -> tuple[Folder, Path | None]:
    """Return the checkpoint with the weights, and tokenizer and configuration."""
    if wanted.model == SMALL:
        if missing := set(get_args(NetworkPart)) - set(wanted.plan.learns):
            raise ValueError(
                f"the weights of {SMALL} are random, the plan's learns lacks {', '.join(sorted(missing))}: all "
                "of it has to learn"
            )
        made = make_small(wanted.folder / "new", facts, said, wanted.seed)
        return Folder(made), assets_of(made, LoadOptions()).path  # type: ignore[union-attr]
    path = lerobot_folder(wanted.model)
    if path is None:
        raise CheckpointError(f"--model is '{wanted.model}', expected lerobot:/folder or {SMALL}")
    assets = assets_of(path, LoadOptions(assets=wanted.assets))
    return Folder(path), None if assets is None else assets.path


def _cameras(wanted: Wanted, facts: DatasetFacts, source: Folder, tell: Tell) -> tuple[Camera, ...]:
    """Return the cameras in the order in which the policy sees them."""
    if wanted.cameras:
        return tuple(facts.camera(name) for name in wanted.cameras)
    known = [name for name in source.json("config.json", "").get("input_features", {}) if "images" in name]
    there = {camera.feature: camera for camera in facts.cameras}
    if set(there) <= set(known):
        return tuple(there[name] for name in known if name in there)
    if known:
        tell(
            f"the checkpoint's cameras are {', '.join(known)}, those of the data set, {', '.join(there)}, take their "
            "places in this order: say another one with --camera"
        )
    return facts.cameras


def _policy(start: Path, sidecar: Sidecar, cameras: Sequence[Camera], device: str) -> VlaPolicy:
    """Load the checkpoint as it is trained: in float32, whatever it is stored in."""
    options = LoadOptions(
        device=device,
        cameras={camera.name: camera.feature for camera in cameras},
        action_names=sidecar.action_names,
        control_period_s=sidecar.control_period_s,
    )
    policy = load_lerobot(start, options)
    assert isinstance(policy, VlaPolicy), "make_start takes no other, and writes no sidecar"
    if not policy.before.pictures_as_they_are:
        raise CheckpointError(f"checkpoint '{start}' normalises pictures by statistics: expected IDENTITY")
    return policy


def _fresh(policy: VlaPolicy, source: Folder, seed: int) -> FreshBody:
    """Return the flow head's own tensors: those of a checkpoint that has such a head already, or new ones."""
    spec = policy.spec
    torch.manual_seed(seed)
    fresh = FreshBody(spec.state_size, spec.layout.size, policy.network.expert_width)
    if source.has(TENSORS):
        archive = TensorArchive(source.path / TENSORS, f"{source.who}: {TENSORS}")
        load_tensors(fresh, archive, FRESH_NAMES, torch.device("cpu"))
    return fresh
