"""The command line: ``zsad predict | list | prompts | doctor``."""

from __future__ import annotations

import ast
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec

import typer

from zsad.console import print_json, table
from zsad.errors import UsageError, ZsadError
from zsad.naming import printable

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
    target: Annotated[str, typer.Option(help="What is to be seen, as a person would say it: 'metal nut'.")] = "object",
    out: Annotated[str, typer.Option(help="Folder for the results.")] = "results",
    method: Annotated[str, typer.Option(help="A method, or method.tag; see zsad list methods.")] = "compact",
    backbone: Annotated[str | None, typer.Option(help="Image encoder, instead of the method's own.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Learned weights of the method.")] = None,
    word: Annotated[list[str] | None, typer.Option(help="Defect word, where the method takes them; repeat for more.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value of the method, such as scales=(2,).")] = None,
    threshold: Annotated[float | None, typer.Option(help="Score from which on a picture is anomalous.")] = None,
    review_at: Annotated[float | None, typer.Option(help="Score from which on a picture is for review.")] = None,
    pixel_threshold: Annotated[float | None, typer.Option(help="Map value from which on a place is a region.")] = None,
    maps: Annotated[
        Literal["npy", "png"] | None, typer.Option(help="Write the maps too: float32 .npy, or 16-bit .png.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps or xpu.")] = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Pictures per pass; by default 8 on a CPU, else 16.")] = None,
    workers: Annotated[int, typer.Option(help="Threads that read and draw pictures.")] = 2,
    value_range: Annotated[
        tuple[float, float] | None, typer.Option(help="Values that become black and white above 8 bits: 0 4095.")
    ] = None,
    tile: Annotated[
        str | None, typer.Option(help="Cut into tiles of so many pixels: 512, or 512x256 (width x height).")
    ] = None,
    overlap: Annotated[float | None, typer.Option(help="Share of a tile that its neighbour has too; by default 0.25.")] = None,
    roi: Annotated[
        str | None, typer.Option(help="Judge only x0,y0,x1,y1 (pixels or %), polygon:'x,y x,y x,y', or a mask's white.")
    ] = None,
    keep_aspect: Annotated[bool, typer.Option("--keep-aspect", help="Pad to a square instead of squashing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in --out first.")] = False,
    limit_report: Annotated[int, typer.Option(min=0, help="Pictures shown in report.html, the worst first.")] = 500,
    as_json: Json = False,
) -> None:
    """Scores pictures, decides, and writes predictions.jsonl, .csv, report.html, overlays/ and masks/ to --out.

    Without --threshold the verdicts come from a robust rule over the batch itself, which assumes that more than half of the
    pictures are normal; it needs at least 8.
    """
    from zsad.predicting import Request, predict_folder
    from zsad.writing import Options

    if not out.strip():
        raise UsageError("--out is empty (an unset variable?). Give the folder for the results; '.' is this one.")
    arguments = _arguments(method, set_ or [], word or [])
    settings: dict[str, Any] = {"backbone": backbone, "checkpoint": checkpoint, "value_range": value_range}
    settings |= {"threshold": threshold, "review_at": review_at, "pixel_threshold": pixel_threshold}
    settings |= {"device": device, "batch_size": batch_size, "workers": workers}
    settings |= {"tile": tile, "overlap": overlap, "roi": roi, "keep_aspect": keep_aspect}
    if taken := sorted(settings.keys() & arguments.keys()):
        raise UsageError(f"--set {taken[0]} was given, but that is an option: --{taken[0].replace('_', '-')}.")
    request = Request(
        source, target, Path(out), method, settings | arguments, Options(maps, limit_report), resume, overwrite, as_json
    )
    raise typer.Exit(predict_folder(request))


def _arguments(method: str, assignments: Iterable[str], words: list[str]) -> dict[str, Any]:
    """Constructor keywords of the method from --set and --word."""
    from zsad.registry import method_class

    arguments: dict[str, Any] = {}
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign or not key.isidentifier():
            raise UsageError(f"--set takes key=value, and got {assignment!r}.")
        try:
            arguments[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            arguments[key] = text
    if words:
        if "words" not in inspect.signature(method_class(method).__init__).parameters:
            raise UsageError(f"{method} takes no defect words, so --word would do nothing. Leave it out.")
        arguments["words"] = tuple(words)
    return arguments


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
    backbone: Annotated[str | None, typer.Option(help="Image encoder, instead of the method's own.")] = None,
    word: Annotated[list[str] | None, typer.Option(help="Defect word; repeat for more.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value of the method.")] = None,
    as_json: Json = False,
) -> None:
    """Prints the exact sentences that a method uses for a target."""
    from zsad.listing import sentences_of

    sentences = sentences_of(method, target, backbone, _arguments(method, set_ or [], word or []))
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
