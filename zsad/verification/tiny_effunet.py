"""Deterministic weights of an EfficientNet with a U-Net decoder, by the rules of ``tiny_clip``: fixed by seed and name.

The network is of its published size, since the authors' code fixes the channels; the settings of the fixture hold its names and
shapes. Weights are scaled so that activations stay of order one through 32 blocks and five of the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from zsad.verification.tiny_clip import unit_noise

__all__ = ["effunet_state_dict"]

GAINS = {  # standard deviation times sqrt(inputs), by the first of these parts that a name has; else 1
    "_conv_stem.": 3.0,
    "_expand_conv.": 1.0,
    "_depthwise_conv.": 1.6,
    "_project_conv.": 3.0,
    "_se_reduce.": 1.5,
    "_se_expand.": 1.5,
    "_conv_head.": 1.0,
    ".attention.cSE.": 1.5,
    ".attention.sSE.": 1.5,
    ".conv1.0.": 1.5,
    ".conv2.0.": 1.5,
    "mask_head.": 1.2,
}


def _rule(name: str, shape: Sequence[int]) -> tuple[float, float]:
    """Standard deviation and mean of a tensor."""
    if name.endswith(("running_mean", "running_var")):
        return (0.15, 1.0) if name.endswith("var") else (0.1, 0.0)
    if len(shape) == 1:
        return (0.1, 0.6 if "._bn2." in name else 1.0) if name.endswith(".weight") else (0.1, 0.0)
    inputs = math.sqrt(math.prod(shape[1:]))
    if "dimensionality_reduction" in name:  # the product of a place with itself is near 8
        return math.sqrt(8.0 / shape[0]) / inputs, 0.0
    return next((gain for part, gain in GAINS.items() if part in name), 1.0) / inputs, 0.0


def effunet_state_dict(seed: int, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The state dict of these names and shapes: float32 numbers that float16 holds; counters are int64 zeros."""
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros(tuple(shape), dtype=torch.int64)
            continue
        std, mean = _rule(name, shape)
        values = mean + std * unit_noise(seed, f"effunet/{name}", shape)
        state[name] = torch.from_numpy(values.astype(np.float16).astype(np.float32))
    return state
