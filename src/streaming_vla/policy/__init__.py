"""The policy contract and the shipped compact VLA."""
