"""``zsad finetune`` and ``zsad push``: from the command line to ``zsad.train`` and ``zsad.sharing``."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zsad.errors import UsageError
from zsad.registry import create, method_class
from zsad.sharing import publish
from zsad.training import train
from zsad.training.run import FINAL

__all__ = ["finetune_method", "push_weights"]


def finetune_method(
    method: str,
    data: list[str],
    out: Path,
    *,
    backbone: str | None,
    checkpoint: Path | None,
    arguments: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Builds the method, seeded, and trains it.

    Args:
        method: a name, or "method.tag" to go on from published weights.
        data: paths of data sets.
        out: the run's folder.
        backbone: instead of the method's own.
        checkpoint: weights to go on from.
        arguments: the method's keywords.
        settings: keywords of ``zsad.train``.

    Returns:
        Facts of the finished run: header of the final weights without the hashes, and where they are.
    """
    if not method_class(method).learned:
        raise UsageError(f"{method} has nothing to train. Choose a method with learned weights; see zsad list methods.")
    _heard()
    seed = int(settings["seed"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the first values of what is learned
        detector = create(method, backbone=backbone, checkpoint=checkpoint, **arguments)
    header = train(detector, data, out, **settings)
    return {key: value for key, value in header.items() if key != "data"} | {"out": str(out / FINAL), "main": _is_main()}


def _is_main() -> bool:
    """Whether this process speaks for the run; the others of ``accelerate launch`` stay silent."""
    return int(os.environ.get("RANK", "0")) == 0


def push_weights(out: Path, target: str, figures: Path | None, private: bool) -> str:
    """Publishes the weights of a run, with figures from a JSON file of names and values.

    Raises:
        UsageError: the file of figures is none.
    """
    found: Any = {}
    if figures is not None:
        try:
            found = json.loads(figures.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"--figures {str(figures)!r} cannot be read as JSON: {error}.") from error
        if not isinstance(found, dict) or any(isinstance(value, (dict, list)) for value in found.values()):
            raise UsageError(f'--figures {str(figures)!r} has to hold one object of names and values: {{"AUROC on x": 0.9}}.')
    return publish(out, target, figures=found, private=private)


def _heard() -> None:
    """Lets the epochs' lines through to stderr."""
    log = logging.getLogger("zsad")
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
    if not log.handlers and not logging.getLogger().handlers:
        log.addHandler(logging.StreamHandler())
