"""Tiny VLAs, of the sizes of a toy and with random weights, on a tiny data set that lerobot itself has made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from streaming_vla.policies.lerobot.flow_head.sidecar import Sidecar
from streaming_vla.training.own_episodes import ReadOptions
from streaming_vla.training.plan import Augment, Optimiser
from streaming_vla.training.vla.plan import FlowDraws, VlaPlan
from streaming_vla.training.vla.prepare import Wanted, prepare
from streaming_vla.training.vla.trainer import VlaRun

ROOT = Path(__file__).resolve().parents[2]
POLICIES = ROOT / "policies" / "lerobot" / "golden"
DATA = ROOT / "datasets" / "golden" / "so101_image"
Made = tuple[VlaRun, Sidecar]

torch.set_num_threads(1)


def tiny_plan(**changes: Any) -> VlaPlan:
    """Return a plan of few steps that disturbs nothing."""
    still = Augment(shift=0, colour=0.0, state_noise=0.0, blank=())
    optimiser = Optimiser(steps=8, learning_rate=1e-3, weight_decay=0.01, warm_up=2, average=0.5, clip=10.0)
    sizes = {"horizon": 12, "execution_horizon": 6, "batch": 3, "flow": FlowDraws(draws=4, delay=6)}
    return VlaPlan(**{**sizes, "augment": still, "optimiser": optimiser, **changes})


def wanted(kind: str, head: str, folder: Path, data: Path = DATA, **changes: Any) -> Wanted:
    """Return what is to be trained: one of the tiny policies; `changes` are of the plan."""
    model = f"lerobot:{POLICIES / kind / 'checkpoint'}"
    return Wanted(head, model, data, tiny_plan(**changes), folder, ReadOptions(1 / 30), (), POLICIES / kind / "vlm")


def prepared(what: Wanted) -> Made:
    """Return a run, told nothing."""
    return prepare(what, lambda _done, _total: None, lambda _sentence: None)
