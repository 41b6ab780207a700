"""One optimizer step over micro-batches and processes, and the state that the modules are in meanwhile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.training.setup import named_parameters, trainable_parameters
from zsad.types import Batch, Context, Schedule, each_tensor

__all__ = ["Contexts", "average_buffers", "backward", "learning", "step", "to_device"]

MicroBatches = Sequence[tuple[Batch, float]]  # of one step, each with its share of the step's pictures


@contextmanager
def learning(detector: Detector) -> Iterator[None]:
    """``Detector.train_mode``'s modules in training mode; afterwards all in evaluation mode, and no parameter frozen."""
    try:
        for name in detector.train_mode:
            detector.get_submodule(name).train()
        yield
    finally:
        detector.eval()
        for _, parameter in named_parameters(detector):
            parameter.requires_grad_(True)


def average_buffers(detector: Detector, accelerator: Any) -> None:
    """Running statistics as the mean over all processes, each of which saw a part of the pictures."""
    if accelerator.num_processes > 1:
        for name in detector.train_mode:
            for buffer in detector.get_submodule(name).buffers():
                if buffer.is_floating_point():
                    buffer.copy_(accelerator.reduce(buffer, "mean"))


def to_device(batch: Batch, accelerator: Any) -> Batch:
    """The batch where the run computes."""
    moved: Batch = each_tensor(batch, lambda tensor: tensor.to(accelerator.device, non_blocking=True))
    return moved


class Contexts:
    """Contexts by category name. One without trainable parameters is prepared once, any other anew in every step."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.cached: dict[str, Context] = {}

    def __call__(self, name: str) -> Context:
        """The context of a category, with gradients where the method's text is trainable."""
        if name in self.cached:
            return self.cached[name]
        context = self.detector.prepare(name)
        if not any(one.requires_grad for one in (context.text, *context.extra.values()) if one is not None):
            self.cached[name] = context
        return context


def step(
    detector: Detector, batches: MicroBatches, contexts: Contexts, optimizer: Any, schedule: Schedule, accelerator: Any
) -> dict[str, float]:
    """One optimizer step; returns the named parts of its loss."""
    optimizer.zero_grad()
    losses = backward(detector, batches, contexts, accelerator)
    if schedule.clip is not None:
        accelerator.clip_grad_norm_(trainable_parameters(detector), schedule.clip)
    optimizer.step()
    return losses


def backward(detector: Detector, batches: MicroBatches, contexts: Contexts, accelerator: Any) -> dict[str, float]:
    """Loss and gradients of one step, summed over its micro-batches and over all processes.

    Every loss is a mean over pictures, so a micro-batch counts by its share of the step's pictures.

    Returns:
        The named parts of the loss of the whole step, the same in every process.

    Raises:
        UsageError: the loss is not finite; the weights are still those of the step before.
    """
    totals: dict[str, Tensor] = {}
    for batch, weight in batches:
        with accelerator.autocast():
            found = detector.loss(to_device(batch, accelerator), contexts(batch.names[0]))
        accelerator.backward(weight * torch.stack(list(found.values())).sum())
        for name, part in found.items():
            totals[name] = totals.get(name, torch.zeros_like(part)) + weight * part.detach()
    for parameter in trainable_parameters(detector):
        if parameter.grad is not None:  # the same parameters in every process
            parameter.grad = accelerator.reduce(parameter.grad, "sum")
    sums = accelerator.reduce(torch.stack(list(totals.values())).float(), "sum").tolist()
    losses = dict(zip(totals, sums, strict=True))
    if not all(map(math.isfinite, sums)):
        parts = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        raise UsageError(f"The loss of {detector.name} is not finite ({parts}). Lower lr, or train with precision='fp32'.")
    return losses
