"""The published StreamingVLA weights: action flow matching on pi0.5, and its observation predictor."""
