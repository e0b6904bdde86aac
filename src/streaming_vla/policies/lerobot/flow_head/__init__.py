"""Checkpoints of LeRobot that were trained here: a flow head (one action a step), or a chunk head with its facts."""
