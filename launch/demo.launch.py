"""Launches the suite with the simulated Meta-World robot; an episode begins by itself when a task is set."""

from launch import LaunchDescription

from streaming_vla.bringup.launching import description


def generate_launch_description() -> LaunchDescription:
    """Return the nodes of the suite and the simulated robot."""
    return description(simulated=True)
