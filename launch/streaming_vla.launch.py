"""Launches the suite for a real robot, whose own drivers (cameras, joints, controller) are launched elsewhere."""

from launch import LaunchDescription

from streaming_vla.bringup.launching import description


def generate_launch_description() -> LaunchDescription:
    """Return the nodes of the suite without the simulated robot."""
    return description(simulated=False)
