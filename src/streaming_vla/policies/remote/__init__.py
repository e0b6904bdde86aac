"""Policies that another machine computes: clients of openpi and GR00T servers, and what both ends of a wire share."""
