"""Pure functions on tensors: similarity of patches and text, attention variants, windows, maps, losses."""
