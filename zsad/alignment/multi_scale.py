"""Patches of several layers in the joint space, by linear maps and by sums of convolutions of several shapes (FiLo's MMCI)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.alignment.blocks import is_exporting
from zsad.alignment.fast_convolution import SplitKernel, convolve, split_kernel

__all__ = ["MultiScaleConvolution", "PatchDecoders"]

SHAPES = ((1, 1), (3, 3), (5, 5), (7, 7), (1, 5), (5, 1))
WIDEST = 7


class MultiScaleConvolution(nn.Module):
    """Six convolutions with zero padding, summed. Their kernels lie in one of 7 x 7, so a single convolution computes them.

    Without gradients it is ``fast_convolution``'s, whose kernel is made anew only when a weight has changed.

    Args:
        inputs: channels of a patch.
        outputs: channels of the result.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.kernels = nn.ModuleDict({f"{h}{w}": nn.Conv2d(inputs, outputs, (h, w)) for h, w in SHAPES})
        self._kept: dict[str, tuple[object, SplitKernel, Tensor]] = {}  # state of the weights, and what was made of it

    def merged(self) -> tuple[Tensor, Tensor]:
        """The kernel (outputs, inputs, 7, 7) and the bias of the sum."""
        own = dict(self.kernels.named_parameters())
        weights = []
        for height, width in SHAPES:
            up, left = (WIDEST - height) // 2, (WIDEST - width) // 2
            weights.append(F.pad(own[f"{height}{width}.weight"], (left, left, up, up)))
        bias = torch.stack([own[f"{height}{width}.bias"] for height, width in SHAPES]).sum(dim=0)
        return functools.reduce(torch.add, weights), bias

    def forward(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, h * w, inputs) -> (B, h * w, outputs)."""
        if torch.is_grad_enabled():
            weight, bias = self.merged()
            return (
                F.conv2d(patches.transpose(1, 2).unflatten(2, grid), weight, bias, padding=WIDEST // 2)
                .flatten(2)
                .transpose(1, 2)
            )
        kernel, bias = self._split_once()
        return convolve(patches.unflatten(1, grid), kernel).flatten(1, 2) + bias

    def _split_once(self) -> tuple[SplitKernel, Tensor]:
        if is_exporting() and "kernel" in self._kept:  # by a pass before, with the same weights
            return self._kept["kernel"][1:]
        state = tuple((p.data_ptr(), 0 if p.is_inference() else p._version, p.dtype, p.device) for p in self.parameters())
        if "kernel" not in self._kept or self._kept["kernel"][0] != state:
            weight, bias = self.merged()
            self._kept["kernel"] = (state, split_kernel(weight), bias)
        return self._kept["kernel"][1:]


class PatchDecoders(nn.Module):
    """A linear map for each of some sets of patches, a ``MultiScaleConvolution`` for each of others.

    Args:
        inputs: channels of a patch.
        outputs: of the joint space.
        linear: sets that are mapped.
        convolved: sets that are convolved.
    """

    def __init__(self, inputs: int, outputs: int, linear: int, convolved: int) -> None:
        super().__init__()
        self.linear = nn.ModuleList([nn.Linear(inputs, outputs) for _ in range(linear)])
        self.convolved = nn.ModuleList([MultiScaleConvolution(inputs, outputs) for _ in range(convolved)])

    def forward(self, plain: Sequence[Tensor], local: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Sets of (B, h * w, inputs) to map and to convolve -> (linear + convolved, B, h * w, outputs)."""
        mapped = [layer(patches) for layer, patches in zip(self.linear, plain, strict=True)]
        mixed = [layer(patches, grid) for layer, patches in zip(self.convolved, local, strict=True)]
        return torch.stack(mapped + mixed)
