"""Compares a policy with what LeRobot itself has computed: python -m streaming_vla.policies.lerobot.check DIR CASE."""
