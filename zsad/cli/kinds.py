"""``zsad kinds``: which kinds of anomalies a run found."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from zsad.cli.app import EXIT_CODES, app, sentence_on_error
from zsad.cli.console import opened_model, print_json, whence, where_pictures_go
from zsad.cli.options import Device, Endpoint, Json, KeyVariable, SourceFolders, Timeout
from zsad.common.file_names import many, printable
from zsad.errors import UsageError
from zsad.explain.model import VisionLanguageModel
from zsad.inference.settings import pick_device
from zsad.kinds.grouping import NEW
from zsad.runs.kinds import FACTS, RunKinds, find_kinds
from zsad.runs.kinds_naming import Namer, NamingPlan


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
    model: Annotated[
        str | None, typer.Option(help="A model that names the kinds: its name at --endpoint, or a folder with one.")
    ] = None,
    endpoint: Endpoint = None,
    key_variable: KeyVariable = "ZSAD_API_KEY",
    timeout: Timeout = 120.0,
    source: SourceFolders = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Groups the regions of a run's flagged pictures by what they look like.

    Writes a column "kind" to all files of predictions, kinds.json, and a contact sheet for each kind to report.html. With
    --model a vision-language model sees the contact sheet of each kind and is asked for a name; a kind that it cannot name
    keeps the run's word or a number.
    """
    if endpoint is not None and model is None:
        raise UsageError("--endpoint was given without a model's name. Give --model NAME too.")
    if number is not None and like is not None:
        raise UsageError("--kinds and --like were both given: one finds kinds, the other takes known ones. Give one.")
    named = (
        nullcontext() if model is None else opened_model(model, endpoint, device, key_variable=key_variable, timeout=timeout)
    )
    with named as asked:
        found = find_kinds(
            results,
            number,
            like=like,
            rename=_names(rename or []),
            source=source or (),
            namer=None if asked is None else Namer(asked, partial(_tell, asked)),
            device=str(pick_device(device)),
        )
    _print(found, results, as_json)
    raise typer.Exit(3 if found.errors or found.unnamed else 0)


def _tell(asked: VisionLanguageModel, plan: NamingPlan) -> None:
    """Where the contact sheets go, and what that costs."""
    typer.echo(f"{where_pictures_go(asked)} Contact sheets of {many(plan.kinds, 'kind')}{whence(plan.places)}.", err=True)
    cost = f"{many(plan.kinds, 'image')} to send, about {plan.tokens:,} tokens (an estimate; models count differently)"
    typer.echo(f"{many(plan.kinds, 'kind')} to name: {cost}.", err=True)


def _print(found: RunKinds, results: Path, as_json: bool) -> None:
    """Kinds on stdout; on stderr what could not be read and which kinds have no name by the model."""
    if as_json:
        print_json(
            {
                "kinds": found.counts,
                "regions": len(found.regions),
                "pictures": dict(found.pictures),
                "errors": dict(found.errors),
                "unnamed": dict(found.unnamed),
            }
        )
    else:
        for kind, count in found.counts.items():
            typer.echo(f"{many(count, 'picture'):>14}  {printable(kind)}{' (like no known kind)' if kind == NEW else ''}")
        typer.echo(
            f"{many(len(found.regions), 'region')}; crops of each kind are in {results / 'report.html'}, details in {FACTS}."
        )
    for name, why in found.errors.items():
        typer.echo(f"zsad: {printable(name)}: {printable(why)}", err=True)
    for name, why in found.unnamed.items():
        typer.echo(f"zsad: {printable(name)} keeps its name: {printable(why)}", err=True)


def _names(assignments: list[str]) -> dict[str, str]:
    """New name by old name. Raises ``UsageError`` for an assignment that is none."""
    found = {}
    for assignment in assignments:
        old, sign, new = assignment.partition("=")
        if not sign or not old.strip() or not new.strip():
            raise UsageError(f"--rename takes OLD=NEW, such as 'kind 1=scratch', and got {assignment!r}.")
        found[old.strip()] = new.strip()
    return found
