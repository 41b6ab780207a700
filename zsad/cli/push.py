"""``zsad push``: learned weights and their card to a folder or the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from zsad.cli.app import EXIT_CODES, app, sentence_on_error
from zsad.errors import UsageError
from zsad.weights.hub import publish


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def push(
    out: Annotated[Path, typer.Argument(help="The out folder of zsad finetune, or a file of zsad convert.")],
    target: Annotated[str, typer.Argument(help="A folder, or org/name on the Hugging Face hub.")],
    figures: Annotated[Path | None, typer.Option(help="JSON file of results for the card: names and values.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Of a repository that is made anew.")] = False,
) -> None:
    """Publishes learned weights with a card: figures, data, licence, settings.

    TARGET is a folder where it begins with ./ or / or ~, is here, or lies in a folder that is here; else org/name
    is a repository of the hub. hf://org/name is one in any case.
    """
    results = {} if figures is None else _read_figures(figures)
    typer.echo(f"Published: {publish(out, target, figures=results, private=private)}")


def _read_figures(path: Path) -> dict[str, Any]:
    """Names and values from a JSON file.

    Raises:
        UsageError: the file holds none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--figures {str(path)!r} cannot be read as JSON: {error}.") from error
    if not isinstance(found, dict) or any(isinstance(value, (dict, list)) for value in found.values()):
        raise UsageError(f'--figures {str(path)!r} has to hold one object of names and values: {{"AUROC on x": 0.9}}.')
    return found
