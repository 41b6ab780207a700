"""The command line: ``zsad predict | calibrate | list | prompts | doctor``."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec

import typer

from zsad.console import print_json, table
from zsad.errors import UsageError, ZsadError
from zsad.naming import printable
from zsad.options import (
    Backbone,
    BatchSize,
    Checkpoint,
    Device,
    FalseAlarms,
    Method,
    ReviewShare,
    Sets,
    Target,
    ValueRange,
    Words,
    Workers,
    joined,
    method_arguments,
)

__all__ = ["app", "main"]

EXIT_CODES = "Exit codes: 0 all pictures scored, 2 wrong usage (one sentence on stderr), 3 some rows are errors, 130 stopped."
P = ParamSpec("P")
app = typer.Typer(
    name="zsad",
    help="Zero-shot visual anomaly detection: score a folder of pictures of a category never seen.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")]


def sentence_on_error(command: Callable[P, None]) -> Callable[P, None]:
    """Turns errors that have a sentence into that sentence on stderr and exit code 2."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ZsadError as error:
            fail(str(error))
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing more to say
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            fail(f"{error.strerror or error}{where}. Check the path, its rights and the free space.")
        except KeyboardInterrupt:
            typer.echo("zsad: stopped.", err=True)
            raise typer.Exit(130) from None

    return run


def fail(sentence: str) -> None:
    """Says why on stderr and leaves with exit code 2."""
    typer.echo(f"zsad: {sentence}", err=True)
    raise typer.Exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        from zsad import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback(epilog=EXIT_CODES)
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Zero-shot visual anomaly detection: score a folder of pictures of a category never seen."""


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def predict(
    source: Annotated[str, typer.Argument(help="A picture, a folder (with its subfolders) or a quoted glob pattern.")],
    target: Target = "object",
    out: Annotated[str, typer.Option(help="Folder for the results.")] = "results",
    method: Method = "compact",
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    word: Words = None,
    set_: Sets = None,
    threshold: Annotated[float | None, typer.Option(help="Score from which on a picture is anomalous.")] = None,
    review_at: Annotated[float | None, typer.Option(help="Score from which on a picture is for review.")] = None,
    pixel_threshold: Annotated[float | None, typer.Option(help="Map value from which on a place is a region.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="File of zsad calibrate: verdicts with a promise.")] = None,
    max_false_alarms: FalseAlarms = None,
    review_false_alarms: ReviewShare = None,
    maps: Annotated[
        Literal["npy", "png"] | None, typer.Option(help="Write the maps too: float32 .npy, or 16-bit .png.")
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    workers: Workers = 2,
    value_range: ValueRange = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in --out first.")] = False,
    limit_report: Annotated[int, typer.Option(min=0, help="Pictures shown in report.html, the worst first.")] = 500,
    as_json: Json = False,
) -> None:
    """Scores pictures, decides, and writes predictions.jsonl, .csv, report.html, overlays/ and masks/ to --out.

    Without --threshold or --calibration the verdicts come from a robust rule over the batch itself, which assumes that more
    than half of the pictures are normal; it needs at least 8.
    """
    from zsad.predicting import Request, predict_folder
    from zsad.writing import Options

    if not out.strip():
        raise UsageError("--out is empty (an unset variable?). Give the folder for the results; '.' is this one.")
    arguments = method_arguments(method, set_, word)
    settings: dict[str, Any] = {"backbone": backbone, "checkpoint": checkpoint, "value_range": value_range}
    settings |= {"threshold": threshold, "review_at": review_at, "pixel_threshold": pixel_threshold}
    settings |= {"device": device, "batch_size": batch_size, "workers": workers}
    settings |= {"calibration": calibration, "max_false_alarms": max_false_alarms}
    settings |= {"review_false_alarms": review_false_alarms}
    settings = joined(settings, arguments)
    request = Request(source, target, Path(out), method, settings, Options(maps, limit_report), resume, overwrite, as_json)
    raise typer.Exit(predict_folder(request))


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def calibrate(
    normal: Annotated[str, typer.Option(help="Folder or quoted glob pattern of normal pictures that are no references.")],
    target: Target = "object",
    out: Annotated[Path, typer.Option(help="File for the calibration.")] = Path("calibration.json"),
    method: Method = "compact",
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    word: Words = None,
    set_: Sets = None,
    max_false_alarms: Annotated[float, typer.Option(help="Share of normal pictures that may be called anomalous.")] = 0.05,
    review_false_alarms: ReviewShare = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    workers: Workers = 2,
    value_range: ValueRange = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Scores normal pictures once, so that predict --calibration can keep a promise of few false alarms.

    The levels can be chosen anew at every predict, without scoring anything again.
    """
    from zsad.calibrating import Request, calibrate_folder

    settings: dict[str, Any] = {"backbone": backbone, "checkpoint": checkpoint, "value_range": value_range}
    settings |= {"device": device, "batch_size": batch_size, "workers": workers}
    settings = joined(settings, method_arguments(method, set_, word))
    request = Request(normal, target, out, method, settings, max_false_alarms, review_false_alarms, overwrite, as_json)
    raise typer.Exit(calibrate_folder(request))


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
    from zsad.listing import listings

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
    from zsad.listing import sentences_of

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
    from zsad.doctor import examine

    found = examine(source)
    if as_json:
        print_json(found)
        return
    for part, facts in found.items():
        typer.echo(f"{part}:")
        for name, value in facts.items():
            typer.echo(f"  {name}: {printable(', '.join(map(str, value)) if isinstance(value, list) else str(value))}")


def main() -> None:
    """Entry point of ``zsad``."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app()
