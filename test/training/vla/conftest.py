"""Runs of tiny VLAs, of the sizes of a toy and with random weights, on a tiny data set that lerobot itself has made."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
collect_ignore_glob = [] if find_spec("transformers") else ["test_*.py"]  # no release of it is for Python 3.10

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


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Made]:
    """Makes a run of one of the tiny policies; `changes` are of the plan."""

    def make(kind: str, head: str, folder: str = "run", data: Path = DATA, **changes: Any) -> Made:
        model = f"lerobot:{POLICIES / kind / 'checkpoint'}"
        reading, assets = ReadOptions(1 / 30), POLICIES / kind / "vlm"
        wanted = Wanted(head, model, data, tiny_plan(**changes), tmp_path / folder, reading, assets)
        return prepare(wanted, lambda _done, _total: None, lambda _sentence: None)

    return make
