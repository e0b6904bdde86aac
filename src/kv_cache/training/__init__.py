"""Training a gate by self-distillation: the frozen model with its full cache teaches itself with the compressed one."""
