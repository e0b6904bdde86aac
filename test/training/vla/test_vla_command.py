"""`train flow` and `train chunk` as a user has them; the small policy of random weights."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from vla_runs import DATA, POLICIES, ROOT, wanted

from kv_cache.tensor_file import content_digest
from streaming_vla.cli import app
from streaming_vla.datasets.facts import read_facts
from streaming_vla.policies.lerobot.folder import Folder
from streaming_vla.policies.lerobot.load import load_lerobot
from streaming_vla.training.vla.plan import VlaPlan
from streaming_vla.training.vla.prepare import prepare
from streaming_vla.training.vla.small import make_small
from streaming_vla.training.vla.start import make_start

PLAN = """
horizon: 12
execution_horizon: 6
batch: 2
flow: {draws: 2, delay: 6}
optimiser: {steps: 2, learning_rate: 1.0e-3, warm_up: 1}
"""


def train(tmp_path: Path, *given: str) -> Any:
    (tmp_path / "plan.yaml").write_text(PLAN)
    where = ["--folder", str(tmp_path / "run"), "--plan", str(tmp_path / "plan.yaml"), "--device", "cpu"]
    return CliRunner().invoke(app, ["train", *given, *where])


def of(kind: str) -> list[str]:
    return ["--model", f"lerobot:{POLICIES / kind / 'checkpoint'}", "--assets", str(POLICIES / kind / "vlm")]


def test_a_command_trains_and_says_where_the_policy_is(tmp_path: Path) -> None:
    result = train(tmp_path, "flow", *of("smolvla"), "--data", str(DATA), "--camera", "wrist", "--camera", "top")
    assert result.exit_code == 0, result.output
    assert "million numbers learn" in result.output and "parameter model: lerobot:" in result.output
    assert "taken for targets" in result.stderr
    policy = load_lerobot(tmp_path / "run" / "checkpoint")
    assert policy.spec.cameras == ("wrist", "top") and policy.spec.control_period_s == pytest.approx(1 / 30)
    assert policy.spec.trained_horizon == 12 and policy.spec.execution_horizon == 6
    assert (tmp_path / "run" / "losses.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["flow", "--model", "lerobot:/nowhere", "--data", str(DATA)], "is no folder"),
        (["flow", "--model", "compact_mt10", "--data", str(DATA)], "expected lerobot:/folder or new:smolvla-small"),
        (["flow", *of("smolvla")], "--model is given without --data"),
        (["flow", *of("pi0"), "--data", str(DATA)], "is of type pi0, trained are smolvla and pi05"),
        (["chunk", *of("smolvla"), "--data", str(DATA), "--camera", "behind"], "has no camera behind"),
        (["chunk", "--model", "new:smolvla-small", "--data", str(DATA)], "all of it has to learn"),
        (["flow", "--data", str(DATA)], "--device is for a VLA: give --model too"),
    ],
)
def test_refusals_are_one_sentence(tmp_path: Path, given: list[str], said: str) -> None:
    result = train(tmp_path, *given)
    assert result.exit_code == 1 and said in result.stderr and "Traceback" not in result.output


def test_without_a_model_the_compact_policy_is_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import streaming_vla.training.trainer as trainer

    runs: list[Any] = []
    monkeypatch.setattr(trainer, "train", runs.append)
    monkeypatch.setattr(trainer, "export", lambda *_: None)
    monkeypatch.setattr("streaming_vla.training.curves.draw_losses", lambda *_: None)
    where = ["--folder", str(tmp_path / "run"), "--output", str(tmp_path / "policy.safetensors"), "--seed", "7"]
    result = CliRunner().invoke(app, ["train", "chunk", *where])
    assert result.exit_code == 0, result.output
    assert runs[0].seed == 7 and runs[0].folder == tmp_path / "run"


def without_robot(folder: Path) -> None:
    """Make a base model of a fine-tuned checkpoint, as the hub has them."""
    for file in folder.glob("policy_*_step_*.safetensors"):
        file.unlink()
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        content = json.loads((folder / name).read_text())
        for step in content["steps"]:
            if step.pop("state_file", None) is not None:
                step["config"]["features"] = {}
        (folder / name).write_text(json.dumps(content))
    content = json.loads((folder / "config.json").read_text())
    cameras = {f"observation.images.camera{n}": {"type": "VISUAL", "shape": [3, 256, 256]} for n in (1, 2, 3)}
    state = content["input_features"]["observation.state"]
    content["input_features"] = {"observation.state": state, **cameras}
    (folder / "config.json").write_text(json.dumps(content))


def test_a_checkpoint_without_a_robot_gets_that_of_the_data_set(tmp_path: Path) -> None:
    """Base models have processors without features and statistics, and cameras of other names."""
    base, told = tmp_path / "base", []
    shutil.copytree(POLICIES / "smolvla" / "checkpoint", base)
    without_robot(base)
    what = replace(wanted("smolvla", "chunk", tmp_path / "run"), model=f"lerobot:{base}")
    run, _ = prepare(what, lambda _done, _total: None, told.append)
    assert run.policy.spec.cameras == ("top", "wrist") and run.policy.spec.layout.high[0] < 1e3
    assert any("take their places in this order" in sentence for sentence in told)


def test_a_small_policy_of_random_weights_is_a_checkpoint_like_any_other(tmp_path: Path) -> None:
    facts = read_facts(DATA)
    folder = make_small(tmp_path / "new", facts, ["pick up the cube", "pick up the cup"], seed=1)
    content = json.loads((folder / "config.json").read_text())
    assert content["type"] == "smolvla" and content["output_features"]["action"]["shape"] == [6]
    assert (folder / "model.safetensors").stat().st_size < 16e6
    vectors = {name: np.random.default_rng(0).normal(size=(50, 6)) for name in ("observation.state", "action")}
    make_start(Folder(folder), tmp_path / "start", facts, facts.cameras, vectors, VlaPlan(), folder / "vlm")
    policy = load_lerobot(tmp_path / "start")
    count = sum(value.numel() for value in policy.network.parameters())
    assert 5e6 < count < 15e6
    assert policy.before.tokenizer("pick up the cube\n") != policy.before.tokenizer("pick up the cup\n")
    again = make_small(tmp_path / "again", facts, ["pick up the cube", "pick up the cup"], seed=1)
    assert content_digest(again / "model.safetensors") == content_digest(folder / "model.safetensors")
    assert torch.isfinite(policy.network.embed_tokens.weight).all()


def test_the_how_to_names_what_there_is() -> None:
    page = (ROOT.parent / "docs" / "how-to" / "fine-tune-vla.md").read_text(encoding="utf-8")
    for head in ("flow", "chunk"):
        told = CliRunner().invoke(app, ["train", head, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
        lines = [line for line in page.splitlines() if line.startswith(f"streaming-vla train {head} ")]
        assert lines
        assert all(option in told for line in lines for option in re.findall(r"--[a-z]+", line.split("#")[0]))
    plan = VlaPlan()
    for name, value in re.findall(r"`(?:flow\.)?(\w+): (\d+)`", page):
        assert getattr(plan if hasattr(plan, name) else plan.flow, name) == int(value), name
