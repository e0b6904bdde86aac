"""What an option of a node is, and the options that several nodes share."""
