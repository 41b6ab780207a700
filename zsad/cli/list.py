"""``zsad list``: the methods, backbones and checkpoints that there are."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from zsad.cli.app import EXIT_CODES, app, sentence_on_error
from zsad.cli.console import print_json, table
from zsad.cli.options import Json
from zsad.inference.listing import listings


@app.command("list", epilog=EXIT_CODES)
@sentence_on_error
def list_(
    what: Annotated[
        Literal["methods", "backbones", "checkpoints"] | None, typer.Argument(help="One of the three lists.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every open_clip backbone, not only a selection.")] = False,
    as_json: Json = False,
) -> None:
    """Lists methods, backbones and checkpoints: size, licence, what they learned from, here or not."""
    found = listings(what, everything=all_)
    if as_json:
        print_json(found)
        return
    for kind, rows in found.items():
        typer.echo(f"{kind}:" if len(found) > 1 else "", nl=len(found) > 1)
        typer.echo("\n".join(table(rows)) or "  none")
