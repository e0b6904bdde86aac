"""What new-robot hears from a policy: without its weights, and without cameras that the robot does not have."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from streaming_vla.bringup.policy_facts import policy_facts
from streaming_vla.engine.loading import load_model
from streaming_vla.engine.options import ModelOptions
from streaming_vla.policies.lerobot.tensor_archive import TensorArchive

pytest.importorskip("transformers")
GOLDEN = Path(__file__).parents[1] / "policies" / "lerobot" / "golden"


def options(name: str = "smolvla", folder: Path | None = None) -> ModelOptions:
    checkpoint = folder or GOLDEN / name / "checkpoint"
    return ModelOptions(model=f"lerobot:{checkpoint}", model_assets=str(GOLDEN / name / "vlm"))


@pytest.mark.parametrize("name", ["smolvla", "pi05"])
def test_no_weights_are_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_model(options(name))
    names, read = [], TensorArchive.read
    monkeypatch.setattr(TensorArchive, "read", lambda self, name, into: (names.append(name), read(self, name, into)))
    facts = policy_facts(options(name))
    assert names and all(each.startswith(("observation.", "action.")) for each in names), "statistics alone"
    assert facts.spec == whole.spec and facts.spec.chunk
    low = whole.policy.after.data.limits(0.0)[0]  # type: ignore[attr-defined]
    assert [each[0] for each in facts.data_ranges if each] == pytest.approx(low.tolist())


def test_weights_of_something_else_are_refused_all_the_same(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "smolvla" / "checkpoint", tmp_path / "checkpoint")
    shutil.copy(GOLDEN / "pi0" / "checkpoint" / "model.safetensors", tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="does not fit the policy that its configuration describes"):
        policy_facts(options(folder=tmp_path / "checkpoint"))


def test_a_camera_that_the_robot_lacks_is_left_out() -> None:
    facts = policy_facts(options(), without=["wrist"])
    assert facts.spec.cameras == ("top",)
    assert facts.inference["model_cameras"] == ("top=observation.images.top",)
    loaded = load_model(options().changed(model_cameras=facts.inference["model_cameras"]))
    assert loaded.spec == facts.spec, "the file says what is loaded"


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        (["left"], "--without names left, the policy's cameras are top, wrist"),
        (["top", "wrist"], "it needs one at least"),
    ],
)
def test_a_camera_that_cannot_be_left_out_is_said(without: list[str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        policy_facts(options(), without=without)


def test_a_policy_that_needs_its_cameras_says_so() -> None:
    with pytest.raises(ValueError, match=r"--without is for SmolVLA, .* needs all of its cameras"):
        policy_facts(ModelOptions(model="compact_mt10"), without=["corner"])
