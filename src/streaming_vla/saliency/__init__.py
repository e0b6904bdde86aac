"""Whether the pending actions are expected to change what the cameras see, and what follows from it."""
