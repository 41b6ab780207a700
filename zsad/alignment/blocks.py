"""Large tensors in blocks, so that what is computed of them stays in the cache or in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["in_blocks", "is_exporting"]


def is_exporting() -> bool:
    """True while a graph is made of the code for another runtime, in which the number of pictures is not known yet."""
    asked = getattr(torch.compiler, "is_exporting", None)  # absent before torch 2.7, which cannot export either
    return bool(asked()) if asked is not None else False


def in_blocks(x: Tensor, size: int) -> Sequence[Tensor]:
    """Blocks of ``size`` rows along the first axis; while a graph is exported all of it, since a graph cannot count them."""
    return (x,) if is_exporting() else x.split(size)
