"""The parameters of every node: declared once, with description, unit, range and default."""
