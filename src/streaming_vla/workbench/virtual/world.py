"""The virtual clock: the suite's own state machines and engine on a discrete-event clock, as fast as a processor is.

Observer, monitor, generator, executor and engine are the objects that the ROS nodes host. Only time is made up: how
long the model and the network take is said by a latency profile. The robot is not: it holds while nothing comes, and
the world around it goes on. The same seed gives the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from streaming_vla.engine.engine import Engine
from streaming_vla.engine.values import ContextReport, EncodedObservation, Reply
from streaming_vla.machines.counters import Counters
from streaming_vla.machines.events import (
    Action,
    Command,
    ContextReady,
    Episode,
    ExecutionState,
    GeneratedAction,
    GenerateRequest,
    ObserveRequest,
    SaliencyQuestion,
    SaliencyReply,
    Snapshot,
)
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.monitor import Monitor
from streaming_vla.machines.observer import Observer
from streaming_vla.machines.stops import Said
from streaming_vla.policies.layout import Vector
from streaming_vla.workbench.report.records import (
    ContextAt,
    EpisodeRecord,
    ObservationAt,
    RequestAt,
    Span,
    StateAt,
)
from streaming_vla.workbench.virtual.clock import Clock
from streaming_vla.workbench.virtual.network import Network

SESSION = "/"


class Plant(Protocol):
    """The robot in its world."""

    def look(self) -> Mapping[str, Any]:
        """Return a frame of every camera, as `World.encode` understands it."""

    def state(self) -> Vector:
        """Return the robot's state in the policy's order and units."""

    def command(self, command: Command) -> None:
        """Take a command."""

    def advance(self, now: float) -> bool:
        """Let the world go on until `now`, seconds; True when the task is done."""


class ActionSource(Protocol):
    """The generator, or another machine in its place; its methods return effects."""

    counters: Counters

    def on_episode(self, episode: Episode, now: float) -> Iterable[object]: ...
    def on_request(self, request: ObserveRequest, now: float) -> Iterable[object]: ...
    def on_context(self, context: ContextReady, now: float) -> Iterable[object]: ...
    def on_generated(self, action: GeneratedAction, now: float) -> Iterable[object]: ...
    def on_robot_state(self, values: Vector, now: float) -> Iterable[object]: ...
    def on_execution_state(self, state: ExecutionState, now: float) -> Iterable[object]: ...
    def poll(self, now: float) -> Iterable[object]: ...
    def deadline(self) -> float | None: ...


@dataclass(frozen=True)
class Told:
    """A machine was told something at `now`: which handler, with what, and what it asked for then."""

    machine: str
    handler: str
    arguments: tuple[Any, ...]
    now: float
    effects: tuple[object, ...]


MACHINES = ("observer", "monitor", "generator", "executor")


class World:
    """One robot with its four machines, an engine and a plant on one clock.

    What happens is written into `record`; `commands` and `actions` hold what was sent to robot and executor.

    Args:
        machines: observer, monitor, generator, executor; they may be replaced while it runs.
        engine: of the policy, with a stopwatch that stands still.
        plant: the robot.
        network: between robot and engine, on `clock`.
        clock: of the run.
        record: of the episode.

    Attributes:
        prepare: changes an observation before it is sent, once the generator knows of it.
        hear_contexts: who is told that a context is ready; who is left out hears it from the generator.
        trace: set to a list to keep what every machine and the engine are told.
    """

    def __init__(
        self,
        machines: tuple[Observer, Monitor, ActionSource, Executor],
        engine: Engine,
        plant: Plant,
        network: Network,
        clock: Clock,
        record: EpisodeRecord,
    ) -> None:
        self.observer, self.monitor, self.generator, self.executor = machines
        self.engine, self.plant, self.network, self.clock, self.record = engine, plant, network, clock, record
        self.prepare: Callable[[EncodedObservation], EncodedObservation] = lambda observation: observation
        self.hear_contexts: tuple[str, ...] = ("generator", "monitor")
        self.trace: list[Told] | None = None
        self.succeeded_s: float | None = None
        self.robot_alive = True
        self.episode: Episode | None = None
        self.commands: list[tuple[float, Command]] = []
        self.actions: list[Action] = []
        self._granted_s: dict[tuple[int, int, int], float] = {}  # by context, revision and step
        self._sense()

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return self.clock.now

    def start(self, instruction: str) -> None:
        """Begin an episode."""
        self._execute_all(self.monitor.start_episode(self.now, instruction))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, at most `seconds`, or until `until` holds: everything happens exactly when it is due."""
        end = self.now + seconds
        while not until():
            deadlines = [due for name in MACHINES if (due := getattr(self, name).deadline()) is not None]
            due = min([*deadlines, self.clock.due_s(), self.engine.deadline()])
            if due > end:
                self.clock.now = end
                return
            self.clock.now = max(self.now, due)
            if self.clock.due_s() <= self.now:
                self.clock.happen()
            elif self.engine.deadline() <= self.now:
                self._poll_engine()
            for name in MACHINES:
                self.tell(name, "poll")

    def tell(self, machine: str, handler: str, *arguments: Any) -> None:
        """Call a handler of a machine and do what it asks for."""
        effects = tuple(getattr(getattr(self, machine), handler)(*arguments, self.now))
        self._trace(machine, handler, arguments, effects)
        self._execute_all(effects)

    def encode(self, snapshot: Snapshot) -> EncodedObservation | str:
        """Return a snapshot as it travels, or the camera of a damaged frame."""
        request, cameras = snapshot.request, self.engine.policy.spec.cameras
        return EncodedObservation(
            SESSION,
            request.episode,
            request.sequence,
            snapshot.instruction,
            tuple(snapshot.frames[camera] for camera in cameras),
            np.asarray(snapshot.state, dtype=np.float32),
        )

    def context_of(self, report: ContextReport) -> ContextReady:
        """Return what the robot is told of a prefill."""
        return ContextReady(
            report.episode,
            report.sequence,
            report.execution_horizon,
            report.trained_horizon,
            report.flow_step_s,
            report.trained_delay,
            report.chunk,
            report.history_from,
            report.remembers,
        )

    def _execute_all(self, effects: Iterable[object]) -> None:
        for effect in effects:
            self._execute(effect)

    def _execute(self, effect: object) -> None:
        match effect:
            case Episode():
                self.episode = effect
                self._granted_s.clear()
                for machine in ("observer", "generator", "executor"):
                    self.tell(machine, "on_episode", effect)
            case ObserveRequest():
                self.record.requests.append(RequestAt(self.now, effect.sequence, effect.reason))
                if self.robot_alive:
                    self._look()
                self.network.send(effect, "observer", partial(self.tell, "observer", "on_request", effect))
            case Snapshot():
                self._observed(effect)
            case ContextReady():  # of a generator that says so itself
                self.tell("monitor", "on_context", effect)
            case GenerateRequest():
                for step in range(effect.step, effect.until):
                    self._granted_s.setdefault((effect.context, effect.revision, step), self.now)
                self.network.send(effect, "engine", lambda: self._ask("generate", SESSION, effect, self.now))
            case SaliencyQuestion():
                self.network.send(effect, "engine", lambda: self._ask("predict_saliency", SESSION, effect, 0))
            case Action():
                self.actions.append(effect)
                self.network.send(effect, "executor", partial(self.tell, "executor", "on_action", effect))
            case ExecutionState():
                self.record.states.append(StateAt(self.now, effect))
                for machine in ("generator", "monitor"):
                    self.network.send(effect, machine, partial(self.tell, machine, "on_execution_state", effect))
            case Command():
                self.plant.advance(self.now)
                self.commands.append((self.now, effect))
                self.plant.command(effect)
            case Said():  # to an operator, and none is here
                pass
            case _:
                raise TypeError(f"the virtual clock does not know what to do with a {type(effect).__name__}")

    def _sense(self) -> None:
        """Once per control period: the world goes on, and the robot says that it is alive and how it is."""
        if self.plant.advance(self.now) and self.succeeded_s is None:
            self.succeeded_s = self.now
        if self.robot_alive:
            self.tell("executor", "on_robot_state")
            self.tell("generator", "on_robot_state", self.plant.state())
            if self.observer.deadline() is not None:  # a request waits for pictures
                self._look()
        self.clock.after(self.record.control_period_s, self._sense)

    def _look(self) -> None:
        self.plant.advance(self.now)
        for camera, picture in self.plant.look().items():
            self.tell("observer", "on_frame", camera, picture, round(self.now * 1e9))
        self.tell("observer", "on_state", self.plant.state())

    def _observed(self, snapshot: Snapshot) -> None:
        """Send what was seen; encoding is part of T_o, so its span only marks when the pictures were taken."""
        observation = self.encode(snapshot)
        if isinstance(observation, str):
            self.tell("observer", "on_damaged", snapshot, observation)
            return
        request, size = snapshot.request, sum(len(image) for image in observation.images)
        self.record.observations.append(
            ObservationAt(self.now, request.sequence, request.reason, size, snapshot.skew_s)
        )
        self._span("observer", "observe", self.now, request.sequence)
        self.tell("generator", "on_request", request)
        sent = self.prepare(observation)
        self.network.send(sent, "engine", lambda: self._ask("observe", sent, self.now))

    def _ask(self, handler: str, *arguments: Any) -> None:
        """Hand a request to the engine."""
        getattr(self.engine, handler)(*arguments)
        self._trace("engine", handler, arguments, ())

    def _poll_engine(self) -> None:
        replies = self.engine.poll(self.now)
        self._trace("engine", "poll", (), tuple(replies))
        for reply in replies:
            self.on_reply(reply)

    def on_reply(self, reply: Reply) -> None:
        """Carry a reply to whom it concerns; a refused observation concerns nobody on the robot."""
        value = reply.value
        match value:
            case ContextReport():
                self._prefilled(value)
            case GeneratedAction():
                if value.accepted and not self.engine.policy.spec.chunk:  # of a chunk it was done with the context
                    self._span("inference", "flow_step", self.now - value.compute_s, value.context, value.step)
                self.network.send(value, "generator", partial(self._generated, value))
            case SaliencyReply():
                self.network.send(value, "monitor", partial(self.tell, "monitor", "on_saliency", value))

    def _prefilled(self, report: ContextReport) -> None:
        begin_s = self.now - report.prefill_s - report.queued_s
        self._span("inference", "prefill", begin_s, report.sequence, end_s=self.now - report.denoise_s)
        if report.chunk:
            self._span("inference", "flow_step", self.now - report.denoise_s, report.sequence)
        times = (report.prefill_s, report.queued_s)
        self.record.contexts.append(ContextAt(self.now, report.sequence, report.tokens, *times))
        context = self.context_of(report)
        for machine in self.hear_contexts:
            self.network.send(context, machine, partial(self.tell, machine, "on_context", context))

    def _generated(self, action: GeneratedAction) -> None:
        granted_s = self._granted_s.pop((action.context, action.revision, action.step), None)
        if granted_s is not None and action.accepted:
            self._span("generator", "generate", granted_s, action.context, action.step)
        self.tell("generator", "on_generated", action)

    def _span(
        self, node: str, stage: str, begin_s: float, sequence: int, index: int = -1, end_s: float | None = None
    ) -> None:
        end_s = self.now if end_s is None else end_s
        self.record.spans.append(Span(node, stage, begin_s, end_s, sequence, index))

    def _trace(self, machine: str, handler: str, arguments: tuple[Any, ...], effects: tuple[object, ...]) -> None:
        if self.trace is not None:
            self.trace.append(Told(machine, handler, arguments, self.now, effects))
