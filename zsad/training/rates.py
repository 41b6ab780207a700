"""Learning rates of a run: by its progress, and by the phase that it is in; the optimizer's groups follow the phases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from zsad.common.stable_adamw import StableAdamW
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.types import Phase, Schedule

__all__ = [
    "LR_SCHEDULES",
    "learning_rate_at",
    "optimizer_for",
    "phase_at",
    "scaled_phases",
    "set_learning_rates",
    "start_phase",
]

LR_SCHEDULES = ("constant", "one_cycle", "cosine")
WARMUP = 0.15  # part of a run in which the learning rate rises
OPTIMIZERS: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "stable_adamw": StableAdamW}
ALL = ""  # a group of this name takes every parameter


def learning_rate_at(schedule: Schedule, done: float, steps: int = 0) -> float:
    """The learning rate after a part ``done`` of the run, 0 to 1; of a schedule with ``warmup``, a run has ``steps``.

    "one_cycle" is the shape of Smith and Topin 2019 in two cosine halves: from a 25th of the highest rate up to it within
    ``WARMUP`` of the run, then down to almost 0; "cosine" is Loshchilov and Hutter's 2017 without restarts, from ``lr`` to
    ``last_lr``. A function of ``done`` alone, so that a resumed run continues it.
    """
    if schedule.warmup:
        step = round(done * steps)
        if step < schedule.warmup:
            return schedule.lr * step / max(1, schedule.warmup - 1)  # 0 in the first step, ``lr`` in the last
        done = (step - schedule.warmup) / (steps - schedule.warmup)
    if schedule.lr_schedule == "constant":
        return schedule.lr
    if schedule.lr_schedule == "cosine":
        return schedule.last_lr + (schedule.lr - schedule.last_lr) * (1 + math.cos(math.pi * done)) / 2
    first, last, part = (1 / 25, 1.0, done / WARMUP) if done < WARMUP else (1.0, 4e-6, (done - WARMUP) / (1 - WARMUP))
    return schedule.lr * (last + (first - last) * (1 + math.cos(math.pi * part)) / 2)


def optimizer_for(
    detector: Detector, schedule: Schedule, parameters: Sequence[tuple[str, nn.Parameter]]
) -> torch.optim.Optimizer:
    """The schedule's optimizer: one group, or one per beginning of names that a phase has a rate for.

    Args:
        detector: the method that is trained.
        schedule: of the run.
        parameters: the method's own, with their names.

    Raises:
        UsageError: the schedule asks for another optimizer, or for a rate of parameters that there are not.
    """
    if schedule.optimizer not in OPTIMIZERS:
        raise UsageError(f"The schedule of {detector.name} asks for {schedule.optimizer!r}; known: {', '.join(OPTIMIZERS)}.")
    beginnings = list(dict.fromkeys(key for phase in schedule.phases for key in phase.rates)) or [ALL]
    groups: dict[str, list[nn.Parameter]] = {key: [] for key in beginnings}
    for name, parameter in parameters:
        fitting = [key for key in beginnings if name.startswith(key)]
        if fitting:
            groups[max(fitting, key=len)].append(parameter)
    if empty := [key for key, members in groups.items() if not members]:
        raise UsageError(f"A phase of {detector.name} has a learning rate for {empty}, and no parameter's name begins so.")
    build = OPTIMIZERS[schedule.optimizer]
    own = [{"params": members, "name": key} for key, members in groups.items()]
    return build(own, lr=schedule.lr, betas=schedule.betas, weight_decay=schedule.weight_decay)


def set_learning_rates(optimizer: Any, schedule: Schedule, phase: int, done: float, steps: int = 0) -> None:
    """Sets the rates of all groups after a part ``done`` of a run of ``steps``, in a phase (its number from 0)."""
    lr = learning_rate_at(schedule, done, steps)
    for group in optimizer.param_groups:
        group["lr"] = schedule.phases[phase].rates.get(group["name"], 0.0) * lr / schedule.lr if schedule.phases else lr


# ------------------------------------------------------------------ phases
def phase_at(schedule: Schedule, epoch: int) -> int:
    """Number (from 0) of the phase in which an epoch (from 1) lies."""
    ends, total = [], 0
    for phase in schedule.phases:
        total += phase.epochs
        ends.append(total)
    return next((number for number, end in enumerate(ends) if epoch <= end), max(0, len(ends) - 1))


def start_phase(detector: Detector, optimizer: Any, schedule: Schedule, phase: int) -> None:
    """Lets the parameters of a phase learn, freezes the others, and tells the method."""
    if not schedule.phases:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.requires_grad_(group["name"] in schedule.phases[phase].rates)
            parameter.grad = None  # the optimizer leaves parameters without a gradient alone
    detector.start_phase(phase)


def scaled_phases(phases: tuple[Phase, ...], epochs: int, rate: float = 1.0) -> tuple[Phase, ...]:
    """The phases with another number of epochs over all, in proportion, at least one each; ``rate`` times their rates.

    Raises:
        UsageError: fewer epochs than phases.
    """
    if epochs < len(phases):
        raise UsageError(f"epochs={epochs}: the training has {len(phases)} phases, each of at least one epoch.")
    total, left, found = sum(phase.epochs for phase in phases), epochs, []
    for number, phase in enumerate(phases):
        behind = len(phases) - 1 - number
        own = left if not behind else min(left - behind, max(1, round(phase.epochs * epochs / total)))
        left -= own
        found.append(replace(phase, epochs=own, rates={key: rate * value for key, value in phase.rates.items()}))
    return tuple(found)
