"""Preparation of a training run: schedule, accelerator, optimizer, and the epoch at which a resumed run starts."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import nn

from zsad.common.file_names import many
from zsad.detector import Detector
from zsad.errors import MissingExtra, UsageError
from zsad.training.rates import LR_SCHEDULES, scaled_phases
from zsad.training.run import TrainingRun
from zsad.training.training_set import TrainingSet
from zsad.types import Schedule
from zsad.weights.learned import facts_of

__all__ = [
    "accelerator_for",
    "check_counts",
    "chosen_schedule",
    "named_parameters",
    "settings_of",
    "start_or_resume",
    "tensorboard_writer",
    "trainable_parameters",
]

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
# settings that runs of before do not have: left out at their defaults
ADDED = ("last_lr", "warmup", "phases", "references", "anomalous", "mosaic")


def trainable_parameters(detector: Detector) -> list[nn.Parameter]:
    """The method's own parameters; its encoders' are frozen."""
    return [parameter for _, parameter in named_parameters(detector) if parameter.requires_grad]


def named_parameters(detector: Detector) -> list[tuple[str, nn.Parameter]]:
    """The method's own parameters with their names, also those that a phase of the training has frozen."""
    own = detector.learned_state().keys()
    return [(key, parameter) for key, parameter in detector.named_parameters() if key in own]


def check_counts(**given: tuple[int, int]) -> None:
    """Raises UsageError for a whole number that is below its least value; each is given as (value, least)."""
    for key, (value, least) in given.items():
        if value < least:
            raise UsageError(f"{key} has to be a whole number from {least} on; got {value}.")


def chosen_schedule(detector: Detector, **given: Any) -> Schedule:
    """The method's schedule, with the caller's values where they are not None.

    Raises:
        UsageError: the method has no trainable parameters, or a value is out of range.
    """
    if not trainable_parameters(detector) and not detector.remembers:
        raise UsageError(f"{detector.name} has nothing to train. Choose a method with learned weights; see zsad list methods.")
    for key, value in given.items():
        if key != "mosaic" and isinstance(value, (int, float)) and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{key} has to be above 0; got {value}.")
    own = detector.schedule
    schedule = replace(own, **{key: value for key, value in given.items() if value is not None})
    if schedule.lr_schedule not in LR_SCHEDULES:
        raise UsageError(f"lr_schedule={schedule.lr_schedule!r}: choose {', '.join(LR_SCHEDULES[:-1])} or {LR_SCHEDULES[-1]}.")
    if not 0 <= schedule.mosaic <= 1:
        raise UsageError(f"mosaic is a part of the pictures, 0 to 1; got {schedule.mosaic}.")
    if not schedule.phases:
        return schedule
    return replace(schedule, phases=scaled_phases(own.phases, schedule.epochs, schedule.lr / own.lr))


def accelerator_for(device: str, precision: str) -> Any:
    """An ``accelerate.Accelerator``; the settings of ``accelerate launch`` apply.

    Raises:
        MissingExtra: accelerate is not installed.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, PartialState
        from accelerate.utils import InitProcessGroupKwargs
    except ImportError as error:
        raise MissingExtra("Training", "train") from error
    if AcceleratorState._shared_state:  # left by an earlier run in this process, perhaps with another device or precision
        AcceleratorState._reset_state(reset_partial_state=PartialState().num_processes == 1)
    patience = InitProcessGroupKwargs(timeout=timedelta(days=1))  # while the main process reads the pictures
    return Accelerator(cpu=device == "cpu", mixed_precision=PRECISIONS[precision], kwargs_handlers=[patience])


def settings_of(
    detector: Detector, schedule: Schedule, seed: int, synthetic: int, precision: str, training_set: TrainingSet
) -> dict[str, Any]:
    """Settings that a resumed run must share; the number of epochs may differ where the learning rate is constant."""
    steps = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(schedule).items()}
    steps = {key: value for key, value in steps.items() if value or key not in ADDED}
    if schedule.lr_schedule == "constant" and not schedule.phases:
        del steps["epochs"]
    facts = facts_of(detector)
    return steps | {
        "seed": seed,
        "synthetic": synthetic,
        "precision": precision,
        "examples": len(training_set),
        "examples_sha256": training_set.digest(),
        "learner": {"method": detector.name, "arguments": {k: str(v) for k, v in detector.arguments().items()}}
        | facts.pop("backbone")
        | facts,
    }


def start_or_resume(
    run: TrainingRun,
    settings: dict[str, Any],
    epochs: int,
    resume: bool,
    detector: Detector,
    optimizer: Any,
    accelerator: Any,
) -> int:
    """Stores the settings or compares them with the run's, and gives every process the same state; returns the finished epochs.

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

        for tensor in trainable_parameters(detector):
            tensor.data.copy_(broadcast(tensor.data))
    return done


def tensorboard_writer(out: Path, wanted: bool) -> Any:
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
