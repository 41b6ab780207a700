"""Views of a picture for an image score that is the mean over them: turned, shifted, mirrored, grey (AnoVL)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["VIEWS", "views_of"]

ANGLES = tuple(sign * k * math.pi / 16 for sign, ks in ((-1, (4, 3, 2, 1)), (1, (1, 2, 3, 4))) for k in ks)
SHIFTS = tuple((a * step, b * step) for step in (0.2, 0.1) for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1)))
LUMA = (0.299, 0.587, 0.114)
VIEWS = 1 + len(ANGLES) + len(SHIFTS) + 5  # how many there are


def views_of(image: Tensor) -> Tensor:
    """A preprocessed picture (3, S, S) -> its views (22, 3, S, S).

    In this order: itself; turned by -45 to 45 degrees in eight steps; shifted by a tenth and by a twentieth of its side in four
    directions; mirrored left to right; grey; turned counter-clockwise by 90, 180 and 270 degrees. What comes from outside is
    the reflected picture. Deng et al., arXiv 2308.15939.
    """
    turns = [[[math.cos(a), -math.sin(a), 0.0], [math.sin(a), math.cos(a), 0.0]] for a in ANGLES]
    shifts = [[[1.0, 0.0, a], [0.0, 1.0, b]] for a, b in SHIFTS]
    matrices = image.new_tensor(turns + shifts)  # (16, 2, 3)
    many = image.expand(len(matrices), *image.shape)
    grid = F.affine_grid(matrices, list(many.shape), align_corners=True)
    moved = F.grid_sample(many, grid, padding_mode="reflection", align_corners=True)
    grey = (image * image.new_tensor(LUMA)[:, None, None]).sum(dim=0, keepdim=True).expand_as(image)
    quarters = [image.rot90(k, (-2, -1)) for k in (1, 2, 3)]
    return torch.cat([image[None], moved, torch.stack([image.flip(-1), grey, *quarters])])
