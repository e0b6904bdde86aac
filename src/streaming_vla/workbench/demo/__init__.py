"""The demonstration: drives a running suite through scripted episodes and reports them."""
