"""A recorded suite is replayed as it ran: a synthetic recording is made of a virtual run with scattered latencies."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import BEGIN_NS, STORE, TYPES, header, make, topic
from rosbags.typesys import Stores, get_typestore
from test_replay import EPISODE, bag, suite

from streaming_vla.bags.definitions import parse
from streaming_vla.bags.others import ADDED_LATER
from streaming_vla.bags.reader import Bag
from streaming_vla.bags.topics import Topic
from streaming_vla.bags.writer import BagWriter
from streaming_vla.engine.latency_profile import LatencyProfile, Spread
from streaming_vla.engine.values import EncodedObservation
from streaming_vla.machines.events import Action, GenerateRequest, Snapshot
from streaming_vla.workbench.replay.compare import decision_agreement, same_observations, summarise_replays
from streaming_vla.workbench.replay.live import LiveEpisode
from streaming_vla.workbench.replay.recorded_reception import AFTER_S, Reception
from streaming_vla.workbench.replay.recorded_times import RecordedEpisode, Seen
from streaming_vla.workbench.replay.replay import ReplayedEpisode, ReplayOptions, replay
from streaming_vla.workbench.replay.world import ReplayWorld
from streaming_vla.workbench.report.records import EpisodeRecord
from streaming_vla.workbench.virtual import world as virtual
from streaming_vla.workbench.virtual.network import Network

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
from toy import LAYOUT, ToyPolicy

SUITE = "streaming_vla_interfaces/msg/"
KINDS = {
    "/execution_state": "ExecutionState",
    "/observe_request": "ObserveRequest",
    "/observation": "Observation",
    "/context": "Context",
    "/generate": "GenerateRequest",
    "/action": "Action",
    "/spans": "StageSpan",
}
SCATTERED = LatencyProfile("scattered", "", 50.0, Spread(90.0, 260.0), Spread(9.0, 40.0), Spread(2.0, 20.0))
QUICK = LatencyProfile("quick", "", 50.0, Spread(10.0, 10.0), Spread(2.0, 2.0), Spread(0.0, 0.0))
STALL_S = (0.3, 0.5)  # of every second: the recorder takes nothing


@dataclass
class Run:
    """What happened in a virtual run, beside its records."""

    heard: dict[tuple[str, str, int], float] = field(default_factory=dict)  # machine, handler, sequence
    snapshots: dict[int, Snapshot] = field(default_factory=dict)
    encoded: dict[int, EncodedObservation] = field(default_factory=dict)
    sent: list[tuple[float, GenerateRequest | Action]] = field(default_factory=list)


@pytest.fixture(autouse=True)
def types(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: SUITE + kind for name, kind in KINDS.items()}
    pictures = {f"/{name}/image": TYPES["/camera/left/image"] for name in ("front", "wrist")}
    for name, kind in {**known, **pictures, "/command": TYPES["/robot_state"], "/episode": EPISODE}.items():
        monkeypatch.setitem(TYPES, name, kind)


def options(profile: LatencyProfile, **inputs: Any) -> ReplayOptions:
    return ReplayOptions(suite(), profile, **inputs)


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a bag of a suite that met scattered latencies, taken by a recorder that stalls."""
    return record(tmp_path, monkeypatch)


def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool = False) -> Path:
    """Write that bag; `older`: as the suite did before actions were granted."""
    cameras = bag(tmp_path / "cameras", episodes=(10,))
    run = Run()
    tell, encode, send = virtual.World.tell, ReplayWorld.encode, Network.send

    def telling(self: virtual.World, machine: str, handler: str, *arguments: Any) -> None:
        if handler in ("on_request", "on_context"):
            run.heard.setdefault((machine, handler, arguments[0].sequence), self.now)
        tell(self, machine, handler, *arguments)

    def encoding(self: ReplayWorld, snapshot: Snapshot) -> Any:
        encoded = encode(self, snapshot)
        run.snapshots[snapshot.request.sequence], run.encoded[snapshot.request.sequence] = snapshot, encoded
        return encoded

    def sending(self: Network, message: object, receiver: str, event: Callable[[], None]) -> None:
        if isinstance(message, GenerateRequest | Action):
            run.sent.append((self._clock.now, message))
        send(self, message, receiver, event)

    with monkeypatch.context() as patch:
        patch.setattr(virtual.World, "tell", telling)
        patch.setattr(ReplayWorld, "encode", encoding)
        patch.setattr(Network, "send", sending)
        found = replay(cameras, ToyPolicy(), options(SCATTERED, recorded=False, seed=3))
    said = suite_messages(found.episodes[0], run)
    with Bag(cameras) as source:
        said += [(message.topic, message.time_ns, bytes(message.data)) for message in source.messages()]
        begin_ns = source.begin_ns
    assert begin_ns == BEGIN_NS + 1000, "the virtual clock begins with the first picture"
    writer = BagWriter(tmp_path / "recording")
    for name, published_ns, data in sorted(said, key=lambda each: each[1]):
        part_s = (published_ns - BEGIN_NS) * 1e-9 % 1.0
        late_s = STALL_S[1] - part_s if STALL_S[0] <= part_s < STALL_S[1] else 0.0
        if older and name == "/generate":
            continue
        told, stored = as_older(topic(name), data) if older and name == "/context" else (topic(name), data)
        writer.write(told, stored, published_ns + round(late_s * 1e9) + 200_000, published_ns, 0.0)
    writer.close(0.0)
    return tmp_path / "recording"


def as_older(context: Topic, data: bytes) -> tuple[Topic, bytes]:
    """Return a context's topic and message of a suite that knew of no chunks."""
    definition = "".join(
        line
        for line in context.definition.splitlines(keepends=True)
        if not set(line.split()[1:2]) & ADDED_LATER["context"]
    )
    assert "chunk" in context.definition and "chunk" not in definition
    store = get_typestore(Stores.EMPTY)
    store.register(parse(definition, context.type))
    now = STORE.deserialize_cdr(data, context.type)
    kind = store.types[context.type]
    fields = {name: getattr(now, name) for name, _ in store.get_msgdef(context.type).fields}
    return replace(context, definition=definition), bytes(store.serialize_cdr(kind(**fields), context.type))


def suite_messages(episode: ReplayedEpisode, run: Run) -> list[tuple[str, int, bytes]]:
    """Return what the nodes would have published in a virtual run: topic, time and CDR."""
    found: list[tuple[str, int, bytes]] = []
    about = {"session": "/", "episode": 1}
    empty = {"held_s": 0.0, "rejected": 0, "dry_run": False, "resumes": False, "respawn_hold_s": 15.0}

    def say(name: str, time_s: float, **fields: Any) -> None:
        time_ns = BEGIN_NS + 1000 + round(time_s * 1e9)
        if name != "/spans":
            fields["header"] = header(time_ns)
        message = make(TYPES[name], **about, **fields)
        found.append((name, time_ns, bytes(STORE.serialize_cdr(message, TYPES[name]))))

    def span(stage: str, begin_s: float, end_s: float, sequence: int, index: int = -1) -> None:
        begin, end = (header(BEGIN_NS + 1000 + round(each * 1e9)).stamp for each in (begin_s, end_s))
        say("/spans", end_s, begin=begin, end=end, node="n", stage=stage, sequence=sequence, index=index)

    record = episode.record
    asked = {at.sequence: at.time_s for at in record.requests}
    for at in record.requests:
        say("/observe_request", at.time_s, sequence=at.sequence, reason=int(at.reason), saliency=float("nan"))
    for at in record.observations:
        span("observe", run.heard["observer", "on_request", at.sequence], at.time_s, at.sequence)
    for sequence, snapshot in run.snapshots.items():
        stamp = header(snapshot.stamp_ns)
        images = [
            make("sensor_msgs/msg/CompressedImage", header=stamp, format="jpeg", data=np.frombuffer(data, np.uint8))
            for data in run.encoded[sequence].images
        ]
        say("/observation", record.observations[sequence].time_s, sequence=sequence, reason=1, instruction="task 10",
            cameras=list(snapshot.frames), images=images, state=snapshot.state.astype(np.float32),
            camera_skew_s=snapshot.skew_s)  # fmt: skip
        name, time_ns, data = found.pop()
        message = STORE.deserialize_cdr(data, TYPES[name])
        message.header.stamp = stamp.stamp
        found.append((name, time_ns, bytes(STORE.serialize_cdr(message, TYPES[name]))))
    for at in record.contexts:
        say("/context", at.time_s, sequence=at.sequence, tokens=4, execution_horizon=3, trained_horizon=5,
            action_names=["dx", "grip"], action_absolute=np.array([False, True]), prefill_s=0.01, queued_s=0.0,
            flow_step_s=0.009, trained_delay=0, chunk=False, control_period_s=0.0, history_from=0,
            remembers=False)  # fmt: skip
        heard_s = run.heard.get(("monitor", "on_context", at.sequence))
        if heard_s is not None:
            span("request", asked[at.sequence], heard_s, at.sequence)
    for each in record.spans:
        if each.stage != "observe":
            span(each.stage, each.begin_s, each.end_s, each.sequence, each.index)
    assert any(action.index == 0 and action.flow_time > 0.0 for action in episode.actions), "some contexts begin late"
    for time_s, sent in run.sent:
        if isinstance(sent, Action):
            say("/action", time_s, context=sent.context, index=sent.index, flow_time=0.0,
                values=sent.values.astype(np.float32), more=sent.more)  # fmt: skip
        else:
            say("/generate", time_s, context=sent.context, revision=sent.revision, step=sent.step, until=sent.until,
                position=sent.position.astype(np.float32), state=np.zeros(0, np.float32), state_age_s=0.0,
                pending=np.zeros(0, np.float32), sent=np.zeros(0, np.float32),
                planned=np.zeros(0, np.float32), delay=0)  # fmt: skip
    for at in record.states:
        state = at.state
        say("/execution_state", at.time_s, instruction="task 10", mode=int(state.mode), context=state.context,
            index=state.index, queue_depth=state.queue_depth, executed=state.executed,
            cumulative_action=state.cumulative_action.astype(np.float32), held=state.held, starved=state.starved,
            starved_s=state.starved_s, hand_overs=state.hand_overs, **empty)  # fmt: skip
    return found


def test_a_recorded_run_is_replayed_as_it_was(recording: Path) -> None:
    replayed = replay(recording, ToyPolicy(), options(QUICK))
    assert replayed.latencies == "recorded" and replayed.problems == []
    agreed, decisions = decision_agreement(replayed.episodes)
    assert decisions >= 15
    assert agreed == decisions
    equal, contexts, error = same_observations(replayed.episodes)
    assert equal >= decisions - 1  # the last one may still be on its way
    assert contexts >= decisions - 2
    assert error is not None and error <= 1e-4
    live = summarise_replays([replayed], LAYOUT.names)["live"]
    assert live["starved_s"] > 0.1
    assert live["halting_ratio_live_to_replay"] == pytest.approx(1.0, abs=0.02)


def test_what_an_older_suite_recorded_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replayed = replay(record(tmp_path, monkeypatch, older=True), ToyPolicy(), options(QUICK))
    assert replayed.latencies == "recorded" and replayed.problems == []
    [episode] = replayed.episodes
    assert len(episode.live.prefilled) >= 15 and len(episode.live.requests) >= 15
    agreed, decisions = decision_agreement(replayed.episodes)
    assert agreed >= 0.9 * decisions
    live = summarise_replays([replayed], LAYOUT.names)["live"]
    assert live["halting_ratio_live_to_replay"] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("missing", [0.3, 0.7])
def test_a_bag_that_begins_in_the_middle_of_an_episode_says_so(tmp_path: Path, recording: Path, missing: float) -> None:
    """The latched `episode` is there all the same, and sequences do not begin at 0."""
    writer = BagWriter(tmp_path / "later")
    with Bag(recording) as whole:
        said = list(whole.messages())
        begin_ns = said[round(missing * len(said))].time_ns
        for message in said:
            assert message.described is not None
            if message.time_ns >= begin_ns or message.topic == "/episode":
                time_ns = max(message.time_ns, begin_ns)
                writer.write(message.described, message.data, time_ns, max(message.published_ns, begin_ns), 0.0)
    writer.close(0.0)
    replayed = replay(tmp_path / "later", ToyPolicy(), options(QUICK))
    [problem] = replayed.problems
    assert replayed.latencies == "quick" and "began before the recording" in problem and "'quick'" in problem
    [episode] = replayed.episodes
    assert len(episode.record.requests) > 3 and not episode.live.whole
    assert summarise_replays([replayed], LAYOUT.names)["live"] == {}


def test_other_latencies_make_another_run(recording: Path) -> None:
    replayed = replay(recording, ToyPolicy(), options(QUICK, recorded=False))
    assert replayed.latencies == "quick"
    agreed, decisions = decision_agreement(replayed.episodes)
    assert agreed < 0.8 * decisions


def test_a_recorded_replay_is_the_same_again(recording: Path) -> None:
    first, second = (replay(recording, ToyPolicy(), options(QUICK)).episodes[0] for _ in range(2))
    assert first.observed == second.observed
    assert first.record.requests == second.record.requests


def test_a_bag_without_spans_takes_the_profile(tmp_path: Path) -> None:
    replayed = replay(bag(tmp_path / "bag"), ToyPolicy(), options(QUICK, instruction="go"))
    assert replayed.latencies == "quick"
    assert len(replayed.episodes[0].record.requests) > 20


def replayed(observed: str, recorded: str, values: float) -> ReplayedEpisode:
    """Return an episode whose observations are letters, with one action of each context that is off by `values`."""
    live = LiveEpisode()
    live.observed = dict(enumerate(recorded))
    live.prefilled = set(live.observed)
    live.actions = {(context, 0): np.zeros(2) for context in live.observed}
    episode = ReplayedEpisode(EpisodeRecord("replay", "", 0, "", 1, 0.05, 0.0), live)
    episode.observed = dict(enumerate(observed))
    episode.actions = [Action(1, context, 0, 0.0, np.full(2, values), True) for context in episode.observed]
    return episode


def test_actions_are_compared_where_the_history_is_the_same() -> None:
    assert same_observations([replayed("abcd", "abcd", 0.5)]) == (4, 4, 0.5)
    assert same_observations([replayed("abxd", "abcd", 0.5)]) == (3, 2, 0.5)
    assert same_observations([replayed("xbcd", "abcd", 0.5)]) == (3, 0, None)


def test_what_the_observer_had_received_is_told_by_the_observation() -> None:
    times = RecordedEpisode(seen={0: Seen(100.0, np.array([1.0], np.float32))}, observed={0: (110.1, 110.102)})
    reception = Reception(times, ahead_s=100.0)
    assert reception.frame(100.0, 10.0) == 0.0
    reception.frame_received(100.0)
    assert not reception.complete(0)
    reception.state_received(np.array([1.0]))
    assert reception.complete(0)
    assert reception.frame(100.05, 10.05) == 0.0  # long before
    assert reception.frame(100.05, 10.0999) == pytest.approx(0.0021 + AFTER_S, abs=1e-9)
    assert reception.state(np.array([2.0]), 10.101) == pytest.approx(0.001 + AFTER_S, abs=1e-9)
    assert reception.state(np.array([1.0]), 10.101) == 0.0
    assert reception.frame(100.05, 10.2) == 0.0
