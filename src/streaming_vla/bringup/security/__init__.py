"""Who may say and hear what: the suite's ends in the ROS graph, and the policies of SROS2 that allow nothing else."""
