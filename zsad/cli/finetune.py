"""``zsad finetune``: annotated pictures of other categories in, learned weights out."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from zsad.cli.app import EXIT_CODES, app, sentence_on_error
from zsad.cli.console import log_to_stderr, print_json
from zsad.cli.options import (
    Backbone,
    Categories,
    Checkpoint,
    Ignore,
    Json,
    Kinds,
    Layout,
    Overwrite,
    Role,
    Sets,
    ValueRange,
    Words,
    joined,
    method_arguments,
    names_in,
    roles_in,
)
from zsad.common.file_names import many
from zsad.datasets import Dataset, open_dataset
from zsad.detector import Detector
from zsad.errors import UnknownName, UsageError
from zsad.registry import create, method_class
from zsad.training import train
from zsad.training.run import FINAL, PLOT

log = logging.getLogger("zsad")
# options that are keywords of zsad.train as they are
TRAINING = (
    *("epochs", "batch_size", "lr", "lr_schedule", "mosaic", "seed", "synthetic", "parts", "device", "precision"),
    *("value_range", "licence", "tensorboard", "resume", "overwrite"),
)


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def finetune(
    method: Annotated[str, typer.Argument(help="A method with learned weights, or method.tag to go on from; see zsad list.")],
    data: Annotated[list[str], typer.Option(help="A data set of OTHER categories than those to score; repeat for more.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, metrics.jsonl, loss.png and errors.jsonl.")],
    epochs: Annotated[int | None, typer.Option(help="Passes over the pictures; the paper's by default.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Pictures per step over all processes; the paper's by default.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; the paper's by default.")] = None,
    lr_schedule: Annotated[
        Literal["constant", "one_cycle", "cosine"] | None, typer.Option(help="How the rate runs; the paper's by default.")
    ] = None,
    mosaic: Annotated[
        float | None, typer.Option(min=0, max=1, help="Part of the pictures that become a mosaic of four; caches nothing.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of first values, order and synthetic defects.")] = 111,
    synthetic: Annotated[
        int, typer.Option(min=0, help="Synthetic defects per normal picture; unlabelled ones are normal.")
    ] = 0,
    split: Annotated[str, typer.Option(help="train, test or what the data has; all.")] = "test",
    categories: Categories = None,
    kinds: Kinds = None,
    role: Role = None,
    ignore: Ignore = None,
    layout: Layout = None,
    parts: Annotated[int, typer.Option(min=1, help="Pieces that a step is cut into, to save memory.")] = 1,
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    word: Words = None,
    set_: Sets = None,
    device: Annotated[Literal["auto", "cpu"], typer.Option(help="auto is what accelerate finds.")] = "auto",
    precision: Annotated[Literal["fp32", "bf16", "fp16"], typer.Option(help="Of the forward pass.")] = "fp32",
    cache: Annotated[Path | None, typer.Option(help="Folder for features, which runs may share; by default OUT/cache.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Encode the pictures anew in every epoch.")] = False,
    value_range: ValueRange = None,
    licence: Annotated[str, typer.Option(help="Licence of the data, for the header and the card.")] = "not stated",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write OUT/tensorboard too.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on behind the last whole epoch in --out.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Trains a method on annotated pictures, or on normal ones with synthetic defects (--synthetic 1).

    The last epoch is the result: no checkpoint is chosen. Several processes: accelerate launch -m zsad
    finetune ... on GPUs, torchrun --nproc-per-node 2 -m zsad finetune ... on CPUs.
    """
    given = dict(locals())
    settings = {key: given[key] for key in TRAINING}
    settings |= {"split": None if split == "all" else split, "cache": False if no_cache else cache or True}
    arguments = method_arguments(method, set_, word)
    joined({**settings, **dict.fromkeys(("backbone", "checkpoint", "categories", "kinds", "layout"))}, arguments)
    if method_class(method).loss is Detector.loss:
        raise UsageError(f"{method} has nothing to train. Choose a method with learned weights; see zsad list methods.")
    with log_to_stderr():
        chosen: dict[str, Any] = {"categories": names_in(categories), "kinds": names_in(kinds), "roles": roles_in(role, ignore)}
        sets = open_sets(data, layout, settings["split"], **chosen)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # of the first values of what is learned
            detector = create(method, backbone=backbone, checkpoint=checkpoint, **arguments)
        header = train(detector, sets, out, **settings)
    if not _is_main():
        return
    facts = {key: value for key, value in header.items() if key != "data"} | {"out": str(out / FINAL)}
    if as_json:
        print_json(facts)
        return
    if losses := facts.get("losses"):
        typer.echo(f"Written to {facts['out']}: {facts['method']} after {many(facts['epoch'], 'epoch')}.")
        typer.echo(f"Mean loss of the first epoch {losses[0]:.4f}, of the last {losses[-1]:.4f}; see {out / PLOT}.")
    else:
        typer.echo(f"Written to {facts['out']}: the memory of {facts['method']}, made in one pass.")
    typer.echo(f"Learned from: {facts['trained_on']}. Licence: {facts['licence']}.")


def open_sets(
    data: Sequence[str],
    layout: str | None = None,
    split: str | None = "test",
    *,
    categories: Collection[str] | None = None,
    kinds: Collection[str] | None = None,
    roles: Mapping[str, str] | None = None,
) -> list[Dataset]:
    """Opens the data sets to learn from; the first problem of each goes to the log.

    Args:
        data: paths, or elpv, elpv:mono, elpv:poly.
        layout: of all of them; None: recognised.
        split: None takes all.
        categories: only these; a name may be in one set alone, but every set has to hold one of them. None: all.
        kinds: likewise ("good", "crack").
        roles: as in ``open_dataset``.

    Raises:
        UnknownName: a name is in no set, or a set has none of the names.
        SourceNotFound, UsageError, MissingExtra: as ``open_dataset``.
    """
    sets = [open_dataset(path, layout, split, roles) for path in data]
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
    """Whether this process prints for the run; the others of ``accelerate launch`` stay silent."""
    return int(os.environ.get("RANK", "0")) == 0
