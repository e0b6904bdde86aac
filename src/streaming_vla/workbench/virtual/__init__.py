"""The suite's own state machines on a discrete-event clock."""
