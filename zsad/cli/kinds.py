"""``zsad kinds``: which kinds of anomalies a run found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zsad.cli.app import EXIT_CODES, app, sentence_on_error
from zsad.cli.console import print_json
from zsad.cli.options import Device, Json
from zsad.common.file_names import many, printable
from zsad.errors import UsageError
from zsad.inference.settings import pick_device
from zsad.kinds.grouping import NEW
from zsad.runs.kinds import FACTS, find_kinds


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def kinds(
    results: Annotated[Path, typer.Argument(help="The --out folder of zsad predict.")],
    number: Annotated[int | None, typer.Option("--kinds", help="How many kinds; by default found.")] = None,
    like: Annotated[
        Path | None, typer.Option(help="Results whose kinds are known: each region is one of them, or new.")
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option(help="OLD=NEW; repeat for more. Kinds that get one name become one.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Groups the regions of a run's flagged pictures by what they look like.

    Writes a column "kind" to predictions.jsonl and .csv, kinds.json, and a contact sheet for each kind to report.html.
    """
    if number is not None and like is not None:
        raise UsageError("--kinds and --like were both given: one finds kinds, the other takes known ones. Give one.")
    found = find_kinds(results, number, like=like, rename=_names(rename or []), device=str(pick_device(device)))
    if as_json:
        print_json(
            {
                "kinds": found.counts,
                "regions": len(found.regions),
                "pictures": dict(found.pictures),
                "errors": dict(found.errors),
            }
        )
    else:
        for kind, count in found.counts.items():
            typer.echo(f"{many(count, 'picture'):>14}  {printable(kind)}{' (like no known kind)' if kind == NEW else ''}")
        typer.echo(
            f"{many(len(found.regions), 'region')}; crops of each kind are in {results / 'report.html'}, details in {FACTS}."
        )
    for name, why in found.errors.items():
        typer.echo(f"zsad: {printable(name)}: {why}", err=True)
    raise typer.Exit(3 if found.errors else 0)


def _names(assignments: list[str]) -> dict[str, str]:
    """New name by old name. Raises ``UsageError`` for an assignment that is none."""
    found = {}
    for assignment in assignments:
        old, sign, new = assignment.partition("=")
        if not sign or not old.strip() or not new.strip():
            raise UsageError(f"--rename takes OLD=NEW, such as 'kind 1=scratch', and got {assignment!r}.")
        found[old.strip()] = new.strip()
    return found
