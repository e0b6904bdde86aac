"""Node `executor`: plays actions at the control rate and leaves the robot in a safe state when they end."""

from __future__ import annotations

import sys

from rclpy.duration import Duration
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from streaming_vla_interfaces import msg as wire

from streaming_vla.commands.types import WRITERS
from streaming_vla.commands.writer import CommandWriter
from streaming_vla.machines.events import Action, Command, CommandKind, Episode, ExecutionState, Mode, NodesAway
from streaming_vla.machines.executor import Executor, ExecutorEffect
from streaming_vla.machines.executor_options import PREVIEW, ExecutorOptions
from streaming_vla.machines.latency import LatencyTracker
from streaming_vla.machines.stops import KEPT_STOPPED, NO_ACTION, Speaker, cause, were_away
from streaming_vla.ros import messages
from streaming_vla.ros.base import AWAY, reliable
from streaming_vla.ros.machine import MachineNode
from streaming_vla.ros.policy_mismatch import policy_mismatch
from streaming_vla.ros.spin import run
from streaming_vla.ros.topics import AWAY_TOPIC

DRY_RUN = "dry run: commands go to 'command_preview' only, the robot is not moved"
STATE_REPEATED_S = 0.5  # for nodes that were not connected yet when the mode changed
STOP_SENT_WITHIN = Duration(seconds=0.2)
# drivers of an arm and its gripper may send at the same time: with a depth of 1 one would always hide the other
JOINTS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
_MOVING = (Mode.PLAYING, Mode.HOLD, Mode.DECELERATE)
_STAGES = {Mode.PLAYING: "execute", Mode.HOLD: "hold", Mode.DECELERATE: "hold"}


class ExecutorNode(MachineNode[ExecutorOptions, Executor]):
    """Waits for nobody: each tick plays what is there or holds."""

    def __init__(self) -> None:
        super().__init__("executor", ExecutorOptions)
        self._shown: tuple[ExecutionState, float] | None = None

    def configure(self) -> None:
        """Make the command type and connect to the generator and the robot."""
        self._layout = self.options.layout
        self._writer = self._new_writer()
        # in a dry run nothing in this process could move the robot
        end = PREVIEW if self.options.dry_run else ""
        commands = f"command{end}" if end else self.options.command_topic
        self._commands = self.create_publisher(self._writer.message_type, commands, reliable(10))
        self._rest = None
        if self._writer.has_rest:
            self._rest = self.create_publisher(Float64MultiArray, f"gripper_command{end}", reliable(10))
        self._states = self.create_publisher(wire.ExecutionState, "execution_state", reliable(50))
        self.listen_to_episode()
        self.listen(wire.NodesAway, AWAY_TOPIC, messages.nodes_away_from, self._on_nodes_away, AWAY)
        self.listen(wire.Context, "context", self._mismatch_from, self._on_policy, reliable(10))
        self.listen(wire.Action, "action", messages.action_from, self._on_action, reliable(50))
        self.listen(JointState, self.options.joint_states_topic, _positions, self._on_joints, JOINTS)

    def make(self) -> Executor:
        """Begin in mode idle; an episode that still runs is taken up again, whatever ended the motion before."""
        return Executor(self._layout, self.options)

    def activate(self) -> None:
        """Begin, before others if they let it."""
        super().activate()
        self._mismatch = ""
        self._writer = self._new_writer()  # anew: what was measured before says nothing of the robot of now
        self._lateness = LatencyTracker(warm_up=0)
        self._speaker = Speaker()
        self._said_s = self.now()
        if self.options.dry_run:
            self.get_logger().warning(DRY_RUN)
        self.raise_priority(self.options.realtime_priority)

    def deactivate(self) -> None:
        """Command a stop to a robot that is being moved, and see that it leaves this process."""
        self.dispatch(Executor.stop)
        for publisher in (self._commands, self._rest):
            if publisher is not None:
                publisher.wait_for_all_acked(STOP_SENT_WITHIN)

    def update(self, options: ExecutorOptions) -> None:
        """Take new limits, times and leads at once."""
        super().update(options)
        if self.active:
            self._writer.options = options

    def on_episode(self, episode: Episode) -> None:
        """Begin the episode or hold at its end."""
        before = self.machine.state(self.now()).episode
        self.execute(self.machine.on_episode(episode, self.now()))
        if self.machine.state(self.now()).episode != before:
            self._writer.begin()

    def deadline(self) -> float | None:
        """When the next action begins, the next rung of the ladder is due, or the state has to be said again."""
        if not self.active:
            return None
        repeat_s, due_s = self._said_s + STATE_REPEATED_S, self.machine.deadline()
        return repeat_s if due_s is None else min(due_s, repeat_s)

    def tick(self) -> None:
        """Play or hold; repeat the state."""
        now, due_s = self.now(), self.machine.deadline()
        if due_s is not None and now >= due_s:
            self._lateness.add(now - due_s)
            self.execute(self.machine.poll(now))
        elif now >= self._said_s + STATE_REPEATED_S:
            self._say(self.machine.state(now))

    def report(self) -> tuple[str, dict[str, object]]:
        """Mode, queue, and how late the ticks are."""
        state = self.machine.state(self.now())
        lateness = self._lateness.summary()
        figures: dict[str, object] = {
            "mode": state.mode.name.lower(),
            "dry_run": "yes" if state.dry_run else "no",
            "queue_depth": state.queue_depth,
            "executed": state.executed,
            "held_s": state.held_s,
            "starved_s": state.starved_s,
            "hand_overs": state.hand_overs,
            "ticks": lateness.count,
            "tick_late_p50_ms": 1e3 * lateness.p50_s,
            "tick_late_p99_ms": 1e3 * lateness.p99_s,
            "tick_late_max_ms": 1e3 * lateness.max_s,
        }
        return self._mismatch or self._hindered(state.mode) or (DRY_RUN if state.dry_run else ""), {
            **figures,
            **self.machine.counters.as_dict(),
            **self._writer.clamped,
        }

    def failed(self) -> str:
        """Say that the ladder has ended."""
        state = self.machine.state(self.now())
        if state.mode is not Mode.ERROR:
            return ""
        why = KEPT_STOPPED if self.machine.kept_stopped else cause(state)
        return f"the robot was stopped, {why}: {self._after_error}"

    @property
    def _after_error(self) -> str:
        return "it moves again when actions come" if self.options.resume_after_error else "start a new episode"

    def _hindered(self, mode: Mode) -> str:
        """Return why the robot does not move in an episode, empty when it does."""
        silence = self._silence()
        if silence and mode in (Mode.WAITING, Mode.HOLD, Mode.DECELERATE):
            return f"{silence}: the robot is not moved"
        if mode in (Mode.HOLD, Mode.DECELERATE) and self.machine.waited_for:
            return f"{were_away(self.machine.waited_for)}: the robot is held"
        return f"{NO_ACTION}: the robot is held" if mode in (Mode.HOLD, Mode.DECELERATE) else ""

    def _silence(self) -> str:
        """Return what is not heard of the robot, empty when it is heard."""
        if not self.machine.robot_silent(self.now()):
            return ""
        of = f" of {', '.join(unheard)}" if (unheard := self._writer.unheard()) else ""
        return f"no joint states{of} on '{self.resolve_topic_name(self.options.joint_states_topic)}'"

    def _new_writer(self) -> CommandWriter:
        return WRITERS[self.options.command_type](self.options)

    def _mismatch_from(self, context: wire.Context) -> str:
        return policy_mismatch(self.options, context)

    def _on_policy(self, mismatch: str) -> None:
        self._mismatch = mismatch

    def _on_action(self, action: Action) -> None:
        if self._mismatch:
            self.machine.reject("other_policy")
            self.get_logger().warning(self._mismatch, throttle_duration_sec=1.0)
        else:
            self.dispatch(Executor.on_action, action)

    def _on_joints(self, positions: dict[str, float]) -> None:
        now = self.now()
        if self.machine.robot_silent(now):
            self._writer.lose()
        missing = self._writer.measure(positions)
        if missing:  # a robot that cannot be commanded does not count as alive
            self.refuse("joints_missing", missing)
        elif self._writer.heard():  # a gripper alone does not show that the arm lives
            self.execute(self.machine.on_robot_state(now, self._writer.measured()))

    def _on_nodes_away(self, told: NodesAway) -> None:
        away = self.machine.away
        known = away.names
        self.dispatch(Executor.on_nodes_away, told)
        if set(away.names) - set(known) and self.machine.state(self.now()).mode in _MOVING:
            names, verb = " and ".join(away.names), "is" if len(away.names) == 1 else "are"
            self.get_logger().warning(
                f"{names} {verb} away: without actions the robot is held for at most {away.hold_s(self.options):g} s, "
                "and moves again when they come"
            )

    def execute(self, effects: list[ExecutorEffect]) -> None:
        """Command the robot, publish the state."""
        for effect in effects:
            if isinstance(effect, Command):
                self._command(effect)
            else:
                self._say(effect)
                self._show(effect)
                self._speak(effect)

    def _command(self, command: Command) -> None:
        stamp = self.stamp()
        if self.machine.robot_silent(self.now()):
            self._writer.lose()
        try:
            message = self._writer.write(command, stamp)
        except ValueError as error:
            self.refuse("command_not_expressible", str(error))
            return
        self._commands.publish(message)
        sent = self._writer.sent()
        if command.kind is not CommandKind.STOP and sent is not None:
            self.machine.on_told(sent)
        if self._rest is not None:
            self._rest.publish(self._writer.rest(command))

    def _say(self, state: ExecutionState) -> None:
        self._said_s = self.now()
        self._states.publish(messages.execution_state_to(state, self.session, self.stamp()))

    def _speak(self, state: ExecutionState) -> None:
        """Tell the operator of holds and stops; the robot has its command already."""
        refused = {name: count for name, count in self.machine.counters.as_dict().items() if name.startswith("action_")}
        why = KEPT_STOPPED if self.machine.kept_stopped else self._silence() or self._mismatch
        said = self._speaker.on_state(state, refused, why, self.now(), self.machine.waited_for)
        if said is not None:
            self.say(said)

    def _show(self, state: ExecutionState) -> None:
        """Put the piece of work that `state` ends on the timeline."""
        now = self.now()
        if self._shown is not None:
            before, begin_s = self._shown
            if before.mode in _STAGES:
                self.span(_STAGES[before.mode], begin_s, now, before.episode, before.context, before.index)
        self._shown = (state, now)


def _positions(message: JointState) -> dict[str, float]:
    if message.position and len(message.position) != len(message.name):
        raise ValueError(f"{len(message.position)} positions for {len(message.name)} joints")
    if len(set(message.name)) != len(message.name):
        raise ValueError(f"a joint stands twice in {', '.join(message.name)}")
    return dict(zip(message.name, message.position, strict=False))


def main() -> None:
    """Entry point of the process."""
    sys.exit(run(ExecutorNode, shared_memory=False))  # no other process may stop the robot's commands


if __name__ == "__main__":
    main()
