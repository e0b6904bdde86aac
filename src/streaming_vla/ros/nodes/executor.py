"""Node `executor`: plays actions at the control rate and leaves the robot in a safe state when they end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from rclpy.duration import Duration
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from streaming_vla_interfaces import msg as wire

from streaming_vla.commands.types import WRITERS
from streaming_vla.commands.writer import CommandOptions
from streaming_vla.machines.events import Action, Command, CommandKind, Episode, ExecutionState, Mode
from streaming_vla.machines.executor import Executor, ExecutorEffect, ExecutorOptions
from streaming_vla.machines.latency import LatencyTracker
from streaming_vla.machines.limits import Limits
from streaming_vla.ros import messages
from streaming_vla.ros.base import SuiteNode, reliable
from streaming_vla.ros.layout import action_layout, foreign_layout
from streaming_vla.ros.spin import run
from streaming_vla.ros.transport import avoid_shared_memory

STATE_REPEATED_S = 0.5  # for nodes that were not connected yet when the mode changed
STOP_SENT_WITHIN = Duration(seconds=0.2)
# drivers of an arm and its gripper may send at the same time: with a depth of 1 one would always hide the other
JOINTS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
_STAGES = {Mode.PLAYING: "execute", Mode.HOLD: "hold", Mode.DECELERATE: "hold"}


class ExecutorNode(SuiteNode):
    """Waits for nobody: each tick plays what is there or holds."""

    def __init__(self) -> None:
        super().__init__("executor")
        self._machine: Executor | None = None
        self._shown: tuple[ExecutionState, float] | None = None

    def configure(self) -> None:
        """Make the command type and connect to the generator and the robot."""
        values = self.values()
        self._options(values)
        self._layout = action_layout(values)
        self._writer = WRITERS[self.value("command_type")](self._command_options(values))
        self._commands = self.create_publisher(self._writer.message_type, "command", reliable(10))
        self._rest = None
        if self._writer.has_rest:
            self._rest = self.create_publisher(Float64MultiArray, "gripper_command", reliable(10))
        self._states = self.create_publisher(wire.ExecutionState, "execution_state", reliable(50))
        self.listen_to_episode()
        self.listen(wire.Context, "context", self._layout_from, self._on_layout, reliable(10))
        self.listen(wire.Action, "action", messages.action_from, self._on_action, reliable(50))
        self.listen(JointState, "joint_states", _positions, self._on_joints, JOINTS)

    def activate(self) -> None:
        """Begin in mode idle; an episode that still runs is taken up again, whatever ended the motion before."""
        self._foreign = ""
        values = self.values()  # some may have changed since `configure`
        # anew: what was measured before says nothing of the robot of now
        self._writer = WRITERS[self.value("command_type")](self._command_options(values))
        self._machine = Executor(self._layout, self._options(values))
        self._lateness = LatencyTracker(warm_up=0)
        self._said_s = time.monotonic()
        self.raise_priority()

    def deactivate(self) -> None:
        """Command a stop to a robot that is being moved, and see that it leaves this process."""
        if self._machine is None:
            return
        self._carry_out(self._machine.stop(time.monotonic()))
        for publisher in (self._commands, self._rest):
            if publisher is not None:
                publisher.wait_for_all_acked(STOP_SENT_WITHIN)
        self._machine = None

    def update(self, values: Mapping[str, Any]) -> None:
        """Take new limits, times and leads at once, or none of them."""
        options, command_options = self._options(values), self._command_options(values)
        if self._machine is not None:
            self._machine.update(options)
            self._writer.options = command_options

    def on_episode(self, episode: Episode) -> None:
        """Begin the episode or hold at its end."""
        if self._machine is None:
            return
        before = self._machine.state(time.monotonic()).episode
        self._carry_out(self._machine.on_episode(episode, time.monotonic()))
        if self._machine.state(time.monotonic()).episode != before:
            self._writer.begin()

    def deadline(self) -> float | None:
        """When the next action begins, the next rung of the ladder is due, or the state has to be said again."""
        if self._machine is None:
            return None
        repeat_s = self._said_s + STATE_REPEATED_S
        due_s = self._machine.deadline()
        return repeat_s if due_s is None else min(due_s, repeat_s)

    def tick(self) -> None:
        """Play or hold; repeat the state."""
        if self._machine is None:
            return
        now, due_s = time.monotonic(), self._machine.deadline()
        if due_s is not None and now >= due_s:
            self._lateness.add(now - due_s)
            self._carry_out(self._machine.poll(now))
        elif now >= self._said_s + STATE_REPEATED_S:
            self._say(self._machine.state(now))

    def report(self) -> tuple[str, dict[str, object]]:
        """Mode, queue, and how late the ticks are."""
        if self._machine is None:
            return "", {}
        state = self._machine.state(time.monotonic())
        lateness = self._lateness.summary()
        figures: dict[str, object] = {
            "mode": state.mode.name.lower(),
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
        return self._foreign or self._hindered(state.mode), {
            **figures,
            **self._machine.counters.as_dict(),
            **self._writer.clamped,
        }

    def failed(self) -> str:
        """Say that the ladder has ended."""
        if self._machine is None or self._machine.state(time.monotonic()).mode is not Mode.ERROR:
            return ""
        return "the robot was stopped, no action came in time: start a new episode"

    def _hindered(self, mode: Mode) -> str:
        """Return why the robot does not move in an episode, empty when it does."""
        silent = self._machine is not None and self._machine.robot_silent(time.monotonic())
        if silent and mode in (Mode.WAITING, Mode.HOLD, Mode.DECELERATE):
            of = f" of {', '.join(unheard)}" if (unheard := self._writer.unheard()) else ""
            return f"no joint states{of} on '{self.resolve_topic_name('joint_states')}': the robot is not moved"
        return "no action came in time: the robot is held" if mode in (Mode.HOLD, Mode.DECELERATE) else ""

    def _options(self, values: Mapping[str, Any]) -> ExecutorOptions:
        limits = Limits(velocity=values["velocity_limit"], jump=values["jump_limit"])
        limits.check(action_layout(values))
        start, lead = values["start_actions"], max(1, values["lead_actions"])
        if start > lead:
            raise ValueError(
                f"start_actions is {start}, but the generator sends only {lead} before the first motion, which then "
                "never begins: set lead_actions of generator, executor and saliency_monitor to at least as many"
            )
        return ExecutorOptions(
            control_period_s=values["control_period_s"],
            limits=limits,
            hold_s=values["hold_s"],
            decelerate_s=values["decelerate_s"],
            max_action_age_s=values["max_action_age_s"],
            robot_timeout_s=values["robot_timeout_s"],
            start_actions=values["start_actions"],
        )

    def _command_options(self, values: Mapping[str, Any]) -> CommandOptions:
        joints = values["joint_names"]
        return CommandOptions(
            layout=action_layout(values),
            scale=values["scale"],
            joint_names=values["action_names"] if joints == ("",) else joints,
            frame=values["command_frame"],
            period_s=values["control_period_s"],
            maximum_lead=values["maximum_lead"],
            keep_when_stopped=values["keep_when_stopped"],
        )

    def _layout_from(self, context: wire.Context) -> str:
        return foreign_layout(self._layout, context)

    def _on_layout(self, foreign: str) -> None:
        self._foreign = foreign

    def _on_action(self, action: Action) -> None:
        if self._machine is None:
            return
        if self._foreign:
            self._machine.reject("other_layout")
            self.get_logger().warning(self._foreign, throttle_duration_sec=1.0)
        else:
            self._carry_out(self._machine.on_action(action, time.monotonic()))

    def _on_joints(self, positions: dict[str, float]) -> None:
        now = time.monotonic()
        if self._machine is not None and self._machine.robot_silent(now):
            self._writer.lose()
        missing = self._writer.measure(positions)
        if missing:  # a robot that cannot be commanded does not count as alive
            self.refuse("joints_missing", missing)
        elif self._machine is not None and self._writer.heard():  # a gripper alone does not show that the arm lives
            self._carry_out(self._machine.on_robot_state(now, self._writer.measured()))

    def _carry_out(self, effects: list[ExecutorEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Command):
                self._command(effect)
            else:
                self._say(effect)
                self._show(effect)

    def _command(self, command: Command) -> None:
        stamp = self.stamp()
        if self._machine is not None and self._machine.robot_silent(time.monotonic()):
            self._writer.lose()
        try:
            message = self._writer.write(command, stamp)
        except ValueError as error:
            self.refuse("command_not_expressible", str(error))
            return
        self._commands.publish(message)
        sent = self._writer.sent()
        if command.kind is not CommandKind.STOP and sent is not None and self._machine is not None:
            self._machine.on_told(sent)
        if self._rest is not None:
            self._rest.publish(self._writer.rest(command))

    def _say(self, state: ExecutionState) -> None:
        self._said_s = time.monotonic()
        self._states.publish(messages.execution_state_to(state, self.session, self.stamp()))

    def _show(self, state: ExecutionState) -> None:
        """Put the piece of work that `state` ends on the timeline."""
        now = time.monotonic()
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
    avoid_shared_memory(os.environ)  # no other process may stop the robot's commands
    sys.exit(run(ExecutorNode))


if __name__ == "__main__":
    main()
