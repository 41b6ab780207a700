"""The frame of the command line: the application, errors as sentences, exit codes."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from zsad.common.version import __version__
from zsad.errors import ZsadError

__all__ = ["EXIT_CODES", "app", "fail", "keeps_scores_in", "sentence_on_error"]

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


def sentence_on_error(command: Callable[P, None]) -> Callable[P, None]:
    """Turns errors that have a sentence into that sentence on stderr and exit code 2."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ZsadError as error:
            fail(str(error))
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing more to print
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            fail(f"{error.strerror or error}{where}. Check the path, its rights and the free space.")
        except KeyboardInterrupt:
            typer.echo("zsad: stopped.", err=True)
            raise typer.Exit(130) from None

    return run


@contextmanager
def keeps_scores_in(out: str | Path) -> Iterator[None]:
    """Turns a stop by the user into a line on how to go on, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"zsad: stopped. What is scored is kept in {out}; give --resume to go on with it.", err=True)
        raise typer.Exit(130) from None


def fail(sentence: str) -> None:
    """Prints the reason on stderr and leaves with exit code 2."""
    typer.echo(f"zsad: {sentence}", err=True)
    raise typer.Exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback(epilog=EXIT_CODES)
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Zero-shot visual anomaly detection: score a folder of pictures of a category never seen."""
