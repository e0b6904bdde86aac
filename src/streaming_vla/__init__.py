"""A vision-language-action policy as a stream on ROS 2: observe, generate and execute at the same time."""
