"""Exactly one file per node: thin shells around the state machines."""
