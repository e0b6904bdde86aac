"""Policies that lerobot itself computes, in an environment of its own."""
