"""``zsad prompts``: the sentences of a method."""

from __future__ import annotations

from typing import Annotated

import typer

from zsad.cli.app import EXIT_CODES, app, sentence_on_error
from zsad.cli.console import print_json
from zsad.cli.options import Backbone, Json, Sets, Words, method_arguments
from zsad.inference.listing import sentences_of


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
    sentences = sentences_of(method, target, backbone, method_arguments(method, set_, word))
    if as_json:
        print_json({"method": method, "target": target, "sentences": {kind: list(lines) for kind, lines in sentences.items()}})
        return
    if not sentences:
        typer.echo(f"{method} uses no sentences: the target's name changes nothing.")
    for kind, lines in sentences.items():
        typer.echo(f"{kind} ({len(lines)}):")
        typer.echo("".join(f"  {line}\n" for line in lines), nl=False)
