"""``zsad explain``: what a vision-language model says about a run's flagged pictures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from zsad.cli.app import EXIT_CODES, app, sentence_on_error
from zsad.cli.console import opened_model, print_json, progress, whence, where_pictures_go
from zsad.cli.options import Device, Endpoint, Json, KeyVariable, Parallel, SourceFolders, Timeout
from zsad.common.file_names import many, printable
from zsad.errors import UsageError
from zsad.explain.model import VisionLanguageModel
from zsad.runs.explaining import Explained, Plan, explain_run


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def explain(
    results: Annotated[Path, typer.Argument(help="The --out folder of zsad predict.")],
    model: Annotated[str | None, typer.Option(help="The model's name at --endpoint, or a folder with one.")] = None,
    endpoint: Endpoint = None,
    key_variable: KeyVariable = "ZSAD_API_KEY",
    drawing: Annotated[
        Literal["box", "contour", "heat"], typer.Option(help="How regions are drawn in the second picture.")
    ] = "contour",
    reference: Annotated[
        str | None, typer.Option(help="A normal picture to show beside each; by default the first of the run's --references.")
    ] = None,
    source: SourceFolders = None,
    every: Annotated[bool, typer.Option("--all", help="Explain normal pictures too.")] = False,
    parallel: Parallel = 4,
    timeout: Timeout = 120.0,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print where pictures would go and the cost, no more.")] = False,
    as_json: Json = False,
) -> None:
    """Asks a vision-language model what it sees in each flagged picture; verdicts stay as they are.

    Writes a column "explanation" to the tables of predictions, and a section of report.html. Pictures leave this machine only
    for the address in --endpoint, and only those that were scored, from the run's source or from --source. Stopped and run
    again, it asks only about what has no answer yet.
    """
    if model is None:
        raise UsageError(
            "No model was given. Give --endpoint URL and --model NAME (vLLM, Ollama, llama.cpp ...), or --model FOLDER of a "
            "model on this machine."
        )
    with opened_model(model, endpoint, device, key_variable=key_variable, parallel=parallel, timeout=timeout) as asked:
        found = explain_run(
            results,
            asked,
            drawing=drawing,
            reference=reference,
            source=source or (),
            every=every,
            announce=partial(_tell, asked, dry_run),
            watch=progress,
        )
    if not dry_run:
        _print(found, asked, results, as_json)
    raise typer.Exit(3 if found.errors else 0)


def _tell(asked: VisionLanguageModel, dry_run: bool, plan: Plan) -> bool:
    """Prints what will be sent; False where nothing is to be."""
    for line in _told(plan, asked):
        typer.echo(line, err=True)
    return not dry_run


def _told(plan: Plan, asked: VisionLanguageModel) -> Iterator[str]:
    """Where which pictures go, what that costs, and what does not go."""
    cost = plan.cost
    beside = f", with {printable(plan.reference)!r} beside each" if plan.reference else ""
    yield f"{where_pictures_go(asked)} {many(cost.cases, 'picture')}{whence(plan.places)}{beside}."
    known = f", of which {cost.known} have an answer from before" if cost.known else ""
    yield (
        f"{many(cost.cases, 'picture')} to explain{known}: {many(cost.images, 'image')} to send, "
        f"about {cost.tokens:,} tokens (an estimate; models count differently)."
    )
    if plan.refused:
        first = printable(next(iter(plan.refused.values())))
        yield f"zsad: {many(len(plan.refused), 'picture')} will not be sent. The first: {first}"
    if plan.no_reference:
        yield f"zsad: no normal picture is sent: {printable(plan.no_reference)}. Name one with --reference."


def _print(found: Explained, asked: VisionLanguageModel, results: Path, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "model": asked.name,
                "counts": found.counts,
                "disagreements": found.disagreements,
                "errors": found.errors,
            }
        )
    else:
        for outcome, count in sorted(found.counts.items()):
            typer.echo(f"{many(count, 'picture'):>14}  {outcome}")
        against = many(len(found.disagreements), "picture")
        typer.echo(f"The model sees the opposite of the verdict in {against}; verdicts stay. See {results / 'report.html'}.")
    for name, why in found.errors.items():
        typer.echo(f"zsad: {printable(name)}: {printable(why)}", err=True)
