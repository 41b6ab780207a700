"""Inference in the precision that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["inference"]


@contextmanager
def inference(device: torch.device) -> Iterator[None]:
    """``torch.inference_mode``, with float32 convolutions that are float32.

    cuDNN rounds what a float32 convolution reads to TF32, 10 bits, unless it is told not to: scores of the embedded default
    differ from the CPU's by 2e-3 of the largest then, and by less than 1e-4 without. Matrix products are exact by default.
    """
    cudnn = torch.backends.cudnn
    with torch.inference_mode():
        if device.type != "cuda":
            yield
            return
        kept = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
        with cudnn.flags(**kept, allow_tf32=False):
            yield
