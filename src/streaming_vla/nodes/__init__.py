"""The ROS 2 nodes: thin shells that carry events between topics and the state machines."""
