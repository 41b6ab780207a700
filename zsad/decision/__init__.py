"""Decision rules: thresholds, conformal inference and calibration, which turn anomaly scores into verdicts."""
