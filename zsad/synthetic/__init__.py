"""Synthetic defects for training without annotated ones."""
