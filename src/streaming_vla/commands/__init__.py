"""The robot's side of the wire: command message types and the robot's state."""
