"""What ``zsad evaluate`` does: says what was found, measures, and prints the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import typer

from zsad.cli.console import heard, print_json, table
from zsad.common.file_names import many, printable
from zsad.datasets import Dataset, open_dataset
from zsad.errors import UsageError
from zsad.evaluation import evaluate
from zsad.evaluation.metrics import check_metrics
from zsad.evaluation.plan import told_problems
from zsad.evaluation.store import FILES, MAPS
from zsad.evaluation.table import Evaluation

__all__ = ["Request", "evaluate_data", "numbers_of", "words_of"]

SHOWN = 10  # problems, errors and notes that are printed; metrics.json has all


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    data: str
    method: str
    out: str
    layout: str | None = None
    options: dict[str, Any] = field(default_factory=dict)  # further keywords of evaluate, Inspector and the method
    as_json: bool = False


def evaluate_data(request: Request) -> int:
    """Evaluates, writes, says what came out; returns the exit code."""
    options = request.options
    check_metrics(options["metrics"])  # what is wrong is said before anything is read or loaded
    data = open_dataset(request.data, request.layout, None)
    chosen = data.select(options["categories"], options["split"], options["kinds"])
    problems, serious = told_problems(data, chosen.categories)
    if not request.as_json:
        _say_found(chosen, problems)
    try:
        with heard():
            found = evaluate(request.method, data, out=request.out, **options)
    except KeyboardInterrupt:
        typer.echo(f"zsad: stopped. What is scored is kept in {request.out}; give --resume to go on with it.", err=True)
        return 130
    if request.as_json:
        print_json(found.as_dict())
    else:
        _say(found, request)
    return 3 if found.errors or serious else 0


def _say_found(chosen: Dataset, problems: Sequence[str]) -> None:
    """Counts per category, and what is wrong with the data set."""
    typer.echo(
        f"{printable(chosen.name)}: layout {chosen.layout}, {many(len(chosen), 'picture')}, "
        f"{many(len(chosen.categories), 'category', 'categories')}."
    )
    rows = [
        {
            "category": one.category,
            "normal": one.normal,
            "anomalous": one.anomalous,
            "unlabelled": one.unlabelled,
            "masks": one.masks_found,
            "masks missing": one.masks_missing,
        }
        for one in chosen.summary()
    ]
    typer.echo("\n".join(table(rows)))
    _say_some("Problems", problems, "")
    typer.echo("")


def _say_some(title: str, lines: Sequence[str], where: str) -> None:
    """At most ``SHOWN`` lines."""
    for line in ([f"{title}:"] if lines else []) + [f"  {printable(one)}" for one in lines[:SHOWN]]:
        typer.echo(line)
    if len(lines) > SHOWN:
        typer.echo(f"  and {len(lines) - SHOWN} more{where}")


def _say(found: Evaluation, request: Request) -> None:
    typer.echo("\n".join(table(found.table(short=True))))
    typer.echo("")
    for line in found.remarks():
        typer.echo(printable(line))
    where = f" in {request.out}/metrics.json"
    _say_some("Notes", found.row_notes(), where)
    _say_some("Errors", found.errors, where)
    files = [*FILES, *([f"{MAPS}/"] if request.options.get("keep_maps") else [])]
    typer.echo(f"Written to {request.out}: {', '.join(files)}")


def words_of(text: str | None) -> list[str] | None:
    """["a", "b c"] of "a, b c"; None of None."""
    return None if text is None else [one.strip() for one in text.split(",") if one.strip()]


def numbers_of(text: str) -> list[int]:
    """[0, 1, 2] of "0,1,2".

    Raises:
        UsageError: something in it is no whole number.
    """
    try:
        return [int(one) for one in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--seeds takes whole numbers with commas between, such as 0,1,2; got {text!r}.") from error
