"""The state machines of the suite. They have no clock, no ROS and no model: (event, now) in, effects out."""
