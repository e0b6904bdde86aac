"""From a bag to a policy that was trained on it: export, demonstrations, a few steps, a checkpoint that loads."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml
from making import BEGIN_NS, STEP_NS, STORE, TYPES, floats, header, image, make, picture, write_own
from safetensors.numpy import save_file
from streaming_vla.bags.dataset import DatasetError, DatasetFacts, read_dataset, read_facts

from streaming_vla.bags.export import write_dataset
from streaming_vla.bags.steps import EpisodeSteps
from streaming_vla.commands.robot_state import JOINTS
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.language import UNKNOWN
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.loading import load_model, load_policy, save_policy
from streaming_vla.training.dataset import Demonstrations, check_demonstrations
from streaming_vla.training.own_data import WORDS, prepare, windows, write_demonstrations
from streaming_vla.training.plan import Augment, Optimiser, Source, TrainingPlan
from streaming_vla.training.shard import Shard
from streaming_vla.training.trainer import Run, export, train
from streaming_vla.workbench.bag_commands import export as export_command

SHAPE: dict[str, Any] = {"width": 48, "layers": 2, "image_size": 32, "channels": [8, 16, 16, 24], "keypoints": [4, 4]}
SOURCE = Source(tasks={}, length=2, stride=(2, 4), sequences=4)
STEPS = 40
EPISODE = "streaming_vla_interfaces/msg/Episode"
CAMERAS = ("corner2", "gripperPOV")


def plan(steps: int = 3, **model: Any) -> TrainingPlan:
    optimiser = Optimiser(steps=steps, warm_up=0)
    return TrainingPlan(model=model, sources=(SOURCE,), augment=Augment(shift=1), optimiser=optimiser)


@pytest.fixture
def bag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two episodes of STEPS steps with the topics of the shipped parameter file."""
    cameras = {f"/camera/{camera}/image": TYPES["/camera/left/image"] for camera in CAMERAS}
    for name, kind in {**cameras, "/command": TYPES["/robot_state"], "/episode": EPISODE}.items():
        monkeypatch.setitem(TYPES, name, kind)
    said = []

    def say(topic: str, time_ns: int, message: Any) -> None:
        said.append((topic, time_ns, bytes(STORE.serialize_cdr(message, TYPES[topic]))))

    for step in range(2 * STEPS):
        now_ns = BEGIN_NS + step * STEP_NS
        if step % STEPS == 0:
            number, text = 1 + step // STEPS, ("open the drawer", "stow the gizmo")[step // STEPS]
            say(
                "/episode", now_ns,
                make(EPISODE, header=header(now_ns), session="/", number=number, active=True, instruction=text),
            )  # fmt: skip
        for name in cameras:
            say(name, now_ns + 1000, image(picture(step), now_ns))
        say("/robot_state", now_ns + 2000, floats([0.01 * step, 0.6, 0.2, 1.0]))
        say("/command", now_ns + 3000, floats([0.01 * (step % STEPS), 0.0, 0.0, -0.5]))
        joints = {"position": np.array([0.3, 0.01 * step]), "velocity": np.zeros(0), "effort": np.zeros(0)}
        say("/joint_states", now_ns + 4000, make(JOINTS, header=header(now_ns), name=["elbow", "wrist"], **joints))
    return write_own(tmp_path / "bag", said)


def episode(instruction: str, cameras: tuple[str, ...] = CAMERAS, steps: int = 20) -> EpisodeSteps:
    pictures = {camera: [np.full((32, 32, 3), 6 * step, np.uint8) for step in range(steps)] for camera in cameras}
    state = [np.full(4, step, np.float32) for step in range(steps)]
    action = [np.array([0.1, 0.0, 0.0, 0.01 * step], np.float32) for step in range(steps)]
    return EpisodeSteps(instruction, 0.0, pictures, state, action)


def dataset(folder: Path, *episodes: EpisodeSteps, cameras: tuple[str, ...] = CAMERAS) -> Path:
    names = ("dx", "dy", "dz", "gripper")
    write_dataset(folder, iter(episodes), DatasetFacts(20.0, cameras, 32, ("x", "y", "z", "g"), names))
    return folder


def shipped(path: Path) -> Path:
    """Write a policy that knows three words."""
    shape = {name: tuple(value) if isinstance(value, list) else value for name, value in SHAPE.items()}
    config = CompactConfig(words=(UNKNOWN, "drawer", "open", "the"), **shape)
    torch.manual_seed(0)
    save_policy(path, config, CompactModel(config).state_dict(), {})
    return path


def test_from_a_bag_to_a_policy(bag: Path, tmp_path: Path) -> None:
    export_command([bag], tmp_path / "data")
    start = shipped(tmp_path / "start.safetensors")
    own = prepare(tmp_path / "data", plan(), tmp_path / "run", start)
    assert own.episodes == {"open the drawer": 1, "stow the gizmo": 1}
    run = Run(own.config, own.demonstrations, own.plan, tmp_path / "run", initial=own.initial)
    train(run)
    export(run, tmp_path / "policy.safetensors")
    before, after = load_model(start), load_model(tmp_path / "policy.safetensors")
    assert after.config.words == (*before.config.words, "gizmo", "stow")
    assert not torch.equal(after.state_dict()[WORDS][:4], before.state_dict()[WORDS])
    assert load_policy(tmp_path / "policy.safetensors").spec.cameras == CAMERAS


def test_a_training_on_own_data_goes_on_where_it_was_stopped(bag: Path, tmp_path: Path) -> None:
    """Each start of the command prepares the data anew, and the run's folder must know them again."""
    export_command([bag], tmp_path / "data")
    start = shipped(tmp_path / "start.safetensors")
    facts = []
    for _ in range(3):  # the order of a written header is chance
        own = prepare(tmp_path / "data", plan(), tmp_path / "run", start)
        run = Run(own.config, own.demonstrations, own.plan, tmp_path / "run", initial=own.initial)
        facts.append(run.facts(check_demonstrations(run.demonstrations)))
    assert facts[0] == facts[1] == facts[2]


def test_names_may_be_grouped_by_what_they_are_of(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", episode("go"))
    path = data / "meta" / "info.json"
    information = json.loads(path.read_text())
    action = information["features"]["action"]
    names = list(action["names"])
    action["names"] = {"motors": names[:2], "gripper": names[2:]}
    path.write_text(json.dumps(information))
    assert read_facts(data).action_names == tuple(names)
    action["names"] = {"motors": names[:2]}
    path.write_text(json.dumps(information))
    with pytest.raises(DatasetError, match=r"2 names of \d numbers"):
        read_facts(data)


def test_joints_are_exported_by_name(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = {"robot_state_topic": "joint_states", "robot_state_type": JOINTS, "robot_state_joints": ["wrist", "elbow"]}
    params = tmp_path / "robot.yaml"
    params.write_text(yaml.safe_dump({"observer": {"ros__parameters": about}}))
    export_command([bag], tmp_path / "data", params)
    assert read_facts(tmp_path / "data").state_names == ("wrist", "elbow")
    for number, found in enumerate(read_dataset(tmp_path / "data")):
        steps = number * STEPS + np.arange(len(found["state"]))
        np.testing.assert_allclose(found["state"], np.stack([0.01 * steps, np.full(len(steps), 0.3)], 1), atol=0.011)
    params.write_text(yaml.safe_dump({"observer": {"ros__parameters": {**about, "robot_state_joints": ["foot"]}}}))
    with pytest.raises(typer.Exit):
        export_command([bag], tmp_path / "none", params)
    said = capsys.readouterr().err
    assert "messages of /joint_states are left out: joint foot is not among elbow, wrist" in said


def test_a_frame_teaches_what_the_robot_did_next(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", episode("go left"), episode("go right"), episode("go left"))
    own = prepare(data, plan(**SHAPE), tmp_path / "run", None)
    assert own.plan.sources[0].tasks == {"instruction-0": 2.0, "instruction-1": 1.0}
    demonstrations = Demonstrations(own.demonstrations, own.config)
    assert [len(each.step) for each in demonstrations.episodes] == [20, 20, 20]
    batch = demonstrations.sample(32, own.plan.sources[0], np.random.default_rng(0))
    step = batch.state[..., 0]
    expected = np.where(step[..., None] + np.arange(16) < 20, step[..., None] + np.arange(16), 19)
    np.testing.assert_allclose(batch.actions[..., 3], 0.01 * expected, atol=1e-6)
    np.testing.assert_allclose(batch.previous[..., 3], np.where(step == 0, -1.0, 0.01 * (step - 1)), atol=1e-6)
    np.testing.assert_allclose(batch.pictures[:, :, 0, 16, 16, 0], 6 * step, atol=4)  # the film is not lossless
    assert (batch.words[:, :2] > 0).mean() > 0.8  # a few are hidden on purpose


def test_behind_the_end_the_robot_stays() -> None:
    config = CompactConfig(words=(UNKNOWN,), trained_horizon=4)
    found = windows(np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32), config)
    np.testing.assert_array_equal(found[1], [[5, 6, 7, 8], *[[0, 0, 0, 8]] * 3])
    np.testing.assert_array_equal(found[0, :2], [[1, 2, 3, 4], [5, 6, 7, 8]])


def test_cameras_are_taken_in_the_policys_order(tmp_path: Path) -> None:
    turned = dataset(tmp_path / "data", episode("go", CAMERAS[::-1]), cameras=CAMERAS[::-1])
    own = prepare(turned, plan(**SHAPE, cameras=list(CAMERAS)), tmp_path / "run", None)
    assert own.config.cameras == CAMERAS
    assert prepare(turned, plan(**SHAPE), tmp_path / "run", None).config.cameras == CAMERAS[::-1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cameras": ["top", "wrist"]}, "the plan sees top, wrist, but data set .* holds corner2, gripperPOV"),
        ({"action_names": ["a", "b", "c", "d"]}, "the plan acts in a, b, c, d, but data set .* --initial none"),
        ({"state_size": 7}, "the plan knows a state of 7 numbers, but data set .* holds 4"),
        ({"depth": 3}, "the plan's model section has no depth"),
        ({"cameras": ["corner2"]}, "augment.blank has 2 numbers, expected one for each of the cameras corner2"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    data = dataset(tmp_path / "data", episode("go"))
    with pytest.raises(ValueError, match=sentence):
        prepare(data, plan(**{**SHAPE, **changes}), tmp_path / "run", None)


def test_a_damaged_data_set_is_one_sentence(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", episode("go"))
    film = next(data.rglob("*.mp4"))
    film.write_bytes(film.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"cannot be read \(.*\): export it again"):
        prepare(data, plan(**SHAPE), tmp_path / "run", None)
    information = data / "meta/info.json"
    information.write_text(information.read_text().replace('"video"', '"image"'))
    with pytest.raises(DatasetError, match="expected films"):
        read_facts(data)


@pytest.mark.parametrize("name", ["state", "action"])
def test_a_number_that_is_not_finite_is_one_sentence(tmp_path: Path, name: str) -> None:
    broken = episode("go")
    getattr(broken, name)[7][1] = np.nan
    data = dataset(tmp_path / "data", episode("go"), broken)
    with pytest.raises(ValueError, match=rf"episode 1 of data set .* has a {name} that is not finite at step 7: leave"):
        prepare(data, plan(**SHAPE), tmp_path / "run", None)


def test_demonstrations_of_the_experts_are_not_removed(tmp_path: Path) -> None:
    data = dataset(tmp_path / "mine", episode("go"))
    shard = Shard(tmp_path / "demonstrations", "drawer-open", 3).path
    shard.parent.mkdir()
    save_file({"step": np.arange(3)}, shard, metadata={"task": "drawer-open", "seed": "3"})
    own = prepare(data, plan(**SHAPE), tmp_path, None)  # where 'train demos' puts its folder too
    assert shard.is_file() and len(list(own.demonstrations.iterdir())) == 1
    own.demonstrations.joinpath("cut.safetensors").write_bytes(shard.read_bytes()[:20])
    assert prepare(data, plan(**SHAPE), tmp_path, None).demonstrations == own.demonstrations
    assert len(list(own.demonstrations.iterdir())) == 1
    with pytest.raises(ValueError, match=r"drawer-open_0_00003.safetensors' is a demonstration .* choose another"):
        write_demonstrations(data, shard.parent, own.config)
    assert shard.is_file()


def test_facts_come_back(tmp_path: Path) -> None:
    facts = read_facts(dataset(tmp_path / "data", episode("go")))
    assert dataclasses.asdict(facts) == {
        "fps": 20.0, "cameras": CAMERAS, "size": 32, "state_names": ("x", "y", "z", "g"),
        "action_names": ("dx", "dy", "dz", "gripper"),
    }  # fmt: skip
