"""What a trained network is worth: curves, calibration, baselines, doubtful labels, heat maps, rankings."""
