"""Robots that the suite can drive: the Meta-World simulation, its tasks, and command message types."""
