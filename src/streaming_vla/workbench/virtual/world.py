"""The virtual clock: the suite's own state machines on a discrete-event clock, as fast as the processor allows.

Observer, monitor, generator and executor are the objects that the ROS nodes host. Only time is made up: how long
the model and the network take is said by a latency profile. The robot is not: it holds while nothing comes, and the
world around it goes on. The same seed gives the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from streaming_vla.machines.counters import Counters
from streaming_vla.machines.events import (
    Action,
    Command,
    ContextReady,
    Episode,
    ExecutionState,
    FlowReply,
    FlowRequest,
    ObserveRequest,
    SaliencyQuestion,
    SaliencyReply,
    Snapshot,
)
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.monitor import Monitor
from streaming_vla.machines.observer import Observer
from streaming_vla.policies.layout import Vector
from streaming_vla.workbench.report.records import (
    ContextAt,
    EpisodeRecord,
    ObservationAt,
    RequestAt,
    Span,
    StateAt,
)
from streaming_vla.workbench.virtual.baselines.events import ChunkReply, ChunkRequest
from streaming_vla.workbench.virtual.hardware import Clock, Hardware


class Service(Protocol):
    """What the inference node does, without its time."""

    def prefill(self, snapshot: Snapshot, shift: Vector | None, pending: Vector | None = None) -> ContextReady | None:
        """Turn a snapshot into a context; None when it does not answer.

        Args:
            shift: [A], actions by which the robot's state is moved on; None: it stays.
            pending: [A], actions by which the picture's tokens are moved on; None: they stay.
        """

    def flow_step(self, request: FlowRequest) -> FlowReply | None:
        """Do one flow step; None when it does not answer."""

    def chunk(self, request: ChunkRequest) -> ChunkReply | None:
        """Denoise a chunk against a context; None when it does not answer."""

    def must_plan(self, question: SaliencyQuestion) -> bool:
        """Say whether the answer needs a plan that is not made yet."""

    def look_ahead(self, question: SaliencyQuestion) -> SaliencyReply | None:
        """Ask the policy for the saliency of a context; None when it does not answer."""


class Plant(Protocol):
    """The robot in its world."""

    def look(self) -> dict[str, Any]:
        """Return a frame of every camera, as the service understands it."""

    def state(self) -> Vector:
        """Return the robot's state in the policy's order and units."""

    def command(self, command: Command) -> None:
        """Take a command."""

    def advance(self, now: float) -> bool:
        """Let the world go on until `now`, seconds; True when the task is done."""


class ActionSource(Protocol):
    """A generator of one action after the other, or of chunks; its methods return effects."""

    counters: Counters

    def on_episode(self, episode: Episode, now: float) -> Iterable[object]: ...
    def on_request(self, request: ObserveRequest, now: float) -> Iterable[object]: ...
    def on_context(self, context: ContextReady, now: float) -> Iterable[object]: ...
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
    """One robot with its four machines, a service and a plant on one clock.

    What happens is written into `record`; `commands` and `actions` hold what was sent to robot and executor.

    Args:
        machines: observer, monitor, generator, executor; they may be replaced while it runs.
        service: the model.
        plant: the robot.
        hardware: latencies, on `clock`.
        clock: of the run.
        record: of the episode.
    """

    def __init__(
        self,
        machines: tuple[Observer, Monitor, ActionSource, Executor],
        service: Service,
        plant: Plant,
        hardware: Hardware,
        clock: Clock,
        record: EpisodeRecord,
    ) -> None:
        self.observer, self.monitor, self.generator, self.executor = machines
        self.service, self.plant, self.hardware, self.clock, self.record = service, plant, hardware, clock, record
        self.succeeded_s: float | None = None
        self.robot_alive = True
        self.episode: Episode | None = None
        self.commands: list[tuple[float, Command]] = []
        self.actions: list[Action] = []
        self.flow_requests: list[tuple[float, FlowRequest]] = []
        self.pending: Callable[[], Vector] | None = None  # of the actions that a picture lacks; None: nobody asks
        self.encode: Callable[[Snapshot], Snapshot | str] | None = None  # str: the camera of a damaged frame
        self.trace: list[Told] | None = None  # set to a list to keep what every machine is told
        self._chunks: dict[int, ChunkRequest] = {}  # by observation, until its prefill is done
        self._sense()

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return self.clock.now

    def start(self, instruction: str) -> None:
        """Begin an episode."""
        self._carry_out_all(self.monitor.start_episode(self.now, instruction))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, at most `seconds`, or until `until` holds: everything happens exactly when it is due."""
        end = self.now + seconds
        while not until():
            deadlines = [due for name in MACHINES if (due := getattr(self, name).deadline()) is not None]
            due = min([*deadlines, self.clock.due_s()])
            if due > end:
                self.clock.now = end
                return
            self.clock.now = max(self.now, due)
            if self.clock.due_s() <= self.now:
                self.clock.happen()
            for name in MACHINES:
                self.tell(name, "poll")

    def tell(self, machine: str, handler: str, *arguments: Any) -> None:
        """Call a handler of a machine and do what it asks for."""
        effects = tuple(getattr(getattr(self, machine), handler)(*arguments, self.now))
        if self.trace is not None:
            self.trace.append(Told(machine, handler, arguments, self.now, effects))
        self._carry_out_all(effects)

    def send_action(self, action: Action) -> None:
        """Carry an action from the generator to the executor; both are on the robot."""
        self.tell("executor", "on_action", action)

    def _carry_out_all(self, effects: Iterable[object]) -> None:
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: object) -> None:
        match effect:
            case Episode():
                self.episode = effect
                for machine in ("observer", "generator", "executor"):
                    self.tell(machine, "on_episode", effect)
            case ObserveRequest():
                self.record.requests.append(RequestAt(self.now, effect.sequence, effect.reason))
                if self.robot_alive:
                    self._look()
                self.hardware.ask(effect.sequence, lambda: self.tell("observer", "on_request", effect))
            case Snapshot():
                self._observed(effect)
            case ChunkRequest():
                self._chunks[effect.context] = effect
            case ContextReady():  # of a chunk that has been merged
                self.tell("monitor", "on_context", effect)
            case FlowRequest():
                self.flow_requests.append((self.now, effect))
                self._flow_step(effect)
            case SaliencyQuestion():
                self.hardware.send("question", lambda: self._question(effect))
            case Action():
                self.actions.append(effect)
                self.hardware.action(effect, lambda: self.send_action(effect))
            case ExecutionState():
                self.record.states.append(StateAt(self.now, effect))
                for machine in ("generator", "monitor"):
                    self.hardware.state(machine, effect, partial(self.tell, machine, "on_execution_state", effect))
            case Command():
                self.plant.advance(self.now)
                self.commands.append((self.now, effect))
                self.plant.command(effect)
            case _:
                raise TypeError(f"the virtual clock does not know what to do with a {type(effect).__name__}")

    def _sense(self) -> None:
        """Once per control period: the world goes on, and the robot says that it is alive."""
        if self.plant.advance(self.now) and self.succeeded_s is None:
            self.succeeded_s = self.now
        if self.robot_alive:
            self.tell("executor", "on_robot_state")
            if self.observer.deadline() is not None:  # a request waits for pictures
                self._look()
        self.clock.after(self.record.control_period_s, self._sense)

    def _look(self) -> None:
        self.plant.advance(self.now)
        for camera, picture in self.plant.look().items():
            self.tell("observer", "on_frame", camera, picture, round(self.now * 1e9))
        self.tell("observer", "on_state", self.plant.state())

    def _observed(self, snapshot: Snapshot) -> None:
        if self.encode is not None:
            encoded = self.encode(snapshot)
            if isinstance(encoded, str):
                self.tell("observer", "on_damaged", snapshot, encoded)
                return
            snapshot = encoded
        request, taken_s = snapshot.request, self.now
        size = sum(len(picture) for picture in snapshot.frames.values() if isinstance(picture, bytes))
        self.record.observations.append(ObservationAt(taken_s, request.sequence, request.reason, size, snapshot.skew_s))
        # encoding is part of T_o: the span marks when the picture was taken
        self.record.spans.append(Span("observer", "observe", taken_s, taken_s, request.sequence))
        pending = self.pending() if self.pending is not None else None
        self.tell("generator", "on_request", request)

        def prefilled(begin_s: float, end_s: float) -> None:
            chunk = self._chunks.pop(request.sequence, None)
            context = self.service.prefill(snapshot, chunk.shift if chunk is not None else None, pending)
            self.record.spans.append(Span("inference", "prefill", begin_s, end_s, request.sequence))
            if context is None:
                return
            smoothed_s = self.hardware.flow_step_s(request.sequence)
            context = replace(context, flow_step_s=smoothed_s or context.flow_step_s)
            queued_s = end_s - begin_s  # of the model's time nothing is known but this
            self.record.contexts.append(ContextAt(end_s, request.sequence, 0, queued_s, 0.0))
            if chunk is None:
                told = (partial(self.tell, machine, "on_context", context) for machine in ("generator", "monitor"))
                self.hardware.context(request.sequence, *told)
            else:
                self.hardware.flow_steps(chunk.steps, lambda begin, end: self._denoised(chunk, begin, end))

        self.hardware.observation(request.sequence, prefilled)

    def _denoised(self, request: ChunkRequest, begin_s: float, end_s: float) -> None:
        self.record.spans.append(Span("inference", "flow_step", begin_s, end_s, request.context))
        reply = self.service.chunk(request)
        if reply is not None:
            self.hardware.send("context", lambda: self.tell("generator", "on_chunk_reply", reply))

    def _flow_step(self, request: FlowRequest) -> None:
        asked_s = self.now

        def stepped(begin_s: float, end_s: float) -> None:
            self.record.spans.append(Span("inference", "flow_step", begin_s, end_s, request.context, request.index))
            reply = self.service.flow_step(request)
            if reply is not None:
                self.hardware.flow_reply(request.context, request.index, lambda: answered(reply))

        def answered(reply: FlowReply) -> None:
            self.record.spans.append(Span("generator", "generate", asked_s, self.now, request.context, request.index))
            self.tell("generator", "on_flow_reply", reply)

        self.hardware.flow_step(request.context, request.index, stepped)

    def _question(self, question: SaliencyQuestion) -> None:
        """Answer at once, but let a plan that is still to be made take its time."""
        if self.service.must_plan(question):
            self.hardware.plan(lambda _begin_s, _end_s: self._answer(question))
        else:
            self._answer(question)

    def _answer(self, question: SaliencyQuestion) -> None:
        reply = self.service.look_ahead(question)
        if reply is not None:
            self.hardware.send("answer", lambda: self.tell("monitor", "on_saliency", reply))
