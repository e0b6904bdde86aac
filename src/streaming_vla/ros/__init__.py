"""What the ROS nodes share: node base, message conversion, parameters, QoS."""
