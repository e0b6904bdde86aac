"""LeRobot checkpoints (SmolVLA, pi0, pi0.5, ACT) and StreamingVLA's weights without lerobot: torch, transformers."""
