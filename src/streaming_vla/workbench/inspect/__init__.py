"""A report of a data set: what is in it, and what a training or another tool would stumble over."""
