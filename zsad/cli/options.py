"""Options that several commands take, and the keywords that they become."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from zsad.errors import UsageError
from zsad.inference.settings import check_words
from zsad.registry import method_class

__all__ = ["check_out", "inspector_settings", "joined", "method_arguments", "names_in"]

# ------------------------------------------------------------------ the detector
Target = Annotated[str, typer.Option(help="What is to be seen, as a person would say it: 'metal nut'.")]
Method = Annotated[str, typer.Option(help="A method, method.tag, or the folder of an exported model; see zsad list methods.")]
Backbone = Annotated[str | None, typer.Option(help="Image encoder, instead of the method's own.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Learned weights of the method.")]
Words = Annotated[list[str] | None, typer.Option(help="Defect word, where the method takes them; repeat for more.")]
Focus = Annotated[
    list[str] | None,
    typer.Option("--focus", help="Look for this alone, such as scratch; several times. For laft and winclip."),
]
IgnoreWords = Annotated[
    list[str] | None,
    typer.Option("--ignore-words", help="Do not look at this, such as 'bright lighting'; several times. For laft and winclip."),
]
Prompts = Annotated[
    str | None, typer.Option("--prompts", help="Prompt set: a TOML file (zsad prompts generate writes one), or a set's name.")
]
AdaptivePrompts = Annotated[
    bool, typer.Option("--adaptive-prompts", help="Choose the sentences for each picture; zsad's own rule. For winclip.")
]
Sets = Annotated[list[str] | None, typer.Option("--set", help="key=value of the method, such as scales=(2,).")]
References = Annotated[
    str | None, typer.Option(help="Normal pictures to compare with: a folder, a pattern, or what zsad references saved.")
]
Anomalous = Annotated[
    str | None, typer.Option(help="Anomalous pictures as examples of defects, for methods that take them (zsad list).")
]
AnomalousMasks = Annotated[
    Path | None, typer.Option(help="Folder with masks of the defects in --anomalous, named like the pictures.")
]
Coreset = Annotated[float, typer.Option(help="Share of the references' patches that are kept, for very many references.")]
# ------------------------------------------------------------------ the encoder and its pictures
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
    str | None, typer.Option(help="Score only x0,y0,x1,y1 (pixels or %), polygon:'x,y x,y x,y', or a mask's white.")
]
KeepAspect = Annotated[bool, typer.Option("--keep-aspect", help="Pad to a square instead of squashing.")]
Batch = Annotated[
    str | None,
    typer.Option(help="Compare the pictures with each other: auto (by default; where it helps), on or off."),
]
Null = Annotated[bool, typer.Option("-0", "--null", help="Paths of a list end in NUL characters, as find -print0 writes them.")]
Every = Annotated[str, typer.Option(help="Time from one frame of a video to the next: 1s, 500ms, 2m, or frame for every one.")]
AllowUrls = Annotated[bool, typer.Option("--allow-urls", help="Fetch pictures that are given as http or https addresses.")]
SkipMasks = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(help="Leave out masks beside their pictures (1_mask.png); auto: where every picture has one."),
]
# ------------------------------------------------------------------ many machines
Engine = Annotated[
    Literal["ray"] | None,
    typer.Option(help="Score on a cluster, or in several processes of this machine, into a Parquet table in --out."),
]
Address = Annotated[
    str | None, typer.Option(help="Of the Ray cluster: auto, or host:port; by default Ray runs on this machine alone.")
]
Actors = Annotated[
    int | None, typer.Option(min=1, help="Processes that score, with --engine; by default all CPUs but one, or one per GPU.")
]
MapsOut = Annotated[str | None, typer.Option(help="Folder or address for the maps, with --engine and --maps.")]
RetryErrors = Annotated[
    bool, typer.Option("--retry-errors", help="With --engine: score pictures again that are errors in the table.")
]
PoolSize = Annotated[
    int, typer.Option("--pool-size", min=1, help="With --engine and --batch on: pictures that all are compared with.")
]
AllowDownloads = Annotated[
    bool, typer.Option("--allow-downloads", help="With --engine: workers may download weights that they lack.")
]
# ------------------------------------------------------------------ a data set
Layout = Annotated[str | None, typer.Option(help="Of the data set, where it fits several.")]
Categories = Annotated[str | None, typer.Option(help="Only these, with commas between.")]
Kinds = Annotated[str | None, typer.Option(help="Only these kinds, with commas between: good,crack.")]
Role = Annotated[
    list[str] | None, typer.Option("--kind", help="What a folder holds: NAME=anomalous, normal or mask; several times.")
]
Ignore = Annotated[list[str] | None, typer.Option("--ignore", help="A folder of the data to leave out; several times.")]
# ------------------------------------------------------------------ verdicts
Threshold = Annotated[float | None, typer.Option(help="Score from which on a picture is anomalous.")]
ReviewAt = Annotated[float | None, typer.Option(help="Score from which on a picture is for review.")]
PixelThreshold = Annotated[float | None, typer.Option(help="Map value from which on a place is a region.")]
# ------------------------------------------------------------------ language models
Endpoint = Annotated[
    str | None,
    typer.Option(help="Address of an OpenAI-compatible server, such as http://localhost:8000/v1; it gets what is asked."),
]
KeyVariable = Annotated[
    str, typer.Option("--key-variable", help="Environment variable that holds the server's key, if it needs one.")
]
Parallel = Annotated[int, typer.Option(min=1, max=64, help="Requests at a time.")]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds for one answer.")]
SourceFolders = Annotated[
    list[Path] | None,
    typer.Option("--source", help="Folder from which the run's pictures may be read; repeat for more. Without: its own."),
]
# ------------------------------------------------------------------ output
LimitReport = Annotated[int, typer.Option(min=0, help="Pictures shown in report.html, the worst first.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete the run in --out first.")]
Replace = Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")]

# options of every command that runs the encoder, named as Inspector's keywords
ENCODER = (
    *("backbone", "checkpoint", "value_range", "device", "precision", "batch_size", "workers"),
    *("tile", "overlap", "roi", "keep_aspect"),
)


def inspector_settings(given: Mapping[str, Any], *more: str) -> dict[str, Any]:
    """Keywords of ``Inspector``: a command's options, and the method's keywords from --set and --word.

    Args:
        given: the command's parameters by name.
        *more: which of them are taken besides ``ENCODER``.

    Raises:
        UsageError: as ``method_arguments``, ``check_words`` and ``joined``, or a coreset of no references.
    """
    arguments = method_arguments(given["method"], given["set_"], given.get("word"))
    if "coreset" in more and "references" in given and given["coreset"] != 1 and given["references"] is None:
        raise UsageError(f"--coreset {given['coreset']:g} was given without --references, so it would do nothing. Give both.")
    concepts = {key: tuple(given[key]) for key in ("focus", "ignore_words") if given.get(key)}
    check_words(given["method"], concepts)
    concepts |= {key: given[key] for key in ("prompts", "adaptive_prompts") if given.get(key)}
    for key in concepts.keys() & {"prompts", "adaptive_prompts"}:
        if key not in inspect.signature(method_class(given["method"]).__init__).parameters:
            raise UsageError(
                f"{given['method']} takes no {'prompt set' if key == 'prompts' else 'adaptive prompts'}, so "
                f"--{key.replace('_', '-')} would do nothing. Leave it out, or give another --method."
            )
    return joined({key: given[key] for key in (*ENCODER, *more)} | concepts, arguments)


def method_arguments(method: str, assignments: list[str] | None, words: list[str] | None) -> dict[str, Any]:
    """Constructor keywords of the method from --set and --word.

    Raises:
        UsageError: an assignment that is none, or words for a method that takes none.
    """
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


def roles_in(assignments: list[str] | None, ignored: list[str] | None) -> dict[str, str]:
    """What folders hold, by name, from --kind and --ignore.

    Raises:
        UsageError: an assignment that is none.
    """
    roles = dict.fromkeys(ignored or [], "ignore")
    for assignment in assignments or []:
        name, sign, role = assignment.rpartition("=")
        if not sign:
            raise UsageError(f"--kind takes NAME=anomalous, normal or mask, and got {assignment!r}. To choose kinds: --kinds.")
        roles[name] = role
    return roles


def names_in(text: str | None) -> list[str] | None:
    """["a", "b c"] of "a, b c"; None of None."""
    return None if text is None else [one.strip() for one in text.split(",") if one.strip()]


def check_out(out: str) -> None:
    """Raises ``UsageError`` where --out is empty."""
    if not out.strip():
        raise UsageError("--out is empty (an unset variable?). Give the folder for the results; '.' is this one.")
