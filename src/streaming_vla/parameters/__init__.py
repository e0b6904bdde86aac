"""Parameter files: the options of every node as ROS reads them."""
