"""Whether a pass is being recorded as a graph, in which no value decides a shape and ``len`` of a batch is a constant."""

from __future__ import annotations

import torch

__all__ = ["traced"]


def traced() -> bool:
    """True while ``torch.export`` records a pass; ``torch.compile`` counts as well in a torch that knows no difference."""
    found: bool = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()
    return found
