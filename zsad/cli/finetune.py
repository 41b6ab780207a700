"""``zsad finetune`` and ``zsad push``: from the command line to ``zsad.train`` and ``zsad.weights.hub``."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zsad.datasets import Dataset, open_dataset
from zsad.errors import UnknownName, UsageError
from zsad.registry import create, method_class
from zsad.training import train
from zsad.training.run import FINAL
from zsad.weights.hub import publish

__all__ = ["finetune_method", "opened", "push_weights"]

log = logging.getLogger("zsad")


def finetune_method(
    method: str,
    data: Sequence[str],
    out: Path,
    *,
    backbone: str | None,
    checkpoint: Path | None,
    arguments: Mapping[str, Any],
    settings: Mapping[str, Any],
    layout: str | None = None,
    chosen: Mapping[str, Collection[str] | None] | None = None,
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
        layout: of the data sets; None: recognised.
        chosen: "categories" and "kinds" to learn from, as ``opened`` takes them; None: all.

    Returns:
        Facts of the finished run: header of the final weights without the hashes, and where they are.
    """
    if not method_class(method).learned:
        raise UsageError(f"{method} has nothing to train. Choose a method with learned weights; see zsad list methods.")
    _heard()
    sets = opened(data, layout, settings.get("split", "test"), **(chosen or {}))
    seed = int(settings["seed"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the first values of what is learned
        detector = create(method, backbone=backbone, checkpoint=checkpoint, **arguments)
    header = train(detector, sets, out, **settings)
    return {key: value for key, value in header.items() if key != "data"} | {"out": str(out / FINAL), "main": _is_main()}


def opened(
    data: Sequence[str],
    layout: str | None = None,
    split: str | None = "test",
    *,
    categories: Collection[str] | None = None,
    kinds: Collection[str] | None = None,
) -> list[Dataset]:
    """The data sets to learn from, and what their readers complain of on stderr.

    Args:
        data: paths, or elpv, elpv:mono, elpv:poly.
        layout: of all of them; None: recognised.
        split: None takes all.
        categories: only these; a name may be in one set alone, but every set has to hold one of them. None: all.
        kinds: likewise ("good", "crack").

    Raises:
        UnknownName: a name is in no set, or a set has none of the names.
        SourceNotFound, UsageError, MissingExtra: as ``open_dataset``.
    """
    sets = [open_dataset(path, layout, split) for path in data]
    mine = _shares(sets, "category", categories)
    sets = [one.select(categories=names) for one, names in zip(sets, mine, strict=True)]
    mine = _shares(sets, "kind", kinds)
    sets = [one.select(kinds=names) for one, names in zip(sets, mine, strict=True)]
    for one in sets:
        if one.problems and _is_main():
            log.warning("%s: %d problems of the data, the first: %s", one.name, len(one.problems), one.problems[0])
    return sets


def _shares(sets: Sequence[Dataset], field: str, names: Collection[str] | None) -> list[list[str] | None]:
    """The names that each set holds; all of them where it holds none, for ``select`` to refuse."""
    if names is None:
        return [None] * len(sets)
    known = [{getattr(sample, field) for sample in one} for one in sets]
    for name in names:
        if not any(name in own for own in known):
            raise UnknownName.among(f"{field} of the data", name, set().union(*known))
    return [[name for name in names if name in own] or list(names) for own in known]


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
