"""EfficientNet-B4 (Tan and Le, ICML 2019) up to its last stage, as efficientnet-pytorch 0.6.3 computes it.

Strided layers have TensorFlow's "same" padding: 3 x 3 ones a row at the end, 5 x 5 ones one before and two behind. Version 0.7
of that package pads the seventh block otherwise, which moves MetaUAS's mask by up to 0.87.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from zsad.backbones.compact import SameConv

__all__ = ["CHANNELS", "EfficientNetB4"]

EPS = 1e-3  # of batch norm, as in TensorFlow
STEM = 48
# per stage: kernel, stride of the first block, expansion, channels, blocks
STAGES = (
    (3, 1, 1, 24, 2),
    (3, 2, 6, 32, 4),
    (5, 2, 6, 56, 4),
    (3, 2, 6, 112, 6),
    (5, 1, 6, 160, 6),
    (5, 2, 6, 272, 8),
    (3, 1, 6, 448, 2),
)
CHANNELS = (48, 32, 56, 160, 448)  # of levels 1 to 5, whose strides are 2 to 32: the stem, and the last stages of their strides
ENDS = (1, 2, 4, 6)  # stages whose output is a level: 32, 56, 160, 448 channels


class Block(nn.Module):
    """Expand, depthwise, squeeze and excite, project; added to the input where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide, squeezed = inputs * expansion, max(1, inputs // 4)
        if expansion > 1:
            self.expand, self.norm0 = SameConv(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide, eps=EPS)
        self.depthwise = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self.norm1 = nn.BatchNorm2d(wide, eps=EPS)
        self.reduce, self.excite = nn.Conv2d(wide, squeezed, 1), nn.Conv2d(squeezed, wide, 1)
        self.project, self.norm2 = SameConv(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs, eps=EPS)
        self.adds, self.expands = stride == 1 and inputs == outputs, expansion > 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h / stride, w / stride)."""
        wide = F.silu(self.norm0(self.expand(x))) if self.expands else x
        wide = F.silu(self.norm1(self.depthwise(wide)))
        gate = self.excite(F.silu(self.reduce(wide.mean(dim=(2, 3), keepdim=True)))).sigmoid()
        out: Tensor = self.norm2(self.project(gate * wide))
        return x + out if self.adds else out


class EfficientNetB4(nn.Module):
    """(B, 3, H, W), sides that 32 divides, -> five levels of features (B, CHANNELS[i], H / 2^(i + 1), W / 2^(i + 1))."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = SameConv(3, STEM, 3, 2, bias=False), nn.BatchNorm2d(STEM, eps=EPS)
        blocks, ends, inputs = [], [], STEM
        for kernel, first, expansion, outputs, count in STAGES:
            for number in range(count):
                blocks.append(Block(inputs, outputs, kernel, first if number == 0 else 1, expansion))
                inputs = outputs
            ends.append(len(blocks))
        self.blocks = nn.ModuleList(blocks)
        self.ends = frozenset(ends[stage] for stage in ENDS)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The levels, fine ones first."""
        x = F.silu(self.norm0(self.stem(x)))
        levels = [x]
        for number, block in enumerate(self.blocks, 1):
            x = block(x)
            if number in self.ends:
                levels.append(x)
        return levels
