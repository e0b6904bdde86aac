"""The four machines wired together on a clock of their own, with latencies and faults that a test chooses."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from runtime_cases import LAYOUT

from streaming_vla.runtime.events import (
    Action,
    Command,
    ContextReady,
    Episode,
    ExecutionState,
    FlowReply,
    FlowRequest,
    ObserveRequest,
    Reason,
    Snapshot,
)
from streaming_vla.runtime.executor import Executor, ExecutorOptions
from streaming_vla.runtime.generator import Generator, GeneratorOptions
from streaming_vla.runtime.halting import Halting, measure
from streaming_vla.runtime.monitor import Monitor, MonitorOptions
from streaming_vla.runtime.observer import Observer, ObserverOptions

SENSOR_PERIOD_S = 0.02
NUMBER = 1


@dataclass
class Timing:
    """Latencies of the world in seconds, and the policy's horizons."""

    execute_s: float = 0.027
    observe_s: float = 0.059
    step_s: float = 0.0172
    horizon: int = 10
    trained: int = 10


@dataclass
class World:
    """Observer, monitor, generator and executor with an engine that takes `timing`; no transport time.

    Args:
        timing: what takes how long.
        monitor: options of the monitor.
        generator: options of the generator.
        executor: options of the executor.
        deliver: for each action, after which delays it arrives: () loses it, (0.0, 0.0) doubles it.
    """

    timing: Timing
    monitor_options: MonitorOptions
    generator_options: GeneratorOptions
    executor_options: ExecutorOptions
    deliver: Callable[[Action], tuple[float, ...]] = lambda action: (0.0,)
    now: float = 0.0
    robot_alive: bool = True
    engine_alive: bool = True
    states: list[tuple[float, ExecutionState]] = field(default_factory=list)
    commands: list[tuple[float, Command]] = field(default_factory=list)
    requests: list[tuple[float, ObserveRequest]] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    flow_requests: list[tuple[float, FlowRequest]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._episode: Episode | None = None
        self.observer = Observer(ObserverOptions(("camera",)))
        self.monitor = Monitor(self.monitor_options)
        self.new_generator()
        self.new_executor()
        self._sense()

    def new_generator(self) -> None:
        """Put a new generator in the place of the old one, as a respawn does."""
        self.generator = Generator(LAYOUT, self.generator_options)
        if self._episode is not None:
            self._handle(self.generator.on_episode(self._episode, self.now))

    def new_executor(self) -> None:
        """Put a new executor in the place of the old one."""
        self.executor = Executor(LAYOUT, self.executor_options)
        if self._episode is not None:
            self._handle(self.executor.on_episode(self._episode, self.now))

    def new_observer(self) -> None:
        """Put a new observer in the place of the old one."""
        self.observer = Observer(ObserverOptions(("camera",)))
        if self._episode is not None:
            self._handle(self.observer.on_episode(self._episode, self.now))

    def new_monitor(self) -> None:
        """Put a new monitor in the place of the old one; it learns everything from the executor's state."""
        self.monitor = Monitor(self.monitor_options, last_episode=1000)

    def start(self) -> None:
        """Begin an episode."""
        self._handle(self.monitor.start_episode(self.now, "go"))

    def run(self, seconds: float) -> None:
        """Let time pass: everything happens exactly when it is due."""
        end = self.now + seconds
        while True:
            machines = (self.observer, self.monitor, self.generator, self.executor)
            deadlines = [due for machine in machines if (due := machine.deadline()) is not None]
            due = min([*deadlines, self._events[0][0]])
            if due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            if self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            for machine in machines:
                self._handle(machine.poll(self.now))

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
        return [request.reason for _, request in self.requests]

    def _at(self, delay_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay_s, next(self._order), event))

    def _sense(self) -> None:
        if self.robot_alive:
            self._handle(self.observer.on_frame("camera", None, self.now, self.now))
            self._handle(self.observer.on_state(np.zeros(1), self.now))
            self._handle(self.executor.on_robot_state(self.now))
        self._at(SENSOR_PERIOD_S, self._sense)

    def _handle(self, effects: object) -> None:
        for effect in effects:  # type: ignore[attr-defined]
            self._handle_one(effect)

    def _handle_one(self, effect: object) -> None:
        match effect:
            case Episode():
                self._episode = effect
                for machine in (self.observer, self.generator, self.executor):
                    self._handle(machine.on_episode(effect, self.now))
                self._sense_now()
            case ObserveRequest():
                self.requests.append((self.now, effect))
                self._handle(self.observer.on_request(effect, self.now))
            case Snapshot():
                self._at(self.timing.observe_s, lambda: self._prefilled(effect.request))
            case FlowRequest():
                self.flow_requests.append((self.now, effect))
                self._at(self.timing.step_s, lambda: self._stepped(effect))
            case Action():
                self.actions.append(effect)
                for delay_s in self.deliver(effect):
                    self._at(delay_s, lambda: self._handle(self.executor.on_action(effect, self.now)))
            case ExecutionState():
                self.states.append((self.now, effect))
                self._handle(self.generator.on_execution_state(effect, self.now))
                self._handle(self.monitor.on_execution_state(effect, self.now))
            case Command():
                self.commands.append((self.now, effect))

    def _sense_now(self) -> None:
        """Show the episode's first frame: what was seen before it does not count."""
        self._handle(self.observer.on_frame("camera", None, self.now, self.now))
        self._handle(self.observer.on_state(np.zeros(1), self.now))

    def _prefilled(self, request: ObserveRequest) -> None:
        if not self.engine_alive:
            return
        context = ContextReady(
            request.episode, request.sequence, self.timing.horizon, self.timing.trained, self.timing.step_s
        )
        self._handle(self.generator.on_context(context, self.now))
        self._handle(self.monitor.on_context(context, self.now))

    def _stepped(self, request: FlowRequest) -> None:
        if not self.engine_alive:
            return
        values = np.array([0.1, -0.1, request.index / 10])
        reply = FlowReply(request.episode, request.context, request.index, True, values)
        self._handle(self.generator.on_flow_reply(reply, self.now))
