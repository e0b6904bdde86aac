"""A simulated SO-101: six joints with absolute targets, three cubes on a table, two cameras."""
