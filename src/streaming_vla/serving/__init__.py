"""Serves a policy to other programs: a server with the messages of openpi, without ROS."""
