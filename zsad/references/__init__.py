"""Functions on reference patches: memory banks, coresets, mutual scoring, corrections."""
