"""``zsad list``, ``zsad prompts`` and ``zsad doctor``: what there is."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from zsad.cli.app import EXIT_CODES, Json, app, sentence_on_error
from zsad.cli.console import print_json, table
from zsad.cli.options import Backbone, Sets, Words, method_arguments
from zsad.common.file_names import printable


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
    from zsad.inference.listing import listings

    found = listings(what, everything=all_)
    if as_json:
        print_json(found)
        return
    for kind, rows in found.items():
        typer.echo(f"{kind}:" if len(found) > 1 else "", nl=len(found) > 1)
        typer.echo("\n".join(table(rows)) or "  none")


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def prompts(
    method: Annotated[str, typer.Argument(help="A method; see zsad list methods.")],
    target: Annotated[str, typer.Option(help="The object's name.")] = "object",
    backbone: Backbone = None,
    word: Words = None,
    set_: Sets = None,
    as_json: Json = False,
) -> None:
    """Prints the exact sentences that a method uses for a target."""
    from zsad.inference.listing import sentences_of

    sentences = sentences_of(method, target, backbone, method_arguments(method, set_, word))
    if as_json:
        print_json({"method": method, "target": target, "sentences": {kind: list(lines) for kind, lines in sentences.items()}})
        return
    if not sentences:
        typer.echo(f"{method} uses no sentences: the target's name changes nothing.")
    for kind, lines in sentences.items():
        typer.echo(f"{kind} ({len(lines)}):")
        typer.echo("".join(f"  {line}\n" for line in lines), nl=False)


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def doctor(
    source: Annotated[str | None, typer.Argument(help="A picture or a folder to look into.")] = None,
    as_json: Json = False,
) -> None:
    """Says what is there: versions, devices, caches, offline state, picture formats; and how pictures are read."""
    from zsad.cli.doctor import examine

    found = examine(source)
    if as_json:
        print_json(found)
        return
    for part, facts in found.items():
        typer.echo(f"{part}:")
        for name, value in facts.items():
            typer.echo(f"  {name}: {printable(', '.join(map(str, value)) if isinstance(value, list) else str(value))}")
