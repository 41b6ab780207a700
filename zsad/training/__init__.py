"""Training a method on annotated pictures: ``zsad.train``."""

from zsad.training.loop import train

__all__ = ["train"]
