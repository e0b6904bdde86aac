"""From a bag to a policy that was trained on it: export, demonstrations, a few steps, a checkpoint that loads."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
import typer
import yaml
from making import BEGIN_NS, STEP_NS, STORE, TYPES, floats, header, image, make, picture, write_own
from pyarrow import parquet
from safetensors.numpy import save_file

from streaming_vla.commands.robot_state import JOINTS
from streaming_vla.datasets.dataset import Dataset
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.facts import Camera, DatasetFacts, read_facts
from streaming_vla.datasets.parts import Storage
from streaming_vla.datasets.writer import Step, write_dataset
from streaming_vla.policies.compact.checkpoint import load_model, load_policy, save_policy
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.language import UNKNOWN
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.training.dataset import Demonstrations, check_demonstrations
from streaming_vla.training.own_data import WORDS, OwnData, prepare, windows, write_demonstrations
from streaming_vla.training.own_episodes import ReadOptions
from streaming_vla.training.plan import Augment, Optimiser, Source, TrainingPlan
from streaming_vla.training.shard import Shard
from streaming_vla.training.trainer import Run, export, train
from streaming_vla.workbench.export.command import export as export_command

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
                make(EPISODE, header=header(now_ns), session="/", number=number, active=True, instruction=text,
                     stopped=False),
            )  # fmt: skip
        for name in cameras:
            say(name, now_ns + 1000, image(picture(step), now_ns))
        say("/robot_state", now_ns + 2000, floats([0.01 * step, 0.6, 0.2, 1.0]))
        say("/command", now_ns + 3000, floats([0.01 * (step % STEPS), 0.0, 0.0, -0.5]))
        joints = {"position": np.array([0.3, 0.01 * step]), "velocity": np.zeros(0), "effort": np.zeros(0)}
        say("/joint_states", now_ns + 4000, make(JOINTS, header=header(now_ns), name=["elbow", "wrist"], **joints))
    return write_own(tmp_path / "bag", said)


Episode = list[tuple[str, np.ndarray, np.ndarray]]  # instruction, state and action of every step


def episode(instruction: str, steps: int = 20) -> Episode:
    return [(instruction, np.full(4, step, np.float32), np.array([0.1, 0.0, 0.0, 0.01 * step], np.float32))
            for step in range(steps)]  # fmt: skip


def dataset(folder: Path, *episodes: Episode, cameras: tuple[str, ...] = CAMERAS, **facts: Any) -> Path:
    """Write episodes whose pictures tell their step; the second camera is larger than the first."""
    sizes = [Camera(name, 32, 32 + 8 * place) for place, name in enumerate(cameras)]

    def shown(step: int) -> dict[str, np.ndarray]:
        return {each.name: np.full((each.height, each.width, 3), 6 * step % 256, np.uint8) for each in sizes}

    steps = (
        Step(number, task, shown(step), state, action)
        for number, rows in enumerate(episodes)
        for step, (task, state, action) in enumerate(rows)
    )
    given = {"rate": Fraction(20), "action_names": ("dx", "dy", "dz", "gripper"), **facts}
    write_dataset(
        folder, steps, DatasetFacts(cameras=tuple(sizes), state_names=("x", "y", "z", "g"), **given), Storage.film
    )
    return folder


def made_ready(data: Path, chosen: TrainingPlan, folder: Path, start: Path | None = None, **given: Any) -> OwnData:
    """Prepare a training at the default control period."""
    return prepare(data, chosen, folder, start, ReadOptions(**{"period_s": 0.05, **given}))


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
    own = made_ready(tmp_path / "data", plan(), tmp_path / "run", start)
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
        own = made_ready(tmp_path / "data", plan(), tmp_path / "run", start)
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
    with Dataset(tmp_path / "data") as data:
        assert data.facts.state_names == ("wrist", "elbow")
        for number, entry in enumerate(data.entries):
            state = data.episode(entry).state
            steps = number * STEPS + np.arange(len(state))
            np.testing.assert_allclose(state, np.stack([0.01 * steps, np.full(len(steps), 0.3)], 1), atol=0.011)
    params.write_text(yaml.safe_dump({"observer": {"ros__parameters": {**about, "robot_state_joints": ["foot"]}}}))
    with pytest.raises(typer.Exit):
        export_command([bag], tmp_path / "none", params)
    said = capsys.readouterr().err
    assert "has nothing of joint foot that can be used" in said


def test_a_frame_teaches_what_the_robot_did_next(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", episode("go left"), episode("go right"), episode("go left"))
    own = made_ready(data, plan(**SHAPE), tmp_path / "run")
    assert own.plan.sources[0].tasks == {"instruction-0": 2.0, "instruction-1": 1.0}
    demonstrations = Demonstrations(own.demonstrations, own.config, own.plan.flow)
    assert [len(each.step) for each in demonstrations.episodes] == [20, 20, 20]
    batch = demonstrations.sample(32, own.plan.sources[0], np.random.default_rng(0))
    step = batch.state[..., 0]
    then = step[..., None] + batch.age
    expected = np.minimum(then[..., :1] + np.arange(16), 19)
    np.testing.assert_allclose(batch.chunk[..., 3], 0.01 * expected, atol=1e-6)
    np.testing.assert_allclose(batch.answer[..., 3], 0.01 * then, atol=1e-6)
    late = then - batch.later[..., 0]  # steps that the state is behind, whose actions are told
    assert late.min() == 0 < late.max()
    np.testing.assert_allclose(batch.pending[..., 0], 0.1 * late, atol=1e-5)
    newest = np.where(then == 0, -1.0, 0.01 * (then - 1))  # the gripper's target before, at first action_initial
    np.testing.assert_allclose(batch.pending[..., 3], newest, atol=1e-6)
    np.testing.assert_allclose(batch.pictures[:, :, 0, 16, 16, 0], 6 * step, atol=4)  # the film is not lossless
    assert (batch.words[:, :2] > 0).mean() > 0.8  # a few are hidden on purpose


def test_before_its_first_target_a_joint_was_told_to_be_where_it_is(tmp_path: Path) -> None:
    rows = [(told, 0.3 + state, action) for told, state, action in episode("go left")]
    own = made_ready(dataset(tmp_path / "data", rows), plan(**SHAPE, action_state=[-1, -1, -1, 2]), tmp_path / "run")
    (only,) = Demonstrations(own.demonstrations, own.config, own.plan.flow).episodes
    np.testing.assert_allclose(only.track.action_before[:3, 3], [0.3, 0.0, 0.01], atol=1e-6)


def test_behind_the_end_the_robot_stays() -> None:
    config = CompactConfig(words=(UNKNOWN,), chunk_horizon=4)
    found = windows(np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32), config)
    np.testing.assert_array_equal(found[1], [[5, 6, 7, 8], *[[0, 0, 0, 8]] * 3])
    np.testing.assert_array_equal(found[0, :2], [[1, 2, 3, 4], [5, 6, 7, 8]])


def test_cameras_are_taken_in_the_policys_order(tmp_path: Path) -> None:
    turned = dataset(tmp_path / "data", episode("go"), cameras=CAMERAS[::-1])
    own = made_ready(turned, plan(**SHAPE, cameras=list(CAMERAS)), tmp_path / "run")
    assert own.config.cameras == CAMERAS
    assert made_ready(turned, plan(**SHAPE), tmp_path / "run").config.cameras == CAMERAS[::-1]


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
        made_ready(data, plan(**{**SHAPE, **changes}), tmp_path / "run")


def test_a_damaged_data_set_is_one_sentence(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", episode("go"))
    film = next(data.rglob("*.mp4"))
    film.write_bytes(film.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"the film .* cannot be read \(.*\): copy the data set again"):
        made_ready(data, plan(**SHAPE), tmp_path / "run")


@pytest.mark.parametrize("name", ["observation.state", "action"])
def test_a_number_that_is_not_finite_is_one_sentence(tmp_path: Path, name: str) -> None:
    data = dataset(tmp_path / "data", episode("go"), episode("go"))
    path = next(data.glob("data/*/*.parquet"))
    table = parquet.read_table(path)
    values = table[name].to_pylist()
    values[27][1] = float("nan")
    place = table.schema.get_field_index(name)
    parquet.write_table(table.set_column(place, name, pa.array(values, table.schema.field(name).type)), path)
    what = name.rpartition(".")[2]
    with pytest.raises(ValueError, match=rf"episode 1 of .* has a {what} that is not finite at step 7 .*: leave"):
        made_ready(data, plan(**SHAPE), tmp_path / "run")


@pytest.mark.parametrize(("value", "refused"), [(3.0, True), (-1.5, True), (1.0, False), (1.000001, False)])
def test_actions_outside_of_the_limits_are_refused_or_clipped(tmp_path: Path, value: float, refused: bool) -> None:
    """Which action, what share of the steps, how far; clipped only where it is asked for."""
    rows = [(task, state, np.array([0.1, value if step % 4 == 0 else 0.5, 0.0, 0.0], np.float32))
            for step, (task, state, _) in enumerate(episode("go"))]  # fmt: skip
    data = dataset(tmp_path / "data", rows)
    if refused:
        low, high = min(value, 0.5), max(value, 0.5)
        told = rf"action dy lies outside of -1 to 1 in 25 % of the steps \(from {low:g} to {high:g}\)"
        with pytest.raises(ValueError, match=rf"does not fit the limits of the plan: {told}: .* --clip"):
            made_ready(data, plan(**SHAPE), tmp_path / "run")
    own = made_ready(data, plan(**SHAPE), tmp_path / "run", clipped=True)
    assert any("clipped to the limits: action dy" in sentence for sentence in own.told) == refused
    (shard,) = Demonstrations(own.demonstrations, own.config, own.plan.flow).episodes
    assert shard.track.executed[0, 1] == np.clip(value, -1, 1) and shard.track.executed[1, 1] == 0.5


@pytest.mark.parametrize("whose", ["the plan", "the policy 'start'"])
@pytest.mark.parametrize("name", ["a", "grip"])
def test_wide_actions_in_degrees_are_refused_by_name(tmp_path: Path, whose: str, name: str) -> None:
    """Degrees against radians, 0..100 grippers against -1..1: nothing in the data set says so but its numbers."""
    layout = {"action_names": ["a", "b", "grip"], "action_absolute": [True] * 3, "action_low": [-3.2, -3.2, -1.0],
              "action_high": [3.2, 3.2, 1.0], "action_initial": [0.0] * 3}  # fmt: skip
    wide = {"a": np.array([90.0, 0.0, 0.0]), "grip": np.array([0.0, 0.0, 80.0])}[name].astype(np.float32)
    rows = [(task, state, wide) for task, state, _ in episode("go")]
    data = dataset(tmp_path / "data", rows, action_names=("a", "b", "grip"))
    start = None
    if whose != "the plan":
        start = tmp_path / "start.safetensors"
        shape = {key: tuple(value) if isinstance(value, list) else value for key, value in {**SHAPE, **layout}.items()}
        config = CompactConfig(words=(UNKNOWN,), **shape)
        save_policy(start, config, CompactModel(config).state_dict(), {})
    with pytest.raises(ValueError, match=rf"limits of {whose}: action {name} lies outside .* in 100 % of"):
        made_ready(data, plan(**{**SHAPE, **layout}), tmp_path / "run", start)


def test_each_instruction_of_an_episode_has_its_own_steps(tmp_path: Path) -> None:
    """The windows still show what the robot did, across the change."""
    rows = [("lift" if step < 8 else "lower", state, action) for step, (_, state, action) in enumerate(episode(""))]
    rows = [(task.strip() or "lift", state, action) for task, state, action in rows]
    own = made_ready(dataset(tmp_path / "data", rows, episode("lift")), plan(**SHAPE), tmp_path / "run")
    assert own.episodes == {"lift": 2, "lower": 1}
    found = {len(each.step): each for each in Demonstrations(own.demonstrations, own.config, own.plan.flow).episodes}
    assert set(found) == {8, 12, 20}
    assert found[8].state[:, 0].tolist() == list(range(8)) and found[12].state[:, 0].tolist() == list(range(8, 20))
    np.testing.assert_allclose(found[8].track.window[7, :4, 3], [0.07, 0.08, 0.09, 0.10], atol=1e-6)
    np.testing.assert_allclose(found[12].track.previous[0, 3], 0.07, atol=1e-6)
    for count, first in ((8, 0), (12, 8)):
        jpeg, offset = found[count].jpeg, found[count].offset
        shown = [cv2.imdecode(jpeg[begin:end], cv2.IMREAD_COLOR).mean() for begin, end in offset[:, 0]]
        np.testing.assert_allclose(shown, 6 * (first + np.arange(count)), atol=4)


def test_another_rate_is_refused_or_resampled(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", episode("go", 30), rate=Fraction(30))
    with pytest.raises(ValueError, match=r"has 30 steps a second, control_period_s 0.05 means 20: .*--resample"):
        made_ready(data, plan(**SHAPE), tmp_path / "run")
    own = made_ready(data, plan(**SHAPE), tmp_path / "run", resampled=True)
    assert own.told == ["resampled from 30 to 20 steps a second"]
    (shard,) = Demonstrations(own.demonstrations, own.config, own.plan.flow).episodes
    np.testing.assert_allclose(shard.state[:, 0], 1.5 * np.arange(20), atol=1e-5)
    np.testing.assert_allclose(shard.track.executed[:, 0], 0.15, atol=1e-6)  # a change: half a step more of it
    own = made_ready(data, plan(**SHAPE), tmp_path / "run", period_s=0.033333)
    assert not own.told


def test_a_change_that_grows_by_resampling_meets_the_limits(tmp_path: Path) -> None:
    rows = [(task, state, np.array([0.8, 0.0, 0.0, 0.0], np.float32)) for task, state, _ in episode("go", 30)]
    data = dataset(tmp_path / "data", rows, rate=Fraction(30))
    with pytest.raises(ValueError, match="action dx lies outside of -1 to 1"):
        made_ready(data, plan(**SHAPE), tmp_path / "run", resampled=True)


def test_what_is_absolute_must_agree(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", episode("go"), action_absolute=(True, True, True, True))
    with pytest.raises(ValueError, match="absolute, absolute, those of the plan are a change, a change"):
        made_ready(data, plan(**SHAPE), tmp_path / "run")


def test_the_state_is_that_of_the_parameter_file(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", episode("go"))
    assert made_ready(data, plan(**SHAPE), tmp_path / "run", state_names=("x", "y", "z", "g")).episodes == {"go": 1}
    with pytest.raises(ValueError, match="is x, y, z, g, robot_state_joints are y, x, z, g: give them alike"):
        made_ready(data, plan(**SHAPE), tmp_path / "run", state_names=("y", "x", "z", "g"))


def test_an_episode_of_one_step_is_told(tmp_path: Path) -> None:
    own = made_ready(dataset(tmp_path / "data", episode("go"), episode("go", 1)), plan(**SHAPE), tmp_path / "run")
    assert "episode 1 of data set" in own.told[0] and "has one step only" in own.told[0]
    batch = Demonstrations(own.demonstrations, own.config, own.plan.flow).sample(
        16, own.plan.sources[0], np.random.default_rng(0)
    )
    assert np.isfinite(batch.answer).all()


def test_a_set_of_lerobot_trains(tmp_path: Path) -> None:
    """The golden set: 30 steps a second, two cameras of 48x64, six joints in degrees."""
    golden = Path(__file__).resolve().parents[1] / "datasets/golden/so101_video"
    facts = read_facts(golden)
    layout = {"action_names": list(facts.action_names), "action_absolute": [True] * 6, "action_low": [-180.0] * 6,
              "action_high": [180.0] * 6, "action_initial": [0.0] * 6}  # fmt: skip
    own = made_ready(golden, plan(**{**SHAPE, **layout}), tmp_path / "run", period_s=1 / 30)
    assert own.episodes == {"pick up the cube": 1, "put the cube into the bowl": 1} and not own.told
    run = Run(own.config, own.demonstrations, own.plan, tmp_path / "run", initial=None)
    train(run)
    export(run, tmp_path / "policy.safetensors")
    assert load_policy(tmp_path / "policy.safetensors").spec.cameras == ("top", "wrist")


def test_demonstrations_of_the_experts_are_not_removed(tmp_path: Path) -> None:
    data = dataset(tmp_path / "mine", episode("go"))
    shard = Shard(tmp_path / "demonstrations", "drawer-open", 3).path
    shard.parent.mkdir()
    save_file({"step": np.arange(3)}, shard, metadata={"task": "drawer-open", "seed": "3"})
    own = made_ready(data, plan(**SHAPE), tmp_path)  # where 'train demos' puts its folder too
    assert shard.is_file() and len(list(own.demonstrations.iterdir())) == 1
    own.demonstrations.joinpath("cut.safetensors").write_bytes(shard.read_bytes()[:20])
    assert made_ready(data, plan(**SHAPE), tmp_path).demonstrations == own.demonstrations
    assert len(list(own.demonstrations.iterdir())) == 1
    with pytest.raises(ValueError, match=r"drawer-open_0_00003.safetensors' is a demonstration .* choose another"):
        write_demonstrations(Dataset(data), shard.parent, own.config, ReadOptions(0.05))
    assert shard.is_file()
