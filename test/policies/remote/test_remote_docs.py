"""The how-to's files are read as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from streaming_vla.parameters import load
from streaming_vla.policies.remote.description import read_description

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "remote-model.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
PARAMETERS = [block for block in BLOCKS if "ros__parameters" in block]
DESCRIPTIONS = [block for block in BLOCKS if "keys:" in block]


def test_there_are_blocks() -> None:
    assert (len(PARAMETERS), len(DESCRIPTIONS), len(BLOCKS)) == (2, 2, 4)


@pytest.mark.parametrize("block", PARAMETERS)
def test_parameter_files_are_read(block: str, tmp_path: Path) -> None:
    told = yaml.safe_load(block)["/**/inference"]["ros__parameters"]
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump({"/**/inference": {"ros__parameters": told}}))
    suite = load.read(path)
    assert suite.inference.model == "openpi://gpu-box:8000"
    if suite.inference.model_remote:
        spec, _ = read_description(suite.inference.model_remote)
        shared = yaml.safe_load(block)["/**"]["ros__parameters"]
        assert list(spec.layout.names) == shared["action_names"]
        assert list(spec.layout.absolute) == shared["action_absolute"]
        assert spec.control_period_s == shared["control_period_s"]
        assert set(suite.inference.cameras_by_name.values()) == set(spec.cameras)


@pytest.mark.parametrize("block", DESCRIPTIONS)
def test_descriptions_are_read(block: str, tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(block)
    spec, keys = read_description(str(path))
    assert len(spec.cameras) == 2 and sum(keys.actions.values()) == spec.layout.size
