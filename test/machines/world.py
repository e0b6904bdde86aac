"""A virtual world for the tests of the machines: a model and a robot of straw, and faults that a test chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from runtime_cases import LAYOUT

from streaming_vla.engine.latency_profile import LatencyProfile, Spread
from streaming_vla.machines.events import (
    Action,
    Command,
    ContextReady,
    Episode,
    ExecutionState,
    FlowReply,
    FlowRequest,
    ObserveRequest,
    Reason,
    SaliencyQuestion,
    SaliencyReply,
    Snapshot,
)
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.machines.generator import Generator
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.machines.halting import Halting, measure
from streaming_vla.machines.monitor import Monitor
from streaming_vla.machines.monitor_options import MonitorOptions
from streaming_vla.machines.observer import Observer
from streaming_vla.machines.observer_options import ObserverOptions
from streaming_vla.policies.layout import Vector
from streaming_vla.workbench.report.records import EpisodeRecord
from streaming_vla.workbench.virtual import world as virtual
from streaming_vla.workbench.virtual.baselines.events import ChunkReply, ChunkRequest
from streaming_vla.workbench.virtual.hardware import Clock, Hardware

OBSERVER = ObserverOptions(cameras=("camera",), camera_topics=("camera",), max_frame_age_s=0.3)


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
    """A model that says the same of every picture, and a robot that does not move."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.alive = True
        self.saliency: Callable[[SaliencyQuestion], float] = lambda question: 0.0
        self.requests: list[ChunkRequest] = []
        self.shifts: list[Vector | None] = []

    def prefill(self, snapshot: Snapshot, shift: Vector | None, pending: Vector | None = None) -> ContextReady | None:
        """Give a context."""
        if not self.alive:
            return None
        self.shifts.append(shift)
        timing, request = self.timing, snapshot.request
        return ContextReady(request.episode, request.sequence, timing.horizon, timing.trained, timing.step_s)

    def flow_step(self, request: FlowRequest) -> FlowReply | None:
        """Give an action that tells its index."""
        if not self.alive:
            return None
        values = np.array([0.1, -0.1, request.index / 10])
        return FlowReply(request.episode, request.context, request.index, True, values)

    def chunk(self, request: ChunkRequest) -> ChunkReply | None:
        """Give a chunk whose actions tell context and index."""
        if not self.alive:
            return None
        self.requests.append(request)
        rows = [[0.01 * request.context, 0.0, row / 100] for row in range(self.timing.trained)]
        return ChunkReply(request.episode, request.context, True, np.array(rows))

    def must_plan(self, question: SaliencyQuestion) -> bool:
        """Plan nothing."""
        return False

    def look_ahead(self, question: SaliencyQuestion) -> SaliencyReply | None:
        """Say what the test wants to hear."""
        return SaliencyReply(question.episode, question.context, question.index, True, self.saliency(question))

    def look(self) -> dict[str, object]:
        """Show nothing."""
        return {"camera": None}

    def state(self) -> Vector:
        """Stand still."""
        return np.zeros(1)

    def command(self, command: Command) -> None:
        """Do nothing."""

    def advance(self, now: float) -> bool:
        """Never be done."""
        return False


class World(virtual.World):
    """A virtual world without network, with a generator of one action after the other or another source of actions.

    Args:
        timing: what takes how long.
        monitor: options of the monitor.
        generator: options of the generator, or what makes another source of actions.
        executor: options of the executor.
        deliver: for each action, after which delays it arrives: () loses it, (0.0, 0.0) doubles it.
        profile: latencies; default: those of `timing`.
    """

    def __init__(
        self,
        timing: Timing,
        monitor: MonitorOptions,
        generator: GeneratorOptions | Callable[[], virtual.ActionSource],
        executor: ExecutorOptions,
        deliver: Callable[[Action], tuple[float, ...]] = lambda action: (0.0,),
        profile: LatencyProfile | None = None,
        seed: int = 0,
    ) -> None:
        self.timing, self.deliver = timing, deliver
        self.monitor_options, self.executor_options = monitor, executor
        self._make_generator: Callable[[], virtual.ActionSource] = (
            (lambda: Generator(LAYOUT, generator)) if isinstance(generator, GeneratorOptions) else generator
        )
        self.straw = Straw(timing)
        clock = Clock()
        record = EpisodeRecord("test", "none", 0, "go", 1, timing.execute_s, 0.0)
        machines = (Observer(OBSERVER), Monitor(monitor), self._make_generator(), Executor(LAYOUT, executor))
        hardware = Hardware(profile or timing.profile(), clock, seed)
        super().__init__(machines, self.straw, self.straw, hardware, clock, record)

    @property
    def states(self) -> list[tuple[float, ExecutionState]]:
        """What the executor said, with the time."""
        return [(at.time_s, at.state) for at in self.record.states]

    @property
    def requests(self) -> list[ObserveRequest]:
        """Observations that were asked for."""
        return [ObserveRequest(1, at.sequence, at.reason) for at in self.record.requests]

    @property
    def engine_alive(self) -> bool:
        """Whether the model answers."""
        return self.straw.alive

    @engine_alive.setter
    def engine_alive(self, alive: bool) -> None:
        self.straw.alive = alive

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

    def send_action(self, action: Action) -> None:
        """Let the test's network carry the action."""
        for delay_s in self.deliver(action):
            self.clock.after(delay_s, lambda: self.tell("executor", "on_action", action))

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
