"""The trained part of the second tower: how likely a patch that differs from the rest of its picture is a defect.

It reads only what is left of a patch after its neighbours' weighted mean is taken away, and how novel it is: not what the
patch shows. A head that also sees the patch itself finds more of the synthetic defects that it is trained on and less of real
ones (``docs/embedded-default.md``). ``scripts/train_compact_second.py`` trains it.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.alignment.losses import dice, focal, top_mean
from zsad.common.assets import asset
from zsad.methods.compact.head import COVERED
from zsad.methods.compact.novelty import compare_within
from zsad.types import Tap
from zsad.weights.checkpoints import read_state_dict

__all__ = ["NOVELTY", "SecondHead", "second_head"]

WEIGHTS = "checkpoints/compact-vit-head.safetensors"
NOVELTY = (0.162, 0.070)  # mean and deviation within normal auxiliary pictures
CHANNELS, WIDTH = 384, 64
HIGHEST = 0.01  # part of the patches whose mean is the picture's logit in training


class SecondHead(nn.Module):
    """Residual and novelty of block 6 -> a logit per patch, 0 for even odds on synthetic defects."""

    def __init__(self) -> None:
        super().__init__()
        self.residual = nn.Conv2d(CHANNELS, WIDTH, 1)
        self.novelty = nn.Conv2d(2, WIDTH, 1, bias=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.out = nn.Conv2d(WIDTH, 1, 1)

    @staticmethod
    def compare(tap: Tap) -> tuple[Tensor, Tensor]:
        """Patches of length one (B, L, 384) -> novelty (B, h, w) in deviations, and residual (B, 384, h, w) of deviation 1."""
        patches = tap.patches.float().transpose(1, 2).unflatten(2, tap.grid)
        novel, residual = compare_within(patches)
        return (novel - NOVELTY[0]) / NOVELTY[1], residual * 2 * CHANNELS**0.5

    def forward(self, novel: Tensor, residual: Tensor) -> Tensor:
        """What ``compare`` gives -> logits (B, h, w)."""
        both = torch.stack([novel, novel - novel.mean((1, 2), keepdim=True)], 1)  # (B, 2, h, w)
        mixed = self.residual(residual) + self.novelty(both)
        logits: Tensor = self.out(F.gelu(self.norm(mixed.movedim(1, -1)).movedim(-1, 1)))
        return logits[:, 0]

    def loss(self, logits: Tensor, cells: Tensor, labels: Tensor) -> Tensor:
        """Focal and Dice on the cells, cross-entropy of the picture by its highest cells; weights of ``CompactHead.losses``.

        Args:
            logits: (B, h, w).
            cells: (B, h, w) defective part of each patch.
            labels: (B,) float, 1 anomalous.
        """
        target, anomalous = (cells >= COVERED).float(), logits.sigmoid()
        picture = F.binary_cross_entropy_with_logits(top_mean(logits, HIGHEST), labels)
        return 8 * focal(torch.stack([1 - anomalous, anomalous], 1), target) + 0.5 * dice(anomalous, target) + 0.3 * picture


@cache
def second_head(device: torch.device) -> SecondHead:
    """The head with the weights that ship, frozen; read once per device.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    with torch.inference_mode(False):
        head = SecondHead()
        head.load_state_dict(read_state_dict(asset(WEIGHTS)))
        return head.eval().requires_grad_(False).to(device)
