"""Lets the policy carry out one instruction and says what came of it: execute_instruction.py "open the drawer" 60."""

import sys

import rclpy
from rclpy.action import ActionClient
from rclpy.node import Node
from streaming_vla_interfaces.action import ExecuteInstruction
from streaming_vla_interfaces.msg import ExecutionState

PHASES = {getattr(ExecutionState, name): name[5:].lower() for name in dir(ExecutionState) if name.startswith("MODE_")}


def main(instruction: str, time_limit_s: float) -> int:
    """Return the exit code of the process: 0 when the robot's own check says that it is done."""
    rclpy.init()
    node = Node("mission")
    client = ActionClient(node, ExecuteInstruction, "execute_instruction")
    phase = None

    def on_feedback(message: ExecuteInstruction.Impl.FeedbackMessage) -> None:
        nonlocal phase
        feedback = message.feedback
        if feedback.phase != phase:
            phase = feedback.phase
            print(f"{PHASES[phase]}: {feedback.executed} actions, held for {feedback.held_s:.1f} s", flush=True)

    if not client.wait_for_server(timeout_sec=10.0):
        print("nobody serves execute_instruction: is the suite active?")
        return 1
    goal = ExecuteInstruction.Goal(instruction=instruction, time_limit_s=time_limit_s)
    sent = client.send_goal_async(goal, feedback_callback=on_feedback)
    rclpy.spin_until_future_complete(node, sent)
    handle = sent.result()
    if not handle.accepted:
        print("rejected: an episode runs already, or the monitor is not active; its log says which")
        return 1
    done = handle.get_result_async()
    try:
        rclpy.spin_until_future_complete(node, done)
    except KeyboardInterrupt:
        handle.cancel_goal_async()  # the robot is stopped under control; the result comes when it stands
        rclpy.spin_until_future_complete(node, done)
    result = done.result().result
    print(f"{result.reason} ({result.executed} actions, {result.duration_s:.1f} s)")
    return 0 if result.ended == ExecuteInstruction.Result.ENDED_SUCCESS else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
