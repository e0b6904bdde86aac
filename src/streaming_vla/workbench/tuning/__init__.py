"""Search for parameters: calibration on the virtual clock and tuning on bags."""
