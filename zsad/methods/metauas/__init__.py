"""MetaUAS: network and detector."""

from zsad.methods.metauas.detector import MetaUAS

__all__ = ["MetaUAS"]
