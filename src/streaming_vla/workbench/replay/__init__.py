"""Replay of recorded bags through the suite on the virtual clock."""
