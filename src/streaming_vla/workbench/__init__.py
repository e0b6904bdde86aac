"""What is done off the robot: virtual clock, replay, reports, tuning, evaluation and the demonstration."""
