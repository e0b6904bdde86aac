"""Demonstrations in the ROS graph: scripted experts drive the simulated robot while all of it is recorded."""
