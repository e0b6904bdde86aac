"""Data sets in the format of LeRobot: read (v2.1 and v3.0), written (v3.0), checked. No ROS, no torch."""
