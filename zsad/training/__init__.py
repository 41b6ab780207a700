"""From annotated pictures to learned weights: ``zsad.train``."""

from zsad.training.loop import train

__all__ = ["train"]
