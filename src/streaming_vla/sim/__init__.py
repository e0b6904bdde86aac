"""Simulated robots: Meta-World and its memory tasks, an SO-101 arm, and scripted experts for both."""

import os

# read when mujoco is first imported, whoever does that
os.environ.setdefault("MUJOCO_GL", "egl")
