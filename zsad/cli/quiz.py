"""``zsad quiz``: how often a vision-language model is right in multiple-choice questions about pictures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from zsad.cli.app import EXIT_CODES, app, sentence_on_error
from zsad.cli.console import opened_model, print_json, progress, table, where_pictures_go
from zsad.cli.options import Device, Endpoint, Json, KeyVariable, Parallel, Timeout
from zsad.common.file_names import many, printable
from zsad.evaluation.quiz import Quiz, QuizPlan
from zsad.evaluation.quiz import quiz as run_quiz
from zsad.explain.model import VisionLanguageModel


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def quiz(
    questions: Annotated[Path, typer.Argument(help="Questions in MMAD's layout: its mmad.json.")],
    pictures: Annotated[Path, typer.Option(help="The folder to which the questions' paths are relative.")],
    out: Annotated[Path, typer.Option(help="Folder for answers.jsonl and quiz.json; stopped runs go on there.")],
    model: Annotated[str, typer.Option(help="The model's name at --endpoint, or a folder with one.")],
    endpoint: Endpoint = None,
    key_variable: KeyVariable = "ZSAD_API_KEY",
    results: Annotated[
        Path | None, typer.Option(help="Results of zsad predict on --pictures, whose regions are drawn in a second picture.")
    ] = None,
    drawing: Annotated[Literal["box", "contour"], typer.Option(help="How regions are drawn.")] = "contour",
    templates: Annotated[int, typer.Option(min=0, max=8, help="Normal pictures to show beside each.")] = 1,
    similar: Annotated[bool, typer.Option("--similar", help="Show the most similar normal pictures, not random ones.")] = False,
    parallel: Parallel = 4,
    timeout: Timeout = 120.0,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print where pictures would go and the cost, no more.")] = False,
    as_json: Json = False,
) -> None:
    """Asks a vision-language model multiple-choice questions about pictures and prints its accuracy by type of question.

    Each question is asked by itself. A question without a valid answer counts as wrong. What was answered before in --out, in
    the same setting, is not asked again. With --results the figures show whether a detector's regions help the model.
    """
    with opened_model(model, endpoint, device, key_variable=key_variable, parallel=parallel, timeout=timeout) as asked:
        found = run_quiz(
            questions,
            pictures,
            asked,
            out,
            results=results,
            drawing=drawing,
            templates=templates,
            similar=similar,
            announce=partial(_tell, asked, pictures, dry_run),
            watch=progress,
        )
    if not dry_run:
        _print(found, out, as_json)
    raise typer.Exit(3 if found.counts.get("failed") else 0)


def _tell(asked: VisionLanguageModel, pictures: Path, dry_run: bool, plan: QuizPlan) -> bool:
    """Where the pictures go and what that costs."""
    whence = f"{many(plan.pictures, 'picture')} of {printable(str(pictures))!r}"
    typer.echo(f"{where_pictures_go(asked)} {whence}, {plan.with_regions} of them with regions.", err=True)
    cost = f"at most {many(plan.images, 'image')} to send and {plan.tokens:,} tokens (an estimate; models count differently)"
    typer.echo(f"{many(plan.questions, 'question')}: {cost}.", err=True)
    for why, count in plan.left_out.items():
        typer.echo(f"zsad: left out: {why}: {count}", err=True)
    return not dry_run


def _print(found: Quiz, out: Path, as_json: bool) -> None:
    if as_json:
        print_json({"counts": found.counts, "accuracy": found.accuracy, "chance": found.chance})
        return
    kinds = list(dict.fromkeys(kind for row in found.accuracy.values() for kind in row))
    for line in table(
        [_line(name, row, kinds) for name, row in {**found.accuracy, "guessing": found.chance["Average"]}.items()]
    ):
        typer.echo(line)
    counts = found.counts
    without = counts.get("failed", 0) + counts.get("invalid", 0)
    typer.echo(f"{many(found.plan.questions, 'question')}; {without} without a valid answer, counted as wrong. See {out}.")


def _line(name: str, row: Mapping[str, float], kinds: list[str]) -> dict[str, Any]:
    return {"data set": name} | {kind: f"{100 * row[kind]:.1f}" if kind in row else "-" for kind in kinds}
