"""Replays a bag through the suite's machines on the virtual clock: what they would have done with what was seen.

The pictures and states are those of the bag, at the times at which they were received, whatever the replayed suite
does; the model is the real one, how long it takes is said by the recording itself or by a latency profile. The same
arguments give the same result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.bags.errors import MissingTopic, WrongType
from streaming_vla.bags.ingest import Commanded, Frame, Ingest, IngestOptions, Said, State
from streaming_vla.bags.reader import Bag
from streaming_vla.engine.cache import engine_options
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.latency_profile import LatencyProfile
from streaming_vla.engine.pace import ProfilePace
from streaming_vla.images.decode import pixels_of
from streaming_vla.images.encode import camera_options
from streaming_vla.images.fit import square
from streaming_vla.machines.events import Action
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.generator import Generator
from streaming_vla.machines.monitor import Monitor
from streaming_vla.machines.observer import Observer
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.policies.contract import FlowPolicy
from streaming_vla.workbench.replay.live import LIVE_TOPICS, LiveEpisode
from streaming_vla.workbench.replay.recorded_network import RecordedNetwork
from streaming_vla.workbench.replay.recorded_pace import RecordedPace
from streaming_vla.workbench.replay.recorded_times import TOPICS as TIMED_TOPICS
from streaming_vla.workbench.replay.recorded_times import RecordedTimes, read_times
from streaming_vla.workbench.replay.recording import Recording
from streaming_vla.workbench.replay.shadow import Shadow, read_shadow
from streaming_vla.workbench.replay.world import ReplayWorld
from streaming_vla.workbench.report.records import EpisodeRecord
from streaming_vla.workbench.report.records import Frame as SeenFrame
from streaming_vla.workbench.virtual.clock import Clock
from streaming_vla.workbench.virtual.network import Network

RECORDED = "recorded"  # name of the latencies that a bag tells itself
INSTRUCTION = "instruction"  # std_msgs/String
STRIP_PERIOD_S = 0.5  # of the pictures that are kept for the report
STRIP_PIXELS = 96
MOST_EARLY = 100  # messages that came before their episode
# A robot may stand still for minutes between two episodes, and these are replayed as they were. A clock that is set
# when the network comes up jumps by months, of which every control period would be played.
LONGEST_GAP_S = 600.0


@dataclass
class ReplayedEpisode:
    """One episode of a bag.

    Args:
        record: of the replay.
        actions: that the replay sent to its executor.
        observed: what was prefilled: digest of JPEGs and state, by sequence.
        judged: saliencies with the context that they are of.
        live: what the bag's own suite did; empty for a bag of another robot.
    """

    record: EpisodeRecord
    live: LiveEpisode
    actions: list[Action] = field(default_factory=list)
    observed: dict[int, str] = field(default_factory=dict)
    judged: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class Replayed:
    """A bag's replay: its episodes, sentences on what of the bag could not be used, and whose latencies it had.

    Args:
        shadow: the recorded dry run against the person who moved the robot; None: the bag is no such recording.
    """

    bag: Path
    duration_s: float
    episodes: list[ReplayedEpisode]
    problems: list[str]
    latencies: str = ""
    shadow: Shadow | None = None


@dataclass(frozen=True)
class ReplayOptions:
    """How bags are replayed.

    Args:
        suite: options of every node.
        profile: latencies; with `recorded`, of what the bag tells no time of.
        recorded: take the latencies of the bag where it has spans.
        namespace: of the robot in the bag.
        instruction: of bags without an `episode` topic, which are one episode each; empty takes the newest one of
            the bag's `instruction` topic.
        action_topic: command of the robot, for bags that are not the suite's; empty: the suite's command_topic.
        seed: of the latencies.
    """

    suite: SuiteOptions
    profile: LatencyProfile
    namespace: str = "/"
    instruction: str = ""
    action_topic: str = ""
    seed: int = 0
    recorded: bool = True

    @property
    def commands(self) -> str:
        """Topic of the robot's commands."""
        return self.action_topic or self.suite.executor.command_topic


def replay(
    path: Path, policy: FlowPolicy, options: ReplayOptions, progress: Callable[[float], None] | None = None
) -> Replayed:
    """Replay one bag; `progress` is told the share that is done.

    Raises:
        BagError: the bag cannot be used, or topics are missing.
        ValueError: the parameters do not fit the policy.
    """
    observer = options.suite.observer
    topics, joints = observer.of_cameras(observer.camera_topics), observer.state_joints
    others, size = (*LIVE_TOPICS, INSTRUCTION), policy.spec.state_size
    state_topic, actions = observer.robot_state_topic, options.commands
    options.suite.check_policy(policy.spec)
    with Bag(path) as bag:
        wanted = IngestOptions(
            topics, state_topic, others, joints, options.namespace, size, actions, observer.nameless_joints,
            observer.state_units,
        )  # fmt: skip
        ingest = Ingest(bag, wanted)
        if not (options.instruction or ingest.other("episode") or ingest.other(INSTRUCTION)):
            raise MissingTopic(
                f"{path} has neither an episode nor an instruction topic: say with --instruction what the robot was "
                "asked to do"
            )
        times = _times(bag, ingest) if options.recorded else None
        if times is not None:
            ingest.retime = times.retime
        player = _Player(policy, options, ingest, name=path.name, times=times)
        duration_s = max(bag.duration_s, 1e-9)
        begin_s: float | None = None
        for number, event in enumerate(ingest.events()):
            begin_s = event.time_s if begin_s is None else begin_s
            player.take(event, event.time_s - begin_s)
            if progress is not None and number % 100 == 0:
                progress(min(1.0, (event.time_s - begin_s) / duration_s))
        player.end()
        problems = [*(str(problem) for problem in bag.problems), *ingest.said.values()]
        if isinstance(ingest.command_problem, WrongType) and ingest.other("action") is None:
            problems.append(str(ingest.command_problem))  # nothing else tells what the robot did
        if player.cut_s:
            problems.append(
                f"{path}: {player.cut_s:.0f} s without a message are left out, as a silence counts "
                f"{LONGEST_GAP_S:.0f} s at most; the episode that ran ends there"
            )
        problems += [
            f"{path}: episode {number} began before the recording, so its latencies are those of the profile "
            f"'{options.profile.name}', and it is not compared with the live run"
            for number in player.begun_before
        ]
        latencies = RECORDED if player.followed else options.profile.name
        shadow = read_shadow(bag, options.suite, options.namespace, options.commands, problems)
        return Replayed(path, bag.duration_s - player.cut_s, player.episodes, problems, latencies, shadow)


def _times(bag: Bag, ingest: Ingest) -> RecordedTimes | None:
    names = {name: topic for name in TIMED_TOPICS if (topic := ingest.other(name)) is not None}
    return read_times(bag, names, ingest.topics)


class _Player:
    """Tells the machines of one world what happens in the bag, when it happens.

    Attributes:
        cut_s: silence that was left out.
        begun_before: numbers of the episodes of which the bag does not hold the begin.
        followed: episodes that went by the bag's own latencies.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        options: ReplayOptions,
        ingest: Ingest,
        name: str,
        times: RecordedTimes | None,
    ) -> None:
        self._times = times
        self.episodes: list[ReplayedEpisode] = []
        self._options, self._name, self._ingest = options, name, ingest
        self._told = ingest.other("episode") is not None
        self._number = 0
        self._instruction = options.instruction
        self._early: list[Said] = []
        self._running: ReplayedEpisode | None = None
        self._heard: set[str] = set()
        self._strip_s: dict[str, float] = {}
        suite = options.suite
        self._cameras = suite.observer.cameras
        self._pictures = camera_options(suite.observer)
        self.cut_s = 0.0
        self.begun_before: list[int] = []
        self.followed = 0
        self._clock_offset_s = 0.0
        self._bag_begin_s = 0.0
        self._newest: dict[str, Callable[[], None]] = {}
        clock, period_s = Clock(), suite.executor.control_period_s
        profile = replace(options.profile, control_period_ms=1000.0 * period_s)
        self._recording = Recording(clock, period_s)
        network = Network(profile, clock, options.seed)
        pace = ProfilePace(profile, options.seed)
        if times is not None:
            network = RecordedNetwork(self._recording, profile, clock, options.seed, self._receive_again)
            pace = RecordedPace(self._recording, profile, options.seed)
        engine = engine_options(suite.inference, policy.spec.tokens_per_observation, device=policy.spec.device)
        self._world = ReplayWorld(
            (
                Observer(suite.observer),
                Monitor(suite.saliency_monitor),
                Generator(suite.generator.layout, suite.generator),
                Executor(suite.executor.layout, suite.executor),
            ),
            Engine(policy, engine, pace, stopwatch=lambda: 0.0, wait_for_futures=True),
            network,
            clock,
            EpisodeRecord("replay", name, 0, "", 0, period_s, 0.0),
            self._pictures,
            ingest.refuse,
            self._recording,
        )

    def take(self, event: Frame | State | Commanded | Said, time_s: float) -> None:
        now_s = time_s + self._clock_offset_s
        if now_s < self._world.now:  # the bag's clock jumped back: the virtual one goes on from where it is
            self._clock_offset_s += self._world.now - now_s
            now_s = self._world.now
        elif (cut_s := now_s - self._world.now - LONGEST_GAP_S) > 0.0:  # it jumped ahead, or the recorder paused
            self.end()
            self.cut_s += cut_s
            self._clock_offset_s -= cut_s
            now_s = self._world.now + LONGEST_GAP_S
        self._world.run(now_s - self._world.now)
        self._bag_begin_s = event.time_s - time_s
        if isinstance(event, Frame):
            self._heard.add(event.camera)
            self._frame(event)
            self._keep(event)
        elif isinstance(event, State):
            self._heard.add("robot state")
            self._state(event)
            self._world.tell("executor", "on_robot_state")
            self._world.tell("generator", "on_robot_state", event.values)
        elif isinstance(event, Commanded):
            if self._running is not None and event.values is not None:
                self._running.live.commands.append((self._world.now - self._running.record.begin_s, event.values))
        elif event.topic == "episode":
            self._episode_said(event.message)
        elif event.topic == INSTRUCTION:
            self._instruction = self._options.instruction or event.message.data
        else:
            self._said(event)
        ready = self._instruction and len(self._heard) > len(self._cameras)
        if not self._told and self._running is None and ready:
            self._begin(self._instruction)

    def _frame(self, event: Frame) -> None:
        reception = self._recording.reception

        def receive() -> None:
            if reception is not None:
                reception.frame_received(event.stamp_s)
            frame = (event.kind, event.message)
            self._world.tell("observer", "on_frame", event.camera, frame, round(event.stamp_s * 1e9))

        wait_s = reception.frame(event.stamp_s, self._world.now) if reception is not None else 0.0
        self._receive(event.camera, wait_s, receive)

    def _state(self, event: State) -> None:
        reception = self._recording.reception

        def receive() -> None:
            if reception is not None:
                reception.state_received(event.values)
            self._world.tell("observer", "on_state", event.values)

        wait_s = reception.state(event.values, self._world.now) if reception is not None else 0.0
        self._receive("robot state", wait_s, receive)

    def _receive(self, source: str, wait_s: float, receive: Callable[[], None]) -> None:
        def received() -> None:
            self._newest[source] = receive
            receive()

        if wait_s > 0.0:
            self._world.clock.after(wait_s, received)
        else:
            received()

    def _receive_again(self) -> None:
        """Let the observer answer now as the live one did: what it had was received later than the bag can tell."""
        complete = len(self._newest) > len(self._cameras)
        if complete and self._world.observer.deadline() is not None:
            for receive in list(self._newest.values()):
                receive()

    def end(self) -> None:
        """End the episode that runs."""
        episode, self._running = self._running, None
        if episode is None:
            return
        world, record = self._world, self._world.record
        record.end_s = world.now
        episode.judged = list(world.monitor.judged)
        world.tell("monitor", "stop_episode")
        self._recording.follow(None, 0.0)
        world.record = _emptied(record)
        episode.actions, world.actions = world.actions, []
        episode.observed, world.commands = world.observed, []
        world.keep(None)
        self.episodes.append(episode)

    def _begin(self, instruction: str) -> None:
        self.end()
        world = self._world
        record = _emptied(world.record)
        record.instruction, record.seed, record.begin_s = instruction, len(self.episodes), world.now
        world.record = record
        self._strip_s.clear()
        self._newest.clear()  # as the observer does
        self._running = ReplayedEpisode(record, LiveEpisode())
        times = self._times.episodes.get(self._number) if self._times is not None else None
        if times is not None and not times.whole:  # sequences count from its begin
            self.begun_before.append(self._number)
            times = None
        self.followed += times is not None
        self._recording.follow(times, self._bag_begin_s - self._clock_offset_s)
        world.start(instruction)
        assert world.episode is not None, "the monitor has just begun one"
        record.number = world.episode.number
        world.keep(record.number)

    def _episode_said(self, message: Any) -> None:
        if not message.active:
            self.end()
        elif message.number != self._number or self._running is None:
            self._number = message.number
            self._begin(message.instruction)
            early, self._early = self._early, []
            for event in early:
                self._said(event)

    def _said(self, event: Said) -> None:
        """Hand what the bag's suite said to the episode that it is of: topics keep no common order."""
        number = getattr(event.message, "episode", self._number)
        if self._running is not None and number == self._number:
            try:
                self._running.live.take(event.topic, event.message, self._world.now - self._running.record.begin_s)
            except ValueError as error:
                self._ingest.refuse_said(event, error)
        elif number != self._number:
            self._early = [*self._early[-MOST_EARLY:], event]

    def _keep(self, event: Frame) -> None:
        """Keep a picture now and then for the report."""
        if self._running is None or self._world.now - self._strip_s.get(event.camera, -1e9) < STRIP_PERIOD_S:
            return
        try:
            decoded = pixels_of(event.message, event.kind)
        except ValueError as error:
            self._ingest.refuse(event.camera, error)
            return
        self._strip_s[event.camera] = self._world.now
        pixels: npt.NDArray[np.uint8] = square(decoded, STRIP_PIXELS, self._pictures[event.camera].rotation)[..., ::-1]
        self._running.record.frames.append(SeenFrame(self._world.now, event.camera, pixels))


def _emptied(record: EpisodeRecord) -> EpisodeRecord:
    """Return a record of the same robot without what has happened."""
    return replace(
        record, states=[], requests=[], observations=[], contexts=[], spans=[], frames=[], cache=[], pictures={}
    )
