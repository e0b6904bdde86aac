"""Simulated robots: Meta-World, its memory tasks and scripted experts."""
