"""Terminal output of the commands: tables, JSON, progress, and what the library logs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from tqdm import tqdm

from zsad.common.file_names import printable
from zsad.explain.model import VisionLanguageModel
from zsad.inference.explaining import open_model
from zsad.inference.inspector import Inspector
from zsad.inference.settings import pick_device

__all__ = [
    "log_to_stderr",
    "opened_model",
    "print_json",
    "progress",
    "report_unreadable",
    "table",
    "whence",
    "where_pictures_go",
]


def table(rows: Sequence[Mapping[str, Any]], width: int | None = None) -> list[str]:
    """Rows of equal keys as aligned lines under a head, cut at the terminal's width."""
    if not rows:
        return []
    lines = [list(rows[0]), *[[printable(str(value)) for value in row.values()] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)).rstrip()[:width] for line in lines]


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(value, indent=1))


def progress(items: Iterable[Any], label: str, total: int) -> Iterable[Any]:
    """A progress bar over pictures on stderr, silent without a terminal; a total of 0 is an unknown one."""
    return tqdm(items, label, total or None, unit="picture", disable=None)


def report_unreadable(inspector: Inspector) -> None:
    """One line on stderr per reference that could not be read."""
    for name, why in inspector.references.errors.items():
        typer.echo(f"zsad: reference {printable(name)}: {printable(why)}", err=True)


@contextmanager
def opened_model(model: str, endpoint: str | None, device: str, **more: Any) -> Iterator[VisionLanguageModel]:
    """The model of ``--endpoint`` and ``--model``, closed at the end; ``more`` as ``open_model``."""
    asked = open_model(model, endpoint, device=str(pick_device(device)), **more)
    try:
        yield asked
    finally:
        asked.close()


def where_pictures_go(model: VisionLanguageModel) -> str:
    """The sentence with which a command that asks a model begins."""
    goes = f"Pictures go to {printable(model.where)}" if model.where else "No picture leaves this machine"
    return f"{goes} (model {printable(model.name)})."


def whence(places: Iterable[Path]) -> str:
    """Folders and files as the end of a sentence; "" of none."""
    named = " and ".join(repr(printable(str(place))) for place in places)
    return f" of {named}" if named else ""


class _Stderr(logging.Handler):
    """Prints log records on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(f"zsad: {record.getMessage()}", err=True)


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Prints what the library logs: time, memory and doubts of a method that compares a whole set, the epochs of training."""
    log = logging.getLogger("zsad")
    handler, level = _Stderr(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
