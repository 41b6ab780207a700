"""``zsad prompts METHOD`` prints the sentences of a method; ``zsad prompts generate`` asks a language model for some."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from zsad.cli.app import EXIT_CODES, app, sentence_on_error
from zsad.cli.console import print_json
from zsad.cli.options import Backbone, Endpoint, Json, KeyVariable, Replace, Sets, Timeout, Words, method_arguments
from zsad.common.file_names import many, printable
from zsad.errors import UsageError
from zsad.explain.endpoint import Endpoint as Server
from zsad.inference.listing import sentences_of
from zsad.prompts.generated import generate_prompts


class _ShowByDefault(TyperGroup):
    """``zsad prompts METHOD`` is ``zsad prompts show METHOD``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = not args or args[0] in self.commands or args[0] in ("-h", "--help")
        return super().parse_args(ctx, args if named else ["show", *args])


group = typer.Typer(cls=_ShowByDefault, no_args_is_help=True, rich_markup_mode=None)
app.add_typer(group, name="prompts", help="Prints the sentences of a method, or asks a language model for some.")


@group.command(epilog=EXIT_CODES)
@sentence_on_error
def show(
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


@group.command(epilog=EXIT_CODES)
@sentence_on_error
def generate(
    target: Annotated[str, typer.Option(help="The object's name, as a person would say it: 'metal nut'.")],
    out: Annotated[Path, typer.Option(help="The prompts file (TOML) to write, for --prompts of the other commands.")],
    model: Annotated[str | None, typer.Option(help="The model's name at the endpoint.")] = None,
    endpoint: Endpoint = None,
    key_variable: KeyVariable = "ZSAD_API_KEY",
    timeout: Timeout = 120.0,
    overwrite: Replace = False,
) -> None:
    """Asks a language model for visual properties of a flawless and of a flawed object, and writes a prompts file.

    Only the object's name is sent. Look through the file before it decides anything: a model may list what is wrong, or what
    cannot be seen.
    """
    if endpoint is None or model is None:
        raise UsageError("Give --endpoint URL and --model NAME of an OpenAI-compatible server (vLLM, Ollama, llama.cpp ...).")
    if out.suffix != ".toml":
        raise UsageError(f"--out {str(out)!r} does not end in .toml, by which --prompts knows a file.")
    if out.exists() and not overwrite:
        raise UsageError(f"{str(out)!r} is there already. Give another --out, or --overwrite.")
    server = Server(endpoint, model, key_variable=key_variable, timeout=timeout)
    try:
        typer.echo(f"The name {target!r} goes to {printable(server.where)} (model {printable(model)}).", err=True)
        found = generate_prompts(server, target)
    finally:
        server.close()
    found.save(out)
    for kind, phrases in found.states.items():
        typer.echo(f"{kind}:")
        typer.echo("".join(f"  {printable(phrase.replace('{}', target))}\n" for phrase in phrases), nl=False)
    count = sum(map(len, found.states.values()))
    typer.echo(f"{many(count, 'phrase')} in {out}. Look through them, then: zsad predict ... --method winclip --prompts {out}")
