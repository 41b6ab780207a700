"""From scores to verdicts: thresholds, conformal quantiles, calibration."""
