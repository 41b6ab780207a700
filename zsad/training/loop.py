"""The training loop for annotated pictures of other categories: ``train``.

The backbone is frozen. Where a method's ``encode`` has no trainable parameters, its output is computed once per picture and
read from disk afterwards. accelerate sets device, precision and processes; ``batch_size`` is the number of pictures per step
over all of them, and each micro-batch counts by its share of the step's pictures, so that the loss and its gradient do not
depend on the number of processes. All randomness is a function of ``seed`` and the epoch's number, so a run resumes bit for
bit from weights and optimizer state alone.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from zsad.common.arguments import checked
from zsad.common.threads import ahead
from zsad.common.version import versions
from zsad.detector import Detector
from zsad.training.data import epoch_steps, find_examples, open_datasets, share
from zsad.training.rates import optimizer_for, phase_at, set_learning_rates, start_phase
from zsad.training.run import FINAL, TrainingRun
from zsad.training.setup import (
    accelerator_for,
    check_counts,
    chosen_schedule,
    named_parameters,
    settings_of,
    start_or_resume,
    tensorboard_writer,
)
from zsad.training.steps import Contexts, average_buffers, learning, step, to_device
from zsad.training.training_set import TrainingSet
from zsad.types import Schedule

__all__ = ["train"]

log = logging.getLogger("zsad")


@checked
def train(
    detector: Detector,
    data: Any,
    out: str | Path,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    lr_schedule: Literal["constant", "one_cycle", "cosine"] | None = None,
    mosaic: float | None = None,
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
        epochs: passes over the pictures, over all phases together. The last epoch is the result; none is selected.
        batch_size: pictures per step, over all processes and micro-batches.
        lr: learning rate, the highest of "one_cycle".
        lr_schedule: "constant"; "one_cycle": up within the first 15 % of the run, then down to almost 0; "cosine": down.
        mosaic: part of the pictures, 0 to 1, that are replaced by four of their category side by side; nothing is cached then.
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
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "lr_schedule": lr_schedule, "mosaic": mosaic}
    schedule = chosen_schedule(detector, **given)
    run, accelerator = TrainingRun(out), accelerator_for(device, precision)
    main, world = accelerator.is_main_process, accelerator.num_processes
    sets = open_datasets(data, split)
    before = {**detector.header, "sha256": detector.weights_sha256} if detector.weights_sha256 else {}
    if main:
        run.claim(resume, overwrite)
    detector.to(accelerator.device).eval()
    with run.guarded(), torch.random.fork_rng(devices=[]):
        folder = run.out / "cache" if cache is True else cache
        training_set = TrainingSet(detector, seed, value_range, folder, precision, schedule)
        training_set.read(*find_examples(sets, synthetic), accelerator, run)
        own = named_parameters(detector)
        optimizer = accelerator.prepare(optimizer_for(detector, schedule, own)) if own else None
        settings = settings_of(detector, schedule, seed, synthetic, precision, training_set)
        done = start_or_resume(run, settings, schedule.epochs if own else 0, resume, detector, optimizer, accelerator)
        header = settings | {"epochs": schedule.epochs, "versions": versions(("torch", "accelerate")), "processes": world}
        header |= training_set.header(sets, licence, before)
        if detector.remembers and not done:
            with accelerator.autocast(), torch.no_grad():
                detector.remember(to_device(batch, accelerator) for batch in training_set.in_order())
        if optimizer is not None:
            epochs_from(done + 1, detector, training_set, schedule, optimizer, accelerator, run, header, parts, tensorboard)
        if main:
            run.finish(schedule.epochs) if own else run.save_final(detector, header)
        accelerator.wait_for_everyone()
        detector.load(run.out / FINAL)  # the same weights, and their header
    return detector.header


def epochs_from(
    first: int,
    detector: Detector,
    training_set: TrainingSet,
    schedule: Schedule,
    optimizer: Any,
    accelerator: Any,
    run: TrainingRun,
    header: dict[str, Any],
    parts: int,
    tensorboard: bool,
) -> None:
    """The epochs from ``first`` to the schedule's last; each ends with weights, optimizer state and metrics on disk."""
    main, rank, world = accelerator.is_main_process, accelerator.process_index, accelerator.num_processes
    writer, contexts, phase = tensorboard_writer(run.out, tensorboard and main), Contexts(detector), -1
    least = 2 * world * parts if detector.train_mode else 1  # batch statistics need two pictures
    with learning(detector):
        for epoch in range(first, schedule.epochs + 1):
            if phase != (phase := phase_at(schedule, epoch)):
                start_phase(detector, optimizer, schedule, phase)
                contexts = Contexts(detector)
            torch.manual_seed(training_set.seed + 1_000_003 * epoch)
            started = time.perf_counter()
            steps = epoch_steps(training_set.examples, schedule.batch_size, schedule.one_name, training_set.seed, epoch, least)
            shares = [share(rows, rank, world, parts) for rows in steps]
            read = partial(training_set.micro_batches, epoch=epoch)
            with tqdm(total=len(steps), desc=f"epoch {epoch}/{schedule.epochs}", disable=None if main else True) as bar:
                for number, batches in enumerate(ahead(shares, read, 1, 1)):  # reads during computation
                    total, before = schedule.epochs * len(steps), (epoch - 1) * len(steps) + number
                    set_learning_rates(optimizer, schedule, phase, before / total, total)
                    losses = step(detector, batches, contexts, optimizer, schedule, accelerator)
                    if main:
                        run.log_step(epoch, losses, writer)
                    bar.update()
            average_buffers(detector, accelerator)
            if main:
                run.log_epoch(epoch, time.perf_counter() - started, writer)
                about = header | {"epoch": epoch, "losses": run.means()}
                run.save_epoch(epoch, detector, optimizer, accelerator.scaler, about)
            accelerator.wait_for_everyone()
