"""Options that several commands take, and what becomes of --set and --word."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from zsad.errors import UsageError

__all__ = ["joined", "method_arguments", "settings_of"]

# options of every command that runs the encoder, named as Inspector's keywords
ENCODER = (
    *("backbone", "checkpoint", "value_range", "device", "precision", "batch_size", "workers"),
    *("tile", "overlap", "roi", "keep_aspect"),
)


Target = Annotated[str, typer.Option(help="What is to be seen, as a person would say it: 'metal nut'.")]
Method = Annotated[str, typer.Option(help="A method, or method.tag; see zsad list methods.")]
Backbone = Annotated[str | None, typer.Option(help="Image encoder, instead of the method's own.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Learned weights of the method.")]
Words = Annotated[list[str] | None, typer.Option(help="Defect word, where the method takes them; repeat for more.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="key=value of the method, such as scales=(2,).")]
References = Annotated[
    str | None, typer.Option(help="Normal pictures to compare with: a folder, a pattern, or what zsad references saved.")
]
Coreset = Annotated[float, typer.Option(help="Share of the references' patches that are kept, for very many references.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps or xpu.")]
Precision = Annotated[str, typer.Option(help="fp32, bf16, or fp16 on devices that have it.")]
BatchSize = Annotated[int | None, typer.Option(help="Pictures per pass; by default 8 on a CPU, else 16.")]
Workers = Annotated[int, typer.Option(help="Threads that read and draw pictures.")]
ValueRange = Annotated[
    tuple[float, float] | None, typer.Option(help="Values that become black and white above 8 bits: 0 4095.")
]
Tile = Annotated[str | None, typer.Option(help="Cut into tiles of so many pixels: 512, or 512x256 (width x height).")]
Overlap = Annotated[float | None, typer.Option(help="Share of a tile that its neighbour has too; by default 0.25.")]
Roi = Annotated[
    str | None, typer.Option(help="Judge only x0,y0,x1,y1 (pixels or %), polygon:'x,y x,y x,y', or a mask's white.")
]
KeepAspect = Annotated[bool, typer.Option("--keep-aspect", help="Pad to a square instead of squashing.")]
FalseAlarms = Annotated[
    float | None, typer.Option(help="Share of normal pictures that may be called anomalous; the calibration's by default.")
]
ReviewShare = Annotated[
    float | None, typer.Option(help="Share that may be called anomalous or review; twice the other by default.")
]


def method_arguments(method: str, assignments: list[str] | None, words: list[str] | None) -> dict[str, Any]:
    """Constructor keywords of the method from --set and --word.

    Raises:
        UsageError: an assignment that is none, or words for a method that takes none.
    """
    from zsad.registry import method_class

    arguments: dict[str, Any] = {}
    for assignment in assignments or []:
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


def joined(settings: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from options and the method's keywords from --set.

    Raises:
        UsageError: --set names an option.
    """
    if taken := sorted(settings.keys() & arguments.keys()):
        raise UsageError(f"--set {taken[0]} was given, but that is an option: --{taken[0].replace('_', '-')}.")
    return dict(settings) | dict(arguments)


def settings_of(values: Mapping[str, Any], arguments: Mapping[str, Any], *more: str) -> dict[str, Any]:
    """Keywords of ``Inspector``: a command's options, and the method's keywords from --set.

    Args:
        values: the command's parameters by name.
        arguments: of the method, from ``method_arguments``.
        *more: which parameters besides ``ENCODER`` are taken.

    Raises:
        UsageError: --set names an option, or a coreset of no references.
    """
    if "coreset" in more and values["coreset"] != 1 and values["references"] is None:
        raise UsageError(f"--coreset {values['coreset']:g} was given without --references, so it would do nothing. Give both.")
    return joined({key: values[key] for key in (*ENCODER, *more)}, arguments)
