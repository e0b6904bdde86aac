"""Writes the parameter file of a robot from what its graph and a policy say. No rclpy here."""
