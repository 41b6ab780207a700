"""What the commands share on the way to the terminal."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from zsad.common.file_names import printable
from zsad.inference.inspector import Inspector

__all__ = ["heard", "print_json", "say_unreadable", "table"]


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


def say_unreadable(inspector: Inspector) -> None:
    """One line on stderr per reference that could not be read."""
    for name, why in inspector.references.errors.items():
        typer.echo(f"zsad: reference {printable(name)}: {printable(why)}", err=True)


class _Said(logging.Handler):
    """What the library logs, on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(f"zsad: {record.getMessage()}", err=True)


@contextmanager
def heard() -> Iterator[None]:
    """Lets a person hear what a method says before and while it compares a whole set: time, memory, doubts."""
    log, said, level = logging.getLogger("zsad"), _Said(), logging.getLogger("zsad").level
    log.addHandler(said)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(said)
        log.setLevel(level)
