"""Training on annotated pictures of other categories: ``train``, one loop, read from top to bottom.

The backbone is frozen. Where a method's ``encode`` learns nothing, its output is computed once per picture and read from disk
afterwards. accelerate sets device, precision and processes; ``batch_size`` is the number of pictures per step over all of
them, and each part of a step counts by its share of pictures, so that the loss and its gradient do not depend on the number of
processes. All chance is a function of ``seed`` and the epoch's number, so nothing but weights and optimizer has to be stored to
go on to the bit.
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
from zsad.training.data import candidates, open_all, share, steps_of
from zsad.training.material import Material
from zsad.training.run import FINAL, TrainingRun
from zsad.training.setup import (
    accelerator_for,
    begin,
    board_in,
    check_counts,
    chosen_schedule,
    learned,
    optimizer_for,
    rate_at,
    set_rate,
    settings_of,
)
from zsad.types import Batch, Context

__all__ = ["Contexts", "backward", "train"]

log = logging.getLogger("zsad")
Pieces = Sequence[tuple[Batch, float]]  # pieces of one step and the share of its pictures that each holds


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
    """Trains what a method learns; the detector holds the last epoch's weights afterwards.

    Args:
        detector: from ``create``; goes on from the weights that it has. Its ``schedule`` has the paper's values for what is
            None here.
        data: a path in any layout of ``open_dataset``, a ``Dataset``, or several; of OTHER categories than those to be judged.
        out: folder for checkpoints, ``metrics.jsonl``, ``loss.png`` and ``errors.jsonl``.
        epochs: passes over the pictures. The last is the result; none is chosen.
        batch_size: pictures per step, over all processes and parts together.
        lr: learning rate, the highest of "one_cycle".
        lr_schedule: "constant", or "one_cycle": up within the first 15 % of the run, then down to next to nothing.
        seed: of the order and of the synthetic defects.
        synthetic: synthetic defects per normal picture, the same in every epoch; pictures without a label count as normal.
        split: of data given as a path; None takes all.
        parts: pieces into which a process cuts its share of a step, to save memory (gradient accumulation).
        device: "auto" takes what accelerate finds.
        precision: of the forward pass.
        cache: where features are kept: True is ``out/cache``, False nowhere, else a folder, which runs may share.
        value_range: values that become black and white, for pictures deeper than 8 bits.
        licence: of the data, for the header.
        tensorboard: also write ``out/tensorboard``; needs the extra of that name.
        resume: go on behind the last whole epoch of ``out``.
        overwrite: delete the run in ``out`` first.

    Returns:
        The header of ``out/final.safetensors``.

    Raises:
        UsageError: nothing to learn, or nothing to learn from; another run in ``out``; a loss that is not finite.
        WriteError: the disk is full. The checkpoints of whole epochs stay.
        MissingExtra: accelerate or TensorBoard is not installed.
    """
    check_counts(seed=(seed, 0), synthetic=(synthetic, 0), parts=(parts, 1))
    schedule = chosen_schedule(detector, epochs=epochs, batch_size=batch_size, lr=lr, lr_schedule=lr_schedule)
    run, accelerator = TrainingRun(out), accelerator_for(device, precision)
    main, rank, world = accelerator.is_main_process, accelerator.process_index, accelerator.num_processes
    sets = open_all(data, split)
    before = {**detector.header, "sha256": detector.weights_sha256} if detector.weights_sha256 else {}
    if main:
        run.claim(resume, overwrite)
    detector.to(accelerator.device).eval()
    with run.guarded(), torch.random.fork_rng(devices=[]):
        material = Material(detector, seed, value_range, run.out / "cache" if cache is True else cache, precision)
        material.gather(*candidates(sets, synthetic), accelerator, run, schedule.labels_only)
        optimizer = accelerator.prepare(optimizer_for(detector, schedule))
        settings = settings_of(detector, schedule, seed, synthetic, precision, material)
        done = begin(run, settings, schedule.epochs, resume, detector, optimizer, accelerator)
        about = settings | {
            "epochs": schedule.epochs,
            "versions": versions(("torch", "accelerate")),
            "processes": world,
            **material.about(sets, licence, before),
        }
        board, contexts = board_in(run.out, tensorboard and main), Contexts(detector)
        for epoch in range(done + 1, schedule.epochs + 1):
            torch.manual_seed(seed + 1_000_003 * epoch)
            started = time.perf_counter()
            steps = steps_of(material.examples, schedule.batch_size, schedule.one_name, seed, epoch)
            shares = [share(rows, rank, world, parts) for rows in steps]
            with tqdm(total=len(steps), desc=f"epoch {epoch}/{schedule.epochs}", disable=None if main else True) as bar:
                for number, pieces in enumerate(ahead(shares, material.pieces, 1, 1)):  # reading and computing overlap
                    set_rate(optimizer, rate_at(schedule, (epoch - 1 + number / len(steps)) / schedule.epochs))
                    optimizer.zero_grad()
                    losses = backward(detector, pieces, contexts, accelerator)
                    if schedule.clip is not None:
                        accelerator.clip_grad_norm_(learned(detector), schedule.clip)
                    optimizer.step()
                    if main:
                        run.log_step(epoch, losses, board)
                    bar.update()
            if main:
                run.log_epoch(epoch, time.perf_counter() - started, board)
                run.save_epoch(epoch, detector, optimizer, accelerator.scaler, about | {"epoch": epoch, "losses": run.means()})
            accelerator.wait_for_everyone()
        if main:
            run.finish(schedule.epochs)
        accelerator.wait_for_everyone()
        detector.load(run.out / FINAL)  # the same weights, and their header
    return detector.header


class Contexts:
    """Contexts by the category's name. One that holds nothing learned is prepared once, another anew for every step."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.kept: dict[str, Context] = {}

    def __call__(self, name: str) -> Context:
        """The context of a category, with gradients where the method learns text."""
        if name in self.kept:
            return self.kept[name]
        context = self.detector.prepare(name)
        if not any(one.requires_grad for one in (context.text, *context.extra.values()) if one is not None):
            self.kept[name] = context
        return context


def backward(detector: Detector, pieces: Pieces, contexts: Contexts, accelerator: Any) -> dict[str, float]:
    """Loss and gradients of one step, summed over its pieces and over all processes.

    Every loss is a mean over pictures, so a piece counts by its share of the step's pictures.

    Returns:
        The named parts of the loss of the whole step, the same in every process.

    Raises:
        UsageError: the loss is not finite; the weights are still those of the step before.
    """
    totals: dict[str, Tensor] = {}
    for batch, weight in pieces:
        with accelerator.autocast():
            found = detector.loss(batch, contexts(batch.names[0]))
        accelerator.backward(weight * torch.stack(list(found.values())).sum())
        for name, part in found.items():
            totals[name] = totals.get(name, torch.zeros_like(part)) + weight * part.detach()
    for parameter in learned(detector):
        if parameter.grad is not None:  # the same parameters in every process
            parameter.grad = accelerator.reduce(parameter.grad, "sum")
    sums = accelerator.reduce(torch.stack(list(totals.values())).float(), "sum").tolist()
    losses = dict(zip(totals, sums, strict=True))
    if not all(map(math.isfinite, sums)):
        said = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        raise UsageError(f"The loss of {detector.name} is not finite ({said}). Lower lr, or train with precision='fp32'.")
    return losses
