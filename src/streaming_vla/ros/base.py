"""What every node of the suite has: checked parameters, lifecycle, episode, diagnostics and spans."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidTopicNameException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from streaming_vla_interfaces import msg as wire

from streaming_vla.machines.episodes import DROPPED, CurrentEpisode
from streaming_vla.machines.events import Episode
from streaming_vla.machines.stops import Level, Said
from streaming_vla.options.shared import NodeOptions
from streaming_vla.options.texts import cut
from streaming_vla.ros import messages
from streaming_vla.ros.declare import ConfigError, Declared, StartError, located
from streaming_vla.ros.followed_clock import FollowedClock
from streaming_vla.ros.guard import guard_services
from streaming_vla.ros.priority import raise_priority
from streaming_vla.ros.topics import name_problem

__all__ = ["AWAY", "BEST_EFFORT", "LATCHED", "SPANS", "ConfigError", "StartError", "SuiteNode", "reliable"]

T = TypeVar("T")
OptionsT = TypeVar("OptionsT", bound=NodeOptions)

LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# latched by each supervisor, of which there may be one per machine
AWAY = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
SPANS = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
_DIAGNOSTICS_PERIOD_S = 1.0


def reliable(depth: int) -> QoSProfile:
    """Return a reliable, volatile profile."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)


class SuiteNode(LifecycleNode, Generic[OptionsT]):  # type: ignore[misc]
    """A lifecycle node with checked options.

    A subclass overrides the hooks `configure`, `activate`, `deactivate`, `cleanup`, `update`, `deadline`, `tick`,
    `handle_responses`, `report` and `failed`. A hook that raises ValueError refuses the transition or the parameter
    with that sentence.

    Args:
        name: of the node.
        kind: of its options, which are its parameters.

    Raises:
        ConfigError: a parameter that does not exist or is not allowed.
    """

    follows_clock = True  # whether a published clock is its own; else it lives in the time of the processes
    takes_raw = False  # whether it subscribes to serialized messages (see executors.make_spinner)

    def __init__(self, name: str, kind: type[OptionsT]) -> None:
        # rclpy's own refusal of an undeclared parameter does not name it; `declare` refuses it instead
        super().__init__(name, allow_undeclared_parameters=True)
        self.session: str = self.get_namespace()
        self.active = False
        self.episode: Episode | None = None
        self._current = CurrentEpisode()
        self.refusals: Counter[str] = Counter()
        self._failure = ""
        self._misconfigured = False  # the newest failure is one of the configuration
        self._starting = False
        self._made: list[tuple[Callable[[Any], object], Any]] = []
        self._declared = Declared(self, kind, self.update, self._in_episode)
        guard_services(self, self.refuse)
        self._spans = self.create_publisher(wire.StageSpan, "spans", SPANS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", reliable(10))
        self._time = FollowedClock(time.monotonic())
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # a published clock may stand still
        self.create_timer(_DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=steady)

    # hooks

    def configure(self) -> None:
        """Check everything and create publishers, subscriptions and services."""

    def activate(self) -> None:
        """Begin: make the state machine."""

    def deactivate(self) -> None:
        """End: leave the robot and the other nodes in a safe state."""

    def cleanup(self) -> None:
        """Remove what `configure` has made, publishers, subscriptions and services left out."""

    def on_episode(self, episode: Episode) -> None:
        """Take the episode that the suite works on; called while active only."""

    def update(self, options: OptionsT) -> None:
        """Take new values of live parameters."""

    def deadline(self) -> float | None:
        """Return when `tick` is due, seconds as `now` tells them, or None."""
        return None

    def tick(self) -> None:
        """Do what is due."""

    def handle_responses(self) -> None:
        """Take up responses of services that have come; called after every callback.

        A future's own callback would wait for another round of the executor.
        """

    def report(self) -> tuple[str, dict[str, object]]:
        """Return what is wrong, empty when nothing is, and the key figures; a warning in /diagnostics."""
        return "", {}

    def failed(self) -> str:
        """Return why nothing goes on until somebody acts, empty when it does; an error in /diagnostics."""
        return ""

    # for subclasses

    @property
    def options(self) -> OptionsT:
        """The options as they are now."""
        return self._declared.options

    def now(self) -> float:
        """Return seconds that never go back: monotonic, with `use_sim_time` those of the published clock."""
        clock = self.get_clock()
        told_s = 1e-9 * clock.now().nanoseconds if self.follows_clock and clock.ros_time_is_active else None
        return self._time.read(told_s, time.monotonic())

    def until(self, time_s: float) -> float:
        """Return in how many seconds `now` tells `time_s`; infinity: not before a published clock ticks."""
        self.now()
        return self._time.until(time_s, time.monotonic())

    def stamp(self, at_s: float | None = None) -> Any:
        """Return the ROS time of a time of `now`, builtin_interfaces/Time; None is the present."""
        clock = self.get_clock()  # whose time is the system's, told faster, unless somebody publishes one
        nanoseconds = clock.now().nanoseconds if clock.ros_time_is_active else time.time_ns()
        if at_s is not None:
            nanoseconds -= round((self.now() - at_s) * 1e9)
        seconds, rest = divmod(max(0, nanoseconds), 10**9)  # a simulated clock begins at 0, again and again
        return Time(sec=seconds, nanosec=rest)

    def listen(
        self,
        message_type: type,
        topic: str,
        convert: Callable[[Any], T],
        handle: Callable[[T], None],
        qos: QoSProfile,
        session: str = "",
        on: Node | None = None,
    ) -> None:
        """Subscribe; `handle` gets what `convert` makes of a message while the node is active.

        Messages of another session than `session` (empty: the node's own) are dropped, and so are those for which
        `convert` raises ValueError. With `on` the callback is run by whoever spins that node.

        Raises:
            ValueError: `topic` is no name of a topic.
        """
        session = session or self.session

        def receive(message: Any) -> None:
            if not self.active:
                return
            if getattr(message, "session", session) != session:
                self.refusals["other_session"] += 1
                return
            try:
                value = convert(message)
            except ValueError as error:
                self.refuse(f"malformed_{topic.rsplit('/', 1)[-1]}", f"message on '{topic}' dropped: {cut(str(error))}")
                return
            handle(value)

        try:
            if on is None:
                self.create_subscription(message_type, topic, receive, qos)
            else:
                on.create_subscription(message_type, self.resolve_topic_name(topic), receive, qos)
        except InvalidTopicNameException as error:
            raise ValueError(name_problem(topic) or str(error)) from error

    def serve(self, service_type: type, name: str, answer: Callable[[Any, Any], None]) -> None:
        """Offer a service; `answer` fills in the response while the node is active, else it says that it is not."""

        def respond(request: Any, response: Any) -> Any:
            if self.active:
                answer(request, response)
            else:
                reason = "message" if hasattr(response, "message") else "reason"  # as std_srvs calls it
                setattr(response, reason, f"{self.get_name()} is not active: activate it first")
            return response

        self.create_service(service_type, name, respond)

    def listen_to_episode(self) -> None:
        """Subscribe to the latched episode, remembered while the node is inactive.

        Call it before `listen`: of messages that are there at the same time, ROS hands over those of the older
        subscription first, and everything else belongs to an episode.
        """
        self.create_subscription(wire.Episode, "episode", self._receive_episode, LATCHED)

    def refuse(self, reason: str, sentence: str) -> None:
        """Count a refusal and say it, at most once a second."""
        self.refusals[reason] += 1
        self.get_logger().warning(sentence, throttle_duration_sec=1.0)

    def say(self, said: Said) -> None:
        """Tell the operator a sentence of a machine."""
        if said.level is Level.ERROR:  # a call each: rclpy lets one place log at one level only
            self.get_logger().error(said.sentence)
        elif said.level is Level.WARN:
            self.get_logger().warning(said.sentence)
        else:
            self.get_logger().info(said.sentence)

    def span(self, stage: str, begin_s: float, end_s: float, episode: int, sequence: int, index: int = -1) -> None:
        """Publish a piece of work; the times are those of `now`."""
        span = wire.StageSpan(session=self.session, node=self.get_name(), stage=stage, index=index)
        span.begin, span.end = self.stamp(begin_s), self.stamp(end_s)
        span.episode, span.sequence = episode, max(0, sequence)
        self._spans.publish(span)

    @property
    def life(self) -> str:
        """The state of the node's life, as ROS names it; active only when everything has been handed over."""
        state: str = self._state_machine.current_state[1]
        return state

    def raise_priority(self, priority: int) -> bool:
        """Ask for a real-time priority, and return whether it is there; to be called when every thread is there."""
        advice = raise_priority(priority)
        if advice:
            self.get_logger().info(advice)
        return bool(priority) and not advice

    # life

    def start(self) -> None:
        """Configure and activate when parameter `autostart` says so.

        Raises:
            ConfigError: a hook refused the configuration; the message is its sentence.
            StartError: a hook failed otherwise.
        """
        if not self.options.autostart:
            return
        self._starting = True
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                sentence = self._failure or f"node '{self.get_name()}' cannot be activated"
                if self._misconfigured:
                    raise ConfigError(sentence)
                raise StartError(sentence)
        self._starting = False

    def stop(self) -> None:
        """Deactivate before the process ends."""
        if self.active:
            self.trigger_deactivate()
        self.cleanup()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle transition: run hook `configure`."""
        self._failure = ""
        before = {id(entity) for _, entity in self._entities()}
        result = self._transition(self.configure)
        self._made = [(destroy, entity) for destroy, entity in self._entities() if id(entity) not in before]
        if result != TransitionCallbackReturn.SUCCESS:
            self.on_cleanup(state)
        return result

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle transition: run hook `activate`, then hand over the episode that is known."""
        self._failure = ""
        result = self._transition(self.activate)
        if result != TransitionCallbackReturn.SUCCESS:
            return result
        self.active = True
        result = self._transition(self._hand_over_episode)
        if result != TransitionCallbackReturn.SUCCESS:
            self.on_deactivate(state)
        else:
            self.get_logger().info("active")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle transition: run hook `deactivate`."""
        result = self._transition(self.deactivate)
        self.active = False
        return result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle transition: remove what hook `configure` has made."""
        self.cleanup()
        for destroy, entity in self._made:
            destroy(entity)
        self._made = []
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lifecycle transition: deactivate first, so that the robot is stopped."""
        return self.on_deactivate(state) if self.active else TransitionCallbackReturn.SUCCESS

    def _in_episode(self) -> bool:
        return self.active and self.episode is not None and self.episode.active

    def _hand_over_episode(self) -> None:
        if self.episode is not None:
            self.on_episode(self.episode)

    def _transition(self, hook: Callable[[], None]) -> TransitionCallbackReturn:
        # rclpy hides an exception of a transition; a refusal must reach the operator
        try:
            hook()
        except Exception as error:
            self._failure = f"node '{self.get_name()}': {' '.join(str(error).split()) or type(error).__name__}"
            self._misconfigured = isinstance(error, ValueError)
            if self._misconfigured:
                self._failure = located(self._failure, self, self.options.declared)
            if not isinstance(error, ValueError | RuntimeError | OSError | MemoryError):
                traceback.print_exc()  # no refusal but a fault of this code
            if not self._starting:  # else the process ends with this sentence
                self.get_logger().error(self._failure)
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _entities(self) -> list[tuple[Callable[[Any], object], Any]]:
        return [
            *((self.destroy_publisher, publisher) for publisher in self.publishers),
            *((self.destroy_subscription, subscription) for subscription in self.subscriptions),
            *((self.destroy_client, client) for client in self.clients),
            *((self.destroy_service, service) for service in self.services),
        ]

    def _receive_episode(self, message: wire.Episode) -> None:
        if message.session != self.session:
            self.refusals["other_session"] += 1
            return
        episode = messages.episode_from(message)
        change = self._current.take(episode)  # as the machines do, which forget on deactivation
        if change in DROPPED:
            known = f"episode {self._current.number} is the newest that is known"
            self.refuse(DROPPED[change], f"message on 'episode' dropped: it is of episode {episode.number}, {known}")
            return
        self.episode = episode
        if self.active:
            self.on_episode(self.episode)

    def _publish_diagnostics(self) -> None:
        problem, figures = self.report() if self.active else ("", {})
        state = "active" if self.active else "inactive"
        status = DiagnosticStatus(name=self.get_fully_qualified_name(), hardware_id=self.session)
        failure = self.failed() if self.active else self._failure
        status.level = DiagnosticStatus.WARN if problem else DiagnosticStatus.OK
        if failure:
            status.level = DiagnosticStatus.ERROR
        status.message = failure or problem or state
        for key, value in {"state": state, **figures, **self.refusals}.items():
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            status.values.append(KeyValue(key=key, value=text))
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.stamp()
        self._diagnostics.publish(array)
