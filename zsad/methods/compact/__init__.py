"""The embedded default: head, memory and detector."""

from zsad.methods.compact.detector import Compact

__all__ = ["Compact"]
