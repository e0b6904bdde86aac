"""Trains LeRobot's VLAs on a data set of one's own: a flow head that streams, or LeRobot's own chunk head."""
