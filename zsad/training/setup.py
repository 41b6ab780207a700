"""What stands before a training loop: schedule, accelerator, optimizer, and where a resumed run goes on."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zsad.common.file_names import many
from zsad.detector import Detector
from zsad.errors import MissingExtra, UsageError
from zsad.training.material import Material
from zsad.training.run import TrainingRun
from zsad.types import Schedule
from zsad.weights.learned import facts_of

__all__ = [
    "accelerator_for",
    "begin",
    "board_in",
    "check_counts",
    "chosen_schedule",
    "learned",
    "optimizer_for",
    "rate_at",
    "set_rate",
    "settings_of",
]

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
LR_SCHEDULES = ("constant", "one_cycle")
WARM = 0.15  # part of a run in which the rate rises
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def learned(detector: Detector) -> list[nn.Parameter]:
    """The method's own parameters, without its encoders'."""
    own = detector.learned_state().keys()
    return [p for key, p in detector.named_parameters() if key in own and p.requires_grad]


def check_counts(**given: tuple[int, int]) -> None:
    """Raises UsageError for a whole number that is below its least value; each is given as (value, least)."""
    for key, (value, least) in given.items():
        if value < least:
            raise UsageError(f"{key} has to be a whole number from {least} on; got {value}.")


def chosen_schedule(detector: Detector, **given: Any) -> Schedule:
    """The method's schedule with what the caller gave in its place.

    Raises:
        UsageError: the method learns nothing, or a value is out of range.
    """
    if not learned(detector):
        raise UsageError(f"{detector.name} has nothing to train. Choose a method with learned weights; see zsad list methods.")
    for key, value in given.items():
        if isinstance(value, (int, float)) and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{key} has to be above 0; got {value}.")
    schedule = replace(detector.schedule, **{key: value for key, value in given.items() if value is not None})
    if schedule.lr_schedule not in LR_SCHEDULES:
        raise UsageError(f"lr_schedule={schedule.lr_schedule!r}: choose {' or '.join(LR_SCHEDULES)}.")
    return schedule


def accelerator_for(device: str, precision: str) -> Any:
    """An ``accelerate.Accelerator``; what ``accelerate launch`` sets is kept.

    Raises:
        MissingExtra: accelerate is not installed.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, PartialState
        from accelerate.utils import InitProcessGroupKwargs
    except ImportError as error:
        raise MissingExtra("Training", "train") from error
    if AcceleratorState._shared_state:  # of an earlier run in this process, perhaps of another device or precision
        AcceleratorState._reset_state(reset_partial_state=PartialState().num_processes == 1)
    patience = InitProcessGroupKwargs(timeout=timedelta(days=1))  # while the main process reads the pictures
    return Accelerator(cpu=device == "cpu", mixed_precision=PRECISIONS[precision], kwargs_handlers=[patience])


def optimizer_for(detector: Detector, schedule: Schedule) -> torch.optim.Optimizer:
    """Over the method's own parameters."""
    if schedule.optimizer not in OPTIMIZERS:
        raise UsageError(f"The schedule of {detector.name} asks for {schedule.optimizer!r}; known: {', '.join(OPTIMIZERS)}.")
    build = OPTIMIZERS[schedule.optimizer]
    return build(learned(detector), lr=schedule.lr, betas=schedule.betas, weight_decay=schedule.weight_decay)


def rate_at(schedule: Schedule, done: float) -> float:
    """The learning rate when a part ``done`` of the run, from 0 to 1, lies behind.

    "one_cycle" is the shape of Smith and Topin 2019 in two cosine halves: from a 25th of the highest rate up to it within
    ``WARM`` of the run, then down to next to nothing. A function of the place alone, so that a resumed run goes on with it.
    """
    if schedule.lr_schedule == "constant":
        return schedule.lr
    first, last, part = (1 / 25, 1.0, done / WARM) if done < WARM else (1.0, 4e-6, (done - WARM) / (1 - WARM))
    return schedule.lr * (last + (first - last) * (1 + math.cos(math.pi * part)) / 2)


def set_rate(optimizer: Any, lr: float) -> None:
    """Puts the rate of every group of parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def settings_of(
    detector: Detector, schedule: Schedule, seed: int, synthetic: int, precision: str, material: Material
) -> dict[str, Any]:
    """What two runs have to share to be one; the number of epochs may differ where the rate is constant."""
    steps = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(schedule).items()}
    if schedule.lr_schedule == "constant":
        del steps["epochs"]
    facts = facts_of(detector)
    return steps | {
        "seed": seed,
        "synthetic": synthetic,
        "precision": precision,
        "examples": len(material.examples),
        "examples_sha256": material.digest(),
        "learner": {"method": detector.name, "arguments": {k: str(v) for k, v in detector.arguments().items()}}
        | facts.pop("backbone")
        | facts,
    }


def begin(
    run: TrainingRun,
    settings: dict[str, Any],
    epochs: int,
    resume: bool,
    detector: Detector,
    optimizer: Any,
    accelerator: Any,
) -> int:
    """Stores or compares the settings, and puts every process at the same point; returns the epochs that are done.

    Raises:
        UsageError: the run has other settings, or more epochs.
    """
    if accelerator.is_main_process:
        run.agree(settings, resume)
    accelerator.wait_for_everyone()
    done = run.last_epoch() if resume else 0
    if done > epochs:
        raise UsageError(f"The run in {str(run.out)!r} has {many(done, 'epoch')} already, and {epochs} were asked for.")
    if done:
        run.load_epoch(done, detector, optimizer, accelerator.scaler)
    elif accelerator.num_processes > 1:
        from accelerate.utils import broadcast

        for tensor in learned(detector):
            tensor.data.copy_(broadcast(tensor.data))
    return done


def board_in(out: Path, wanted: bool) -> Any:
    """A TensorBoard writer, or None.

    Raises:
        MissingExtra: TensorBoard is not installed.
    """
    if not wanted:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra("TensorBoard's log", "tensorboard") from error
    return SummaryWriter(out / "tensorboard")
