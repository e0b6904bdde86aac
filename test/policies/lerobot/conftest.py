"""Makes the helpers of this folder importable; policies loaded from checkpoints that lerobot 0.6.1 has written."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from golden_files import GOLDEN, folder_of

from streaming_vla.policies.lerobot.act_policy import ACTPolicy
from streaming_vla.policies.lerobot.check.formula import with_weights
from streaming_vla.policies.lerobot.load import load_lerobot
from streaming_vla.policies.lerobot.options import LoadOptions
from streaming_vla.policies.lerobot.vla_policy import VlaPolicy

collect_ignore_glob = [] if find_spec("transformers") else ["test_*.py"]  # no release of it is for Python 3.10


@pytest.fixture(scope="session")
def act_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ACT's checkpoint with its weights, which a formula makes."""
    folder = tmp_path_factory.mktemp("act") / "checkpoint"
    return with_weights(GOLDEN / "act" / "checkpoint", GOLDEN / "act" / "weights.json", folder)


@pytest.fixture(scope="session")
def load(act_checkpoint: Path) -> Callable[..., Any]:
    """Loads one of POLICIES; options as of LoadOptions."""

    def load_policy(policy: str, **options: Any) -> VlaPolicy | ACTPolicy:
        checkpoint = act_checkpoint if policy == "act" else GOLDEN / policy / "checkpoint"
        return load_lerobot(checkpoint, LoadOptions(**{**folder_of(GOLDEN / policy), **options}))

    return load_policy


@pytest.fixture
def copied(tmp_path: Path, act_checkpoint: Path) -> Callable[[str], Path]:
    """Copies the folder of one of POLICIES, to be changed."""

    def copy(policy: str) -> Path:
        shutil.copytree(GOLDEN / policy, tmp_path / policy)
        if policy == "act":
            shutil.copyfile(act_checkpoint / "model.safetensors", tmp_path / "act" / "checkpoint" / "model.safetensors")
        return tmp_path / policy

    return copy
