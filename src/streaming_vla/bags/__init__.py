"""Recordings (rosbag2): written while the robot runs, read back however they ended. No rclpy here."""
