"""A virtual world for the tests of the machines: a policy and a robot of straw, and faults that a test chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from runtime_cases import LAYOUT
from torch import Tensor

from kv_cache import CacheSpec, CacheView
from streaming_vla.engine.cache import EngineOptions
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.latency_profile import LatencyProfile, Spread
from streaming_vla.engine.options import CacheOptions
from streaming_vla.engine.pace import ProfilePace
from streaming_vla.machines.events import Action, Command, Episode, ExecutionState, ObserveRequest, Reason
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.machines.generator import Generator
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.machines.halting import Halting, measure
from streaming_vla.machines.monitor import Monitor
from streaming_vla.machines.monitor_options import MonitorOptions
from streaming_vla.machines.observer import Observer
from streaming_vla.machines.observer_options import ObserverOptions
from streaming_vla.policies.chunk import ChunkAsStream, ChunkOptions
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, PolicySpec, Prefilled, Slices
from streaming_vla.policies.guide import Guide
from streaming_vla.policies.layout import Vector
from streaming_vla.workbench.report.records import EpisodeRecord
from streaming_vla.workbench.virtual import world as virtual
from streaming_vla.workbench.virtual.clock import Clock
from streaming_vla.workbench.virtual.network import ON_THE_ROBOT, Network

OBSERVER = ObserverOptions(cameras=("camera",), camera_topics=("camera",), max_frame_age_s=0.3)
SIZE = 8
JPEG = cv2.imencode(".jpg", np.zeros((SIZE, SIZE, 3), np.uint8))[1].tobytes()


@dataclass
class Timing:
    """Latencies of the world in seconds, and the policy's horizons."""

    execute_s: float = 0.027
    observe_s: float = 0.059
    step_s: float = 0.0172
    horizon: int = 10
    trained: int = 10

    def profile(self) -> LatencyProfile:
        """Return the same as a profile: constant latencies, no network."""
        constant = [Spread(1000 * each_s, 1000 * each_s) for each_s in (self.observe_s, self.step_s, 0.0)]
        return LatencyProfile("test", "a test", 1000 * self.execute_s, *constant)


class Straw:
    """A policy that does the same with every picture, and a robot that does not move.

    Attributes:
        saliency: what the look-ahead says after pending actions, [A].
        guides: of the chunks.
        states: of the robot, as the policy was told them.
    """

    def __init__(self, timing: Timing) -> None:
        cache = CacheSpec(layers=1, kv_heads=1, head_dim=2)
        self.spec = PolicySpec(
            "straw", ("camera",), SIZE, 3, LAYOUT, timing.horizon, timing.trained, 1, cache, trained_delay=4
        )
        self.saliency: Callable[[Vector], float] = lambda pending: 0.0
        self.guides: list[Guide | None] = []
        self.states: list[Vector] = []

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Give a context."""
        yield None
        self.states.append(observation.state.astype(np.float64))
        return Prefilled(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2), seen=torch.ones(1, 2))

    def flow_step(self, query: FlowQuery) -> Vector:
        """Give an action that tells its index."""
        return np.array([0.1, -0.1, query.index / 20])

    def denoise(
        self, view: CacheView, context: Any, steps: int, guide: Guide | None, random: np.random.Generator
    ) -> Slices[Vector]:
        """Give a chunk whose actions tell observation and index."""
        for _ in range(steps - 1):
            yield None
        self.guides.append(guide)
        return np.array([[0.01 * (len(self.states) - 1), 0.0, row / 100] for row in range(self.spec.trained_horizon)])

    def look_ahead(self, seen: Tensor, pending: Vector) -> float:
        """Say what the test wants to hear."""
        return self.saliency(pending)

    def plan(self, view: CacheView, context: Any) -> Vector:
        """Plan to switch the gripper late in every third context."""
        plan = np.tile(LAYOUT.start(), (self.spec.trained_horizon, 1))
        plan[-4:, 2] = 1.0 if len(self.states) % 3 == 0 else -1.0
        return plan

    def look(self) -> dict[str, bytes]:
        """Show nothing."""
        return {"camera": JPEG}

    def state(self) -> Vector:
        """Stand still."""
        return np.zeros(3)

    def command(self, command: Command) -> None:
        """Do nothing."""

    def advance(self, now: float) -> bool:
        """Never be done."""
        return False


class FaultyNetwork(Network):
    """A network that a test cuts off, and that carries actions to the executor as the test says.

    Attributes:
        connected: whether messages between robot and engine arrive.
        deliver: for each action, after which delays it reaches the executor: () loses it, (0.0, 0.0) doubles it.
    """

    connected = True
    deliver: Callable[[Action], tuple[float, ...]] | None = None

    def send(self, message: object, receiver: str, event: Callable[[], None]) -> None:
        """See Network."""
        if isinstance(message, Action) and self.deliver is not None:
            for delay_s in self.deliver(message):
                self._clock.after(delay_s, event)
        elif self.connected or isinstance(message, ON_THE_ROBOT):
            super().send(message, receiver, event)


class World(virtual.World):
    """A virtual world with a generator of one action after the other, or another source of actions.

    Args:
        timing: what takes how long.
        monitor: options of the monitor.
        generator: options of the generator, or what makes another source of actions.
        executor: options of the executor.
        deliver: see FaultyNetwork.
        profile: latencies; default: those of `timing`, without a network.
        chunks: how chunks are denoised; None: the policy gives one action per step.
    """

    def __init__(
        self,
        timing: Timing,
        monitor: MonitorOptions,
        generator: GeneratorOptions | Callable[[], virtual.ActionSource],
        executor: ExecutorOptions,
        deliver: Callable[[Action], tuple[float, ...]] | None = None,
        profile: LatencyProfile | None = None,
        seed: int = 0,
        chunks: ChunkOptions | None = None,
    ) -> None:
        self.timing, self.straw = timing, Straw(timing)
        self.monitor_options, self.executor_options = monitor, executor
        self._make_generator: Callable[[], virtual.ActionSource] = (
            (lambda: Generator(LAYOUT, generator)) if isinstance(generator, GeneratorOptions) else generator
        )
        clock, profile = Clock(), profile or timing.profile()
        record = EpisodeRecord("test", "none", 0, "go", 1, timing.execute_s, 0.0)
        machines = (Observer(OBSERVER), Monitor(monitor), self._make_generator(), Executor(LAYOUT, executor))
        self.faulty = FaultyNetwork(profile, clock, seed)
        self.faulty.deliver = deliver
        policy = self.straw if chunks is None else ChunkAsStream(self.straw, chunks)
        engine = make_engine(policy, profile, seed)
        super().__init__(machines, engine, self.straw, self.faulty, clock, record)
        if chunks is not None:
            self.hear_contexts = ("generator",)

    @property
    def states(self) -> list[tuple[float, ExecutionState]]:
        """What the executor said, with the time."""
        return [(at.time_s, at.state) for at in self.record.states]

    @property
    def requests(self) -> list[ObserveRequest]:
        """Observations that were asked for."""
        return [ObserveRequest(1, at.sequence, at.reason) for at in self.record.requests]

    def new_generator(self) -> None:
        """Put a new generator in the place of the old one, as a respawn does."""
        self.generator = self._make_generator()
        self._tell_episode("generator")

    def new_executor(self) -> None:
        """Put a new executor in the place of the old one."""
        self.executor = Executor(LAYOUT, self.executor_options)
        self._tell_episode("executor")

    def new_observer(self) -> None:
        """Put a new observer in the place of the old one."""
        self.observer = Observer(OBSERVER)
        self._tell_episode("observer")

    def new_monitor(self) -> None:
        """Put a new monitor in the place of the old one; it learns everything from the executor's state."""
        self.monitor = Monitor(self.monitor_options, last_episode=1000)

    def halting(self) -> Halting:
        """Return the halting of what was played."""
        return measure(self.states, self.timing.execute_s)

    def played(self) -> list[tuple[int, int]]:
        """Return context and index of every action that was begun."""
        found: list[tuple[int, int]] = []
        executed = 0
        for _, state in self.states:
            if state.executed > executed:
                found.append((state.context, state.index))
            executed = state.executed
        return found

    def reasons(self) -> list[Reason]:
        """Return why each observation was asked for."""
        return [at.reason for at in self.record.requests]

    def _tell_episode(self, machine: str) -> None:
        episode: Episode | None = self.episode
        if episode is not None:
            self.tell(machine, "on_episode", episode)


def make_engine(policy: Any, profile: LatencyProfile, seed: int = 0) -> Engine:
    """Return an engine of one robot that keeps the newest observation, on a virtual clock."""
    options = EngineOptions(CacheOptions(cache_recent=1, cache_capacity=1), 1)
    return Engine(policy, options, ProfilePace(profile, seed), stopwatch=lambda: 0.0, wait_for_futures=True)
