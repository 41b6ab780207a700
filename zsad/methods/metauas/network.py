"""What MetaUAS puts on its encoder: soft alignment of a prompt's features with a picture's, and a U-Net decoder with scSE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.backbones.efficientnet import CHANNELS

__all__ = ["ALIGNED", "WIDTHS", "Alignment", "Decoder"]

ALIGNED = (5, 4, 3)  # levels, 1-based, in the order of the alignment layers: strides 32, 16, 8
WIDTHS = (256, 128, 64, 64, 48)  # of the decoder's blocks
SQUEEZE = 16


class Alignment(nn.Module):
    """The prompt's features at the places that look alike; one reduction for both sides, products without a scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 2, 1)

    def logits(self, query: Tensor, prompt: Tensor) -> Tensor:
        """(B, L, C) and (N, C) -> (B, L, N)."""
        weight = self.reduce.weight[:, :, 0, 0]
        reduced = [F.linear(rows, weight, self.reduce.bias) for rows in (query, prompt)]
        return reduced[0] @ reduced[1].T

    def forward(self, query: Tensor, prompt: Tensor) -> Tensor:
        """Weighted sums of the prompt's features as they are, (B, L, C)."""
        return self.logits(query, prompt).softmax(dim=-1) @ prompt


class Gates(nn.Module):
    """Concurrent channel and place gates (scSE, Roy et al. 2018), summed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.excite = (
            nn.Conv2d(channels, channels // SQUEEZE, 1),
            nn.Conv2d(channels // SQUEEZE, channels, 1),
        )
        self.place = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        channel = self.excite(F.relu(self.reduce(x.mean(dim=(2, 3), keepdim=True)))).sigmoid()
        return x * channel + x * self.place(x).sigmoid()


class DecoderBlock(nn.Module):
    """Twice the size by repetition, the skip beside it, two convolutions; gates before and behind where there is a skip."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs + skip, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.before = Gates(inputs + skip) if skip else nn.Identity()
        self.behind = Gates(outputs) if skip else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(B, C, h, w) and (B, S, 2h, 2w) -> (B, C', 2h, 2w)."""
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = self.before(x if skip is None else torch.cat([x, skip], dim=1))
        x = F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        out: Tensor = self.behind(x)
        return out


class Decoder(nn.Module):
    """From features of strides 32 to 2 to the picture's size."""

    def __init__(self) -> None:
        super().__init__()
        levels = [2 * width if level in ALIGNED else width for level, width in enumerate(CHANNELS, 1)][::-1]
        inputs, skips = [levels[0], *WIDTHS[:-1]], [*levels[1:], 0]
        self.blocks = nn.ModuleList([DecoderBlock(*sizes) for sizes in zip(inputs, skips, WIDTHS, strict=True)])
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels of strides 2 to 32 -> the output of every block, the last of the picture's size."""
        x, *skips = reversed(levels)
        found = []
        for block, skip in zip(self.blocks, [*skips, None], strict=True):
            x = block(x, skip)
            found.append(x)
        return found
