"""What the demo tells the nodes beside their parameter file."""

from __future__ import annotations

from streaming_vla.bringup import graph
from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.workbench.robots import SimulatedArm


def settings_for(
    robot: SimulatedArm, suite: SuiteOptions, profile: str = "", simulated_clock: bool = False, model: str = ""
) -> tuple[graph.Settings, float]:
    """Return the parameters per node beside those of the parameter file, and the control period in seconds.

    Args:
        suite: what the parameter file says.
        profile: latency profile, name or path; empty: none. A robot without a time of its own takes its period: a
            step of its environment lasts one control period, whatever that is.
        simulated_clock: the nodes follow the robot's clock; false: real time, which the robot may fall behind.
        model: of the inference node; empty: the file's.
    """
    # episodes are begun by the driver, not by a new instruction
    changed: dict[str, dict[str, graph.Setting]] = {
        "saliency_monitor": {"auto_start": False},
        "sim_robot": {"robot": robot.name},
        "inference": {},
    }
    for node, values in graph.SIMULATED_CLOCK.items() if simulated_clock else ():
        changed.setdefault(node, {}).update(values)
    if model:
        changed["inference"]["model"] = model
    period_s = suite.executor.control_period_s
    if profile:
        changed["inference"]["latency_profile"] = profile
    if robot.in_real_time:
        return changed, period_s
    if profile:
        period_s = find_profile(profile).control_period_s
        for node in ("executor", "generator", "saliency_monitor"):
            changed.setdefault(node, {})["control_period_s"] = period_s
        changed["executor"]["velocity_limit"] = suite.executor.at_period(period_s).velocity_limit
    changed["sim_robot"]["real_time_factor"] = robot.action_s / period_s
    return changed, period_s
