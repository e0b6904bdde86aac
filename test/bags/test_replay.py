"""Replays of small bags with a toy policy: deterministic, compared with the recording, robust against its clock."""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from making import BEGIN_NS, SIZE, STEP_NS, STORE, TYPES, compressed, floats, header, image, make, picture, write_own

from kv_cache import CacheView, Gate, GateConfig
from kv_cache.gate_file import save_gate
from streaming_vla.bags.errors import BagError, MissingTopic, NoCamera
from streaming_vla.bags.reader import Bag
from streaming_vla.commands.robot_state import JOINTS
from streaming_vla.engine.cache import engine_options
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.latency_profile import LatencyProfile, Spread
from streaming_vla.engine.pace import ProfilePace
from streaming_vla.engine.values import EncodedObservation
from streaming_vla.images.encode import camera_options
from streaming_vla.machines.events import ObserveRequest, Reason, Snapshot
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.generator import Generator
from streaming_vla.machines.monitor import Monitor
from streaming_vla.machines.observer import Observer
from streaming_vla.options.shared import layout_values
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.policies.contract import PolicyObservation, Prefilled, Slices
from streaming_vla.workbench.replay import run as replay_run
from streaming_vla.workbench.replay.compare import played, summarise_replays
from streaming_vla.workbench.replay.live import LIVE_TOPICS
from streaming_vla.workbench.replay.recording import Recording
from streaming_vla.workbench.replay.replay import LONGEST_GAP_S, Replayed, ReplayOptions, replay
from streaming_vla.workbench.replay.world import ReplayWorld
from streaming_vla.workbench.report.html import compare, page, write_report
from streaming_vla.workbench.report.records import EpisodeRecord
from streaming_vla.workbench.virtual.clock import Clock
from streaming_vla.workbench.virtual.network import Network

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
from toy import LAYOUT, SPEC, TOKENS, ToyPolicy

STEPS = 100
PROFILE = LatencyProfile("test", "", 50.0, Spread(20.0, 20.0), Spread(5.0, 5.0), Spread(1.0, 1.0))
EPISODE = "streaming_vla_interfaces/msg/Episode"
ACTS = layout_values(LAYOUT)
NAMES = ("arm", "hand", "wrist")  # of the joints, in the order of the messages
CHANGES: dict[str, dict[str, Any]] = {
    "observer": {"cameras": ("front", "wrist"), "camera_topics": ("front/image", "wrist/image"), "image_size": 32,
                 "robot_state_topic": "robot_state"},
    "generator": ACTS,
    "saliency_monitor": ACTS,
    "executor": {**ACTS, "velocity_limit": (1e6, 1e6), "jump_limit": (1e6, 1e6), "scale": (1.0, 1.0),
                 "maximum_lead": (0.3, 0.3), "keep_when_stopped": (False, True)},
}  # fmt: skip


@pytest.fixture(autouse=True)
def types(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in {
        "/front/image": TYPES["/camera/left/image"],
        "/wrist/image": TYPES["/camera/left/image"],
        "/command": TYPES["/robot_state"],
        "/episode": EPISODE,
    }.items():
        monkeypatch.setitem(TYPES, name, kind)


def options(**inputs: Any) -> ReplayOptions:
    return ReplayOptions(suite(), PROFILE, **inputs)


def suite(**observer: Any) -> SuiteOptions:
    made = SuiteOptions()
    for node, values in CHANGES.items():
        made = made.changed(node, values)
    return made.changed("observer", observer)


def bag(
    folder: Path,
    episodes: tuple[int, ...] = (),
    jump_at: int = 0,
    cameras: bool = True,
    joints: bool = False,
    named: bool = True,
    ahead: tuple[int, float] = (STEPS, 0.0),
    command: str = "/command",
    broken: tuple[int, ...] = (),
    unreadable: tuple[int, ...] = (),
    extra: Sequence[tuple[str, int, bytes]] = (),
) -> Path:
    """Write STEPS steps of two cameras, a state that counts, and commands that stay; episodes begin at steps.

    With `joints` the same state is also said as that of the joints hand, wrist and arm, whose names are in the messages
    where `named`. From step `ahead[0]` on the clock is `ahead[1]` seconds ahead; at steps `broken` the command is not
    finite, at steps `unreadable` the wrist's picture, compressed all the time, is cut off. `extra` are further
    messages.
    """
    said = []

    def say(topic: str, time_ns: int, message: Any) -> None:
        said.append((topic, time_ns, bytes(STORE.serialize_cdr(message, TYPES[topic]))))

    for step in range(STEPS):
        now_ns = BEGIN_NS + (step % jump_at if jump_at else step) * STEP_NS
        now_ns += round(ahead[1] * 1e9) if step >= ahead[0] else 0
        if step in episodes:
            about = {"session": "/", "active": True, "instruction": f"task {step}", "stopped": False}
            say("/episode", now_ns, make(EPISODE, header=header(now_ns), number=1 + episodes.index(step), **about))
        for name in ("front", "wrist") if cameras else ():
            if name == "wrist" and unreadable:
                seen = compressed(picture(step), now_ns)
                seen.data = seen.data[: 40 if step in unreadable else None]
                say("/wrist/image", now_ns + 1000, seen)
            else:
                say(f"/{name}/image", now_ns + 1000, image(picture(step), now_ns))
        say("/robot_state", now_ns + 2000, floats([100.0 + step, 0.0, 0.0]))
        if joints:
            positions = np.array([0.0, 100.0 + step, 0.0])
            none = {"velocity": np.zeros(0), "effort": np.zeros(0)}
            state = make(JOINTS, header=header(now_ns), name=list(NAMES) if named else [], position=positions, **none)
            say("/joints", now_ns + 2000, state)
        say(command, now_ns + 3000, floats([0.05, np.nan if step in broken else -0.5]))
    return write_own(folder, [*said, *extra])


def run(path: Path, **inputs: Any) -> Replayed:
    return replay(path, ToyPolicy(), options(**{"instruction": "go", **inputs}))


def told(replayed: Replayed) -> list[Any]:
    return [
        (episode.record.instruction, [(at.time_s, at.reason) for at in episode.record.requests],
         [(time_s, index, values.tolist()) for time_s, index, values in played(episode)], episode.observed)
        for episode in replayed.episodes
    ]  # fmt: skip


def test_a_replay_is_the_same_again(tmp_path: Path) -> None:
    path = bag(tmp_path / "bag")
    first, second = run(path), run(path)
    assert told(first) == told(second)
    assert first.problems == []
    assert len(first.episodes[0].record.requests) > 20
    assert first.episodes[0].record.requests[0].reason is Reason.START


def test_the_policy_sees_what_was_recorded_when_it_was(tmp_path: Path) -> None:
    policy = ToyPolicy()
    replayed = replay(bag(tmp_path / "bag"), policy, options(instruction="go"))
    episode = replayed.episodes[0]
    assert {seen.instruction for seen in policy.seen} == {"go"}
    for at, seen in zip(episode.record.requests, policy.seen, strict=False):
        step = int((at.time_s + 1e-9) / 0.05)
        assert seen.state[0] == pytest.approx(100.0 + step, abs=1.0)
        assert seen.images.shape == (2, 32, 32, 3)
        shown = cv2.resize(seen.images[0], (SIZE, SIZE)).astype(int)
        distances = [np.abs(shown - picture(step)).mean() for step in range(STEPS)]
        assert int(np.argmin(distances)) == int(seen.state[0]) - 100


def test_actions_are_compared_with_the_robots(tmp_path: Path) -> None:
    replayed = run(bag(tmp_path / "bag"))
    numbers = summarise_replays([replayed], LAYOUT.names)
    error = numbers["action_error"]
    done = [values for _, _, values in played(replayed.episodes[0])]
    assert error["compared"] == pytest.approx(len(done), abs=2)
    assert error["by_dimension"]["dx"] == pytest.approx(np.mean([abs(each[0] - 0.05) for each in done]), rel=0.05)
    assert set(error["by_horizon"]) <= {str(index) for index in range(SPEC.trained_horizon)}
    assert numbers["live"] == {}
    assert numbers["observations"]["by_reason"]["start"] == 1
    assert numbers["kv_cache"]["policy"] == "window"
    assert numbers["t_halt_ms"] >= 0.0


def test_slower_hardware_starves_the_arm(tmp_path: Path) -> None:
    path = bag(tmp_path / "bag")
    slow = LatencyProfile("slow", "", 50.0, Spread(400.0, 400.0), Spread(5.0, 5.0), Spread(1.0, 1.0))
    fast = summarise_replays([run(path)], LAYOUT.names)
    late = summarise_replays([replay(path, ToyPolicy(), ReplayOptions(suite(), slow, instruction="go"))], LAYOUT.names)
    assert late["starved_s"] > fast["starved_s"] + 1.0
    assert late["observations"]["count"] < fast["observations"]["count"]


def test_episodes_are_those_of_the_recording(tmp_path: Path) -> None:
    replayed = run(bag(tmp_path / "bag", episodes=(10, 50)))
    assert [episode.record.instruction for episode in replayed.episodes] == ["task 10", "task 50"]
    assert [episode.record.duration_s for episode in replayed.episodes] == pytest.approx([2.0, 2.5], abs=0.06)


def test_a_clock_that_jumps_is_told_and_replayed(tmp_path: Path) -> None:
    replayed = run(bag(tmp_path / "bag", jump_at=40))
    assert any("jumps back" in problem for problem in replayed.problems)
    assert replayed.episodes[0].record.duration_s == pytest.approx(STEPS * 0.05, abs=0.3)


def test_a_clock_that_is_set_ahead_while_recording(tmp_path: Path) -> None:
    ahead_s = 1e8  # years: the clock of a machine without a battery, when the network comes up
    replayed = run(bag(tmp_path / "bag", ahead=(40, ahead_s)))
    assert f"{ahead_s - LONGEST_GAP_S:.0f} s without a message are left out" in replayed.problems[0]
    assert [each.record.duration_s for each in replayed.episodes] == pytest.approx([2.0, 3.0], abs=0.1)
    assert replayed.duration_s == pytest.approx(LONGEST_GAP_S + STEPS * 0.05, abs=0.1)


def test_a_robot_may_stand_still_for_minutes(tmp_path: Path) -> None:
    replayed = run(bag(tmp_path / "bag", episodes=(0, 50), ahead=(50, 120.0)))
    assert [episode.record.duration_s for episode in replayed.episodes] == pytest.approx([122.5, 2.5], abs=0.1)
    assert not any("left out" in problem for problem in replayed.problems)


def test_commands_that_are_not_finite_are_not_compared(tmp_path: Path) -> None:
    replayed = run(bag(tmp_path / "bag", broken=(30, 60)))
    assert replayed.problems[0].startswith("messages of /command are left out: the command is nan at place 1, expected")
    assert np.isfinite(summarise_replays([replayed], LAYOUT.names)["action_error"]["mean"])


def test_what_the_suite_said_and_means_nothing_does_not_end_a_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TYPES, "/observe_request", "streaming_vla_interfaces/msg/ObserveRequest")
    about = {"session": "/", "episode": 1, "sequence": 0, "saliency": 0.0}
    request = make(TYPES["/observe_request"], header=header(BEGIN_NS + 10**9), reason=99, **about)
    extra = [("/observe_request", BEGIN_NS + 10**9, bytes(STORE.serialize_cdr(request, TYPES["/observe_request"])))]
    replayed = run(bag(tmp_path / "bag", episodes=(0,), extra=extra))
    assert replayed.problems == ["messages of /observe_request are left out: 99 is not a valid Reason"]
    assert len(replayed.episodes) == 1 and replayed.episodes[0].live.requests == []


def test_one_unreadable_picture_does_not_end_a_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TYPES, "/wrist/image", "sensor_msgs/msg/CompressedImage")
    replayed = run(bag(tmp_path / "bag", unreadable=tuple(range(20, 40))))
    assert len(replayed.problems) == 1
    assert "messages of /wrist/image are left out: the compressed picture (format 'png')" in replayed.problems[0]
    times = [at.time_s for at in replayed.episodes[0].record.requests]
    assert any(time_s > 2.5 for time_s in times), "it goes on behind them"


def test_the_picture_after_a_damaged_one_serves_its_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TYPES, "/wrist/image", "sensor_msgs/msg/CompressedImage")
    [episode] = run(bag(tmp_path / "bag", unreadable=(20, 21))).episodes
    assert np.diff([at.time_s for at in episode.record.observations]).max() < 0.3, "it waits for its time-out"


def test_the_state_may_be_that_of_joints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TYPES, "/joints", "sensor_msgs/msg/JointState")
    path = bag(tmp_path / "bag", joints=True)
    policy = ToyPolicy()

    def joints(*names: str, **more: Any) -> ReplayOptions:
        observer = {"robot_state_topic": "joints", "robot_state_type": JOINTS, "robot_state_joints": names, **more}
        return replace(options(instruction="go"), suite=suite(**observer))

    asked = joints("hand", "wrist", "arm")
    replayed = replay(path, policy, asked)
    assert replayed.problems == [] and len(policy.seen) > 20
    plain = run(path)
    assert replayed.episodes[0].observed == plain.episodes[0].observed
    converted = ToyPolicy()
    replay(
        path, converted, joints("hand", "wrist", "arm", robot_state_scale=(2.0,), robot_state_offset=(0.0, 4.0, 0.0))
    )
    assert np.allclose(converted.seen[0].state, policy.seen[0].state / 2.0 - [0.0, 2.0, 0.0])
    asked = joints("hand", "wrist")
    with pytest.raises(ValueError, match="robot_state_joints are hand, wrist, the state of policy toy has 3 numbers"):
        replay(path, policy, asked)
    asked = joints("hand", "wrist", "foot")
    assert "joint foot is not among arm, hand, wrist" in replay(path, policy, asked).problems[0]
    nameless = bag(tmp_path / "nameless", joints=True, named=False)
    asked = joints("hand", "wrist", "arm", robot_state_nameless_joints=NAMES)
    assert replay(nameless, policy, asked).episodes[0].observed == plain.episodes[0].observed


def test_bags_that_cannot_be_replayed(tmp_path: Path) -> None:
    with pytest.raises(NoCamera, match="has no picture topic"):
        run(bag(tmp_path / "blind", cameras=False))
    with pytest.raises(MissingTopic, match="neither an episode nor an instruction topic: say with --instruction"):
        run(bag(tmp_path / "bag"), instruction="")
    with pytest.raises(ValueError, match="action_names are dx, dy, dz, gripper, policy toy acts in dx, grip"):
        SuiteOptions().check_policy(SPEC)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cameras": ("front", "side")}, "cameras are front, side, policy toy needs front, wrist, in that order"),
        ({"cameras": ("wrist", "front")}, "cameras are wrist, front, policy toy needs front, wrist, in that order"),
        ({"image_size": 96}, "image_size is 96 pixels, policy toy needs 32"),
    ],
)
def test_a_policy_that_sees_otherwise_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    asked = replace(options(instruction="go"), suite=suite(**changes))
    with pytest.raises(ValueError, match=sentence):
        replay(bag(tmp_path / "bag"), ToyPolicy(), asked)


def test_topics_of_the_suites_names_may_be_another_robots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = (*LIVE_TOPICS, "spans", "instruction")
    for name in foreign:
        monkeypatch.setitem(TYPES, f"/{name}", TYPES["/robot_state"])
    plain, path = run(bag(tmp_path / "plain")), bag(tmp_path / "bag", command="/action")
    with Bag(path) as source:
        said = [(each.topic, each.time_ns, bytes(each.data)) for each in source.messages()]
    others = [
        (f"/{name}", BEGIN_NS, bytes(STORE.serialize_cdr(floats([1.0]), TYPES["/robot_state"])))
        for name in foreign
        if name != "action"
    ]
    replayed = run(write_own(tmp_path / "foreign", [*others, *said]), action_topic="action")
    assert told(replayed) == told(plain)
    compared = [summarise_replays([each], LAYOUT.names)["action_error"] for each in (replayed, plain)]
    assert compared[0] == compared[1] != {}
    assert len(replayed.problems) == len(foreign) - 2  # action is used, and latencies have a name of their own
    assert all("is left out: it is of type std_msgs/msg/Float64MultiArray" in each for each in replayed.problems)


def test_commands_that_are_no_actions_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TYPES, "/joints", JOINTS)
    replayed = run(bag(tmp_path / "bag", joints=True), action_topic="joints")
    assert "/joints is of type sensor_msgs/msg/JointState, but actions are read from" in replayed.problems[0]
    assert summarise_replays([replayed], LAYOUT.names)["action_error"] == {}


def test_many_bags_and_their_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_run, "_policy", lambda model: ToyPolicy())
    changes = tuple((node, name, value) for node, entries in CHANGES.items() for name, value in entries.items())
    job = replay_run.ReplayJob(changes=changes, profile="paper", instruction="go")
    bags = [bag(tmp_path / "one"), tmp_path / "missing", bag(tmp_path / "two")]
    refused: list[str] = []
    replays = replay_run.replay_all(bags, job, done=lambda path, sentence: refused.append(sentence))
    assert [each.bag for each in replays] == bags
    assert [bool(sentence) for sentence in refused] == [False, True, False]
    made = replay_run.report_run("paper", replays, job)
    html = page("Replay", "Two bags.", [made])
    assert "missing does not exist: name the folder or the file of a bag" in html
    assert "Actions against the recording" in html
    assert made["numbers"]["bags"][0]["episodes"] == 1
    with pytest.raises(BagError, match="does not exist"):
        replay_run.replay_all([tmp_path / "missing"], job)


class VariedPolicy(ToyPolicy):
    """A policy whose keys are of each observation, so that a gate tells them apart."""

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        prefilled = yield from super().prefill(observation, view)
        noise = torch.Generator().manual_seed(int(observation.state[0]))
        return prefilled._replace(keys=torch.randn(prefilled.keys.shape, generator=noise))


def a_gate(path: Path) -> Path:
    """Write a gate of the toy's shape that was never trained, but tells keys apart."""
    torch.manual_seed(3)  # whose scores lie on both sides of one half
    gate = Gate(GateConfig.of(SPEC.cache, width=8, hidden=8))
    with torch.no_grad():
        gate.head.weight.mul_(60.0)
        gate.head.bias.zero_()
    save_gate(path, gate, 0.5, {})
    return path


def test_the_report_shows_what_the_gate_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_run, "_policy", lambda model: VariedPolicy())
    changes = tuple((node, name, value) for node, entries in CHANGES.items() for name, value in entries.items())
    window = replay_run.ReplayJob(changes=changes, profile="measured", instruction="go")
    cache = {
        "cache_policy": "gated",
        "cache_gate": str(a_gate(tmp_path / "gate.safetensors")),
        "cache_recent": 2 * TOKENS,
        "cache_chunk": TOKENS,
        "cache_budget": 3 * TOKENS + 4,
    }
    gated = replace(window, changes=changes + tuple(("inference", name, value) for name, value in cache.items()))
    path = bag(tmp_path / "bag")
    for name, job in {"window": window, "gated": gated}.items():
        replays = replay_run.replay_all([path], job)
        write_report(tmp_path / name, "Replay", "", [replay_run.report_run("measured", replays, job)])
    (episode,) = replays[0].episodes
    last, count = episode.record.cache[-1], len(episode.record.cache)
    assert count == len(episode.observed) == len(episode.record.pictures) > 20
    assert last.chunks_kept and last.chunks_dropped and last.chunks_evicted
    html = (tmp_path / "gated" / "report.html").read_text()
    (shown,) = re.findall(r'<img class="picture" src="data:image/png;base64,([^"]+)" alt="([^"]+)">', html)
    assert cv2.imdecode(np.frombuffer(base64.b64decode(shown[0]), np.uint8), cv2.IMREAD_COLOR).shape[1] > 1500
    held = last.chunks_kept - last.chunks_evicted
    for part in (f"{count} observations", f"{held} kept as a summary (", f"{last.chunks_dropped} dropped (",
                 f"{last.chunks_evicted} evicted (", "kept from 0.5 on"):  # fmt: skip
        assert part in shown[1]
    sentence = "measured: The cache keeps no chunks by score (cache_policy window)"
    assert sentence in (tmp_path / "window" / "report.html").read_text()
    both = compare(tmp_path / "gated", tmp_path / "window", tmp_path / "both").read_text()
    assert both.count('class="picture"') == 1 and f"window: {sentence}" in both
    both = compare(tmp_path / "gated", tmp_path / "gated", tmp_path / "both").read_text()
    assert both.count('class="picture"') == 2


def test_a_prefill_that_outlives_its_episode_is_not_the_next_ones() -> None:
    robot, clock = suite(), Clock()
    made = (
        Observer(robot.observer),
        Monitor(robot.saliency_monitor),
        Generator(LAYOUT, robot.generator),
        Executor(LAYOUT, robot.executor),
    )
    given = engine_options(robot.inference, SPEC.tokens_per_observation)
    engine = Engine(ToyPolicy(), given, ProfilePace(PROFILE), stopwatch=lambda: 0.0)
    record, pictures = EpisodeRecord("replay", "bag", 0, "go", 1, 0.05, 0.0), camera_options(robot.observer)
    world = ReplayWorld(
        made, engine, Network(PROFILE, clock, 0), clock, record, pictures, lambda *_: None, Recording(clock, 0.05)
    )
    frames = dict.fromkeys(("front", "wrist"), (TYPES["/front/image"], image(picture(3), BEGIN_NS)))

    def send(episode: int, sequence: int) -> None:
        request = ObserveRequest(episode, sequence, Reason.START)
        observation = world.encode(Snapshot(request, frames, 0, 0.0, np.zeros(3), "go"))
        assert isinstance(observation, EncodedObservation)
        engine.observe(observation, world.now)

    world.keep(1)
    send(1, 0)
    world.run(0.1)
    assert list(world.observed) == list(record.pictures) == [at.sequence for at in record.cache] == [0]
    send(1, 1)
    world.keep(2)  # the next episode begins before it is prefilled
    world.record = record = replace(record, cache=[], pictures={})
    world.run(0.1)
    assert not world.observed and not record.pictures and not record.cache
    send(2, 0)
    world.run(0.1)
    assert [at.full_tokens for at in record.cache] == [TOKENS]
