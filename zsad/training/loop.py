"""The training loop for annotated pictures of other categories: ``train``.

The backbone is frozen. Where a method's ``encode`` has no trainable parameters, its output is computed once per picture and
read from disk afterwards. accelerate sets device, precision and processes; ``batch_size`` is the number of pictures per step
over all of them, and each micro-batch counts by its share of the step's pictures, so that the loss and its gradient do not
depend on the number of processes. All randomness is a function of ``seed`` and the epoch's number, so a run resumes bit for
bit from weights and optimizer state alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from zsad.common.arguments import checked
from zsad.common.threads import ahead
from zsad.common.version import versions
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.training.data import epoch_steps, find_examples, open_datasets, share
from zsad.training.run import FINAL, TrainingRun
from zsad.training.setup import (
    accelerator_for,
    check_counts,
    chosen_schedule,
    learning_rate_at,
    optimizer_for,
    set_learning_rate,
    settings_of,
    start_or_resume,
    tensorboard_writer,
    trainable_parameters,
)
from zsad.training.training_set import TrainingSet
from zsad.types import Batch, Context, Schedule

__all__ = ["Contexts", "backward", "train"]

log = logging.getLogger("zsad")
MicroBatches = Sequence[tuple[Batch, float]]  # of one step, each with its share of the step's pictures


@checked
def train(
    detector: Detector,
    data: Any,
    out: str | Path,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    lr_schedule: Literal["constant", "one_cycle"] | None = None,
    seed: int = 111,
    synthetic: int = 0,
    split: str | None = "test",
    parts: int = 1,
    device: Literal["auto", "cpu"] = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    cache: bool | str | Path = True,
    value_range: tuple[float, float] | None = None,
    licence: str = "not stated",
    tensorboard: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Trains a method's own parameters; afterwards the detector has the last epoch's weights.

    Args:
        detector: from ``create``; training starts from its weights. Its ``schedule`` has the paper's values for arguments that
            are None.
        data: a path in any layout of ``open_dataset``, a ``Dataset``, or several; of OTHER categories than those to inspect.
        out: folder for checkpoints, ``metrics.jsonl``, ``loss.png`` and ``errors.jsonl``.
        epochs: passes over the pictures. The last epoch is the result; none is selected.
        batch_size: pictures per step, over all processes and micro-batches.
        lr: learning rate, the highest of "one_cycle".
        lr_schedule: "constant", or "one_cycle": up within the first 15 % of the run, then down to almost 0.
        seed: of the order and of the synthetic defects.
        synthetic: synthetic defects per normal picture, the same in every epoch; pictures without a label count as normal.
        split: of data given as a path; None: all.
        parts: micro-batches per process and step (gradient accumulation), to save memory.
        device: "auto" is what accelerate finds.
        precision: of the forward pass.
        cache: folder for cached features, which runs may share; True is ``out/cache``, False caches nothing.
        value_range: pixel values of black and white, for pictures deeper than 8 bits.
        licence: of the data, for the header.
        tensorboard: also write ``out/tensorboard``; needs the extra of that name.
        resume: continue after the last complete epoch in ``out``.
        overwrite: delete the run in ``out`` first.

    Returns:
        The header of ``out/final.safetensors``.

    Raises:
        UsageError: no trainable parameters, or no data to train on; another run in ``out``; a loss that is not finite.
        WriteError: the disk is full. The checkpoints of complete epochs stay.
        MissingExtra: accelerate or TensorBoard is not installed.
    """
    check_counts(seed=(seed, 0), synthetic=(synthetic, 0), parts=(parts, 1))
    schedule = chosen_schedule(detector, epochs=epochs, batch_size=batch_size, lr=lr, lr_schedule=lr_schedule)
    run, accelerator = TrainingRun(out), accelerator_for(device, precision)
    main, rank, world = accelerator.is_main_process, accelerator.process_index, accelerator.num_processes
    sets = open_datasets(data, split)
    before = {**detector.header, "sha256": detector.weights_sha256} if detector.weights_sha256 else {}
    if main:
        run.claim(resume, overwrite)
    detector.to(accelerator.device).eval()
    with run.guarded(), torch.random.fork_rng(devices=[]):
        training_set = TrainingSet(detector, seed, value_range, run.out / "cache" if cache is True else cache, precision)
        training_set.read(*find_examples(sets, synthetic), accelerator, run, schedule.labels_only)
        optimizer = accelerator.prepare(optimizer_for(detector, schedule))
        settings = settings_of(detector, schedule, seed, synthetic, precision, training_set)
        done = start_or_resume(run, settings, schedule.epochs, resume, detector, optimizer, accelerator)
        header = settings | {"epochs": schedule.epochs, "versions": versions(("torch", "accelerate")), "processes": world}
        header |= training_set.header(sets, licence, before)
        writer, contexts = tensorboard_writer(run.out, tensorboard and main), Contexts(detector)
        for epoch in range(done + 1, schedule.epochs + 1):
            torch.manual_seed(seed + 1_000_003 * epoch)
            started = time.perf_counter()
            steps = epoch_steps(training_set.examples, schedule.batch_size, schedule.one_name, seed, epoch)
            shares = [share(rows, rank, world, parts) for rows in steps]
            with tqdm(total=len(steps), desc=f"epoch {epoch}/{schedule.epochs}", disable=None if main else True) as bar:
                for number, batches in enumerate(ahead(shares, training_set.micro_batches, 1, 1)):  # reads during computation
                    progress = (epoch - 1 + number / len(steps)) / schedule.epochs
                    set_learning_rate(optimizer, learning_rate_at(schedule, progress))
                    losses = step(detector, batches, contexts, optimizer, schedule, accelerator)
                    if main:
                        run.log_step(epoch, losses, writer)
                    bar.update()
            if main:
                run.log_epoch(epoch, time.perf_counter() - started, writer)
                about = header | {"epoch": epoch, "losses": run.means()}
                run.save_epoch(epoch, detector, optimizer, accelerator.scaler, about)
            accelerator.wait_for_everyone()
        if main:
            run.finish(schedule.epochs)
        accelerator.wait_for_everyone()
        detector.load(run.out / FINAL)  # the same weights, and their header
    return detector.header


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
            found = detector.loss(batch, contexts(batch.names[0]))
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
