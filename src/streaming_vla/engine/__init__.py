"""The inference engine: one policy, one KV session per robot, one worker thread. No ROS in here."""
