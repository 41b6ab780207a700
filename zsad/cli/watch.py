"""``zsad watch``: a folder that pictures arrive in, and results that grow with it."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from zsad.cli.app import app, sentence_on_error
from zsad.cli.console import log_to_stderr, report_unreadable
from zsad.cli.options import (
    AdaptivePrompts,
    Backbone,
    Checkpoint,
    Coreset,
    Device,
    Focus,
    IgnoreWords,
    KeepAspect,
    LimitReport,
    Method,
    Overlap,
    Overwrite,
    PixelThreshold,
    Precision,
    Prompts,
    References,
    ReviewAt,
    Roi,
    Sets,
    Target,
    Threshold,
    Tile,
    ValueRange,
    Words,
    Workers,
    check_out,
    inspector_settings,
)
from zsad.cli.predict import LEVELS, calibration_facts, run_facts
from zsad.cli.source import TakesPaths
from zsad.common.file_names import many, printable
from zsad.decision.thresholds import ANOMALOUS, Thresholds
from zsad.errors import UsageError
from zsad.inference.inspector import Inspector
from zsad.runs.drawing import Options
from zsad.runs.folder import RunFolder
from zsad.runs.summary import verdict_line
from zsad.runs.watching import HotFolder, Watcher
from zsad.runs.writers import write_facts

LONGEST = 60  # seconds that a command of --exec may take


@app.command(
    cls=TakesPaths, epilog="Exit codes: 0 stopped (SIGTERM, Ctrl-C) or done (--once), 2 wrong usage (one sentence on stderr)."
)
@sentence_on_error
def watch(
    folder: Annotated[Path, typer.Argument(help="The folder that pictures arrive in, with its subfolders.")],
    target: Target = "object",
    out: Annotated[str, typer.Option(help="Folder for the results; a run that is there goes on.")] = "results",
    method: Method = "compact",
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    focus: Focus = None,
    ignore_words: IgnoreWords = None,
    prompts: Prompts = None,
    adaptive_prompts: AdaptivePrompts = False,
    word: Words = None,
    references: References = None,
    coreset: Coreset = 1.0,
    set_: Sets = None,
    threshold: Threshold = None,
    review_at: ReviewAt = None,
    pixel_threshold: PixelThreshold = None,
    calibration: Annotated[Path | None, typer.Option(help="File of zsad calibrate.")] = None,
    max_false_alarms: Annotated[float | None, typer.Option(help="As of zsad predict.")] = None,
    review_false_alarms: Annotated[float | None, typer.Option(help="As of zsad predict.")] = None,
    maps: Annotated[Literal["npy", "png"] | None, typer.Option(help="Write the maps too.")] = None,
    exec_: Annotated[
        str | None,
        typer.Option("--exec", help="Command per anomalous picture; its JSON row comes on standard input. No shell."),
    ] = None,
    interval: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look twice, score what stood still, and end.")] = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    workers: Workers = 2,
    value_range: ValueRange = None,
    tile: Tile = None,
    overlap: Overlap = None,
    roi: Roi = None,
    keep_aspect: KeepAspect = False,
    overwrite: Overwrite = False,
    limit_report: LimitReport = 500,
    as_json: Annotated[bool, typer.Option("--json", help="Print every row as one line of JSON.")] = False,
) -> None:
    """Scores pictures as they arrive in a folder, each by itself and once, and keeps the results of a run up to date.

    A picture counts once its size and time have stood still for two looks. Rows are appended to predictions.jsonl and .csv,
    and report.html is renewed. Started again with the same --out it goes on; results of pictures that were moved away stay.
    """
    batch_size = 1  # a score's last digits depend on the batch, and pictures arrive in any
    settings = inspector_settings(dict(locals()), "references", "coreset", *LEVELS)
    check_out(out)
    hot, command = HotFolder(folder), _command(exec_)
    with _stopped() as stop, log_to_stderr():
        inspector = Inspector(method, target, batch="off", **settings)
        if inspector.needs_set:
            raise UsageError(f"{method} compares the pictures of a folder, and these arrive one by one. Choose another method.")
        report_unreadable(inspector)
        _check_levels(inspector.known_thresholds(), command)
        scoring = {"device": str(inspector.device), "batch_size": batch_size}
        with RunFolder(out, inspector.describe(), resume=not overwrite, overwrite=overwrite, **scoring) as run:
            watcher = Watcher(run, inspector, Options(maps, limit_report, source=str(folder)), _hand_on(command, as_json))
            typer.echo(f"zsad: watching {folder}; {many(len(watcher.journal.last), 'picture')} in {out}.", err=True)
            _loop(watcher, hot, stop, interval, once, lambda: _renew(watcher, str(folder), scoring, settings))


def _hand_on(command: list[str] | None, as_json: bool) -> Callable[[dict[str, Any]], None]:
    """What is done with every new row: a line on stdout, and the command for an anomalous picture."""

    def hand_on(row: dict[str, Any]) -> None:
        typer.echo(json.dumps(row) if as_json else _line(row))
        if command and row["pred_label"] == ANOMALOUS:  # though the file may be gone before it could be drawn
            _execute(command, row)

    return hand_on


def _loop(
    watcher: Watcher, hot: HotFolder, stop: threading.Event, interval: float, once: bool, renew: Callable[[], str]
) -> None:
    """Looks, scores and renews the report until it is told to stop."""
    outcome, looks, waiting = renew(), 0, 0
    while not stop.is_set():
        found, waiting = hot.look(watcher.run.records.known)
        looks += 1
        for ref, state in found:
            if stop.is_set():
                break
            watcher.take(ref, state)
        if found:
            outcome = renew()
        if once and looks > 1:
            break
        stop.wait(interval)
    left = f" {many(waiting, 'picture')} had not stopped growing." if once and waiting else ""
    typer.echo(f"zsad: {'done' if once and not stop.is_set() else 'stopped'}. {outcome}.{left}", err=True)


def _renew(watcher: Watcher, source: str, scoring: dict[str, Any], settings: dict[str, Any]) -> str:
    """Writes report.html and run.json anew; returns the counts in words."""
    summary = watcher.report()
    facts = run_facts(source, watcher.run, scoring, summary, calibration_facts(watcher.inspector, settings))
    aside = watcher.run.out / ".zsad" / "run.json"
    write_facts(aside, facts | {"times": {"written": time.strftime("%Y-%m-%dT%H:%M:%S%z")}})
    aside.replace(watcher.run.out / "run.json")
    return verdict_line(summary.counts)


def _check_levels(known: Thresholds, command: list[str] | None) -> None:
    if known.anomalous is not None:
        return
    need = "Give --calibration, --threshold or 4 references or more"
    if command:
        raise UsageError(f"--exec is for anomalous pictures, and no rule calls a picture anomalous. {need}.")
    typer.echo(f"zsad: pictures are scored without a verdict. {need} for verdicts.", err=True)


def _line(row: dict[str, Any]) -> str:
    score = "-" if row["pred_score"] is None else f"{row['pred_score']:.4f}"
    return f"{score}  {'error' if row['error'] else row['pred_label'] or '-':9}  {printable(row['error'] or row['name'])}"


# ------------------------------------------------------------------ --exec
def _command(text: str | None) -> list[str] | None:
    """The words of a command.

    Raises:
        UsageError: it cannot be split, or there is no such program.
    """
    if text is None:
        return None
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--exec {text!r} cannot be split into words: {error}. Check its quotes.") from error
    if not words or shutil.which(words[0]) is None:
        raise UsageError(
            f"--exec {text!r} names no program that can be run. Give its path, or a shell: --exec \"sh -c '...'\"."
        )
    return words


def _execute(command: list[str], row: dict[str, Any]) -> None:
    """Runs the command with the row on standard input; what goes wrong is a line on stderr."""
    data = json.dumps(row).encode() + b"\n"
    try:  # in a session of its own, so that Ctrl-C stops the watching and not the command
        code = subprocess.run(
            command, input=data, stdout=subprocess.DEVNULL, timeout=LONGEST, start_new_session=True, check=False
        ).returncode
        trouble = f"ended with exit code {code}" if code else ""
    except subprocess.TimeoutExpired:
        trouble = f"took more than {LONGEST} s and was ended"
    except OSError as error:
        trouble = f"could not be run: {error.strerror or error}"
    if trouble:
        typer.echo(f"zsad: --exec for {printable(row['name'])} {trouble}.", err=True)


# ------------------------------------------------------------------ signals
@contextmanager
def _stopped() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; the picture that is being scored is finished first."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(kind, lambda *_: stop.set()) for kind in kinds]
    try:
        yield stop
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
