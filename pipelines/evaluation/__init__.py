"""What a model and a threshold are worth: scores on held-out pairs, calibration."""
