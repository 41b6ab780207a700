"""``zsad predict`` and ``zsad calibrate``: pictures in, verdicts out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from zsad.cli.app import EXIT_CODES, Json, app, sentence_on_error
from zsad.cli.options import (
    Backbone,
    BatchSize,
    Checkpoint,
    Coreset,
    Device,
    FalseAlarms,
    KeepAspect,
    Method,
    Overlap,
    Precision,
    References,
    ReviewShare,
    Roi,
    Sets,
    Target,
    Tile,
    ValueRange,
    Words,
    Workers,
    method_arguments,
    settings_of,
)
from zsad.errors import UsageError


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
    references: References = None,
    coreset: Coreset = 1.0,
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
    precision: Precision = "fp32",
    batch_size: BatchSize = None,
    workers: Workers = 2,
    value_range: ValueRange = None,
    tile: Tile = None,
    overlap: Overlap = None,
    roi: Roi = None,
    keep_aspect: KeepAspect = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in --out first.")] = False,
    limit_report: Annotated[int, typer.Option(min=0, help="Pictures shown in report.html, the worst first.")] = 500,
    as_json: Json = False,
) -> None:
    """Scores pictures, decides, and writes predictions.jsonl, .csv, report.html, overlays/ and masks/ to --out.

    Without --threshold or --calibration the verdicts come from a robust rule over the batch itself, which assumes that more
    than half of the pictures are normal; it needs at least 8.
    """
    given = dict(locals())
    from zsad.cli.predict import Request, predict_folder
    from zsad.runs.writers import Options

    if not out.strip():
        raise UsageError("--out is empty (an unset variable?). Give the folder for the results; '.' is this one.")
    arguments = method_arguments(method, set_, word)
    levels = ("threshold", "review_at", "pixel_threshold", "calibration", "max_false_alarms", "review_false_alarms")
    settings = settings_of(given, arguments, "references", "coreset", *levels)
    request = Request(source, target, Path(out), method, settings, Options(maps, limit_report), resume, overwrite, as_json)
    raise typer.Exit(predict_folder(request))


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def calibrate(
    normal: Annotated[
        str | None, typer.Option(help="Folder or quoted glob pattern of normal pictures that are no references.")
    ] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Take the references themselves, each judged without itself: approximate.")
    ] = False,
    target: Target = "object",
    out: Annotated[Path, typer.Option(help="File for the calibration.")] = Path("calibration.json"),
    method: Method = "compact",
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    word: Words = None,
    references: References = None,
    coreset: Coreset = 1.0,
    set_: Sets = None,
    max_false_alarms: Annotated[float, typer.Option(help="Share of normal pictures that may be called anomalous.")] = 0.05,
    review_false_alarms: Annotated[
        float | None,
        typer.Option(
            "--review-false-alarms",
            "--review-at",
            help="Share that may be called anomalous or review; twice the other by default.",
        ),
    ] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    batch_size: BatchSize = None,
    workers: Workers = 2,
    value_range: ValueRange = None,
    tile: Tile = None,
    overlap: Overlap = None,
    roi: Roi = None,
    keep_aspect: KeepAspect = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Scores normal pictures once, so that predict --calibration can keep a promise of few false alarms.

    The levels can be chosen anew at every predict, without scoring anything again.
    """
    given = dict(locals())
    from zsad.cli.calibrate import Request, calibrate_folder

    settings = settings_of(given, method_arguments(method, set_, word), "references", "coreset")
    if leave_one_out == (normal is not None) or (leave_one_out and references is None):
        raise UsageError("Give --normal DIR, or --references DIR with --leave-one-out: where do the normal pictures come from?")
    source = normal if normal is not None else str(references)
    shares = (max_false_alarms, review_false_alarms)
    raise typer.Exit(
        calibrate_folder(Request(source, target, out, method, settings, *shares, leave_one_out, overwrite, as_json))
    )


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def references(
    folder: Annotated[Path, typer.Argument(help="Folder of saved references; made if it is not there.")],
    add: Annotated[list[str] | None, typer.Option(help="Normal pictures: a folder or pattern; repeat for more.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Name of a picture to take out; repeat for more.")] = None,
    method: Method = "compact",
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    set_: Sets = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    batch_size: BatchSize = None,
    workers: Workers = 2,
    value_range: ValueRange = None,
    tile: Tile = None,
    overlap: Overlap = None,
    roi: Roi = None,
    keep_aspect: KeepAspect = False,
    as_json: Json = False,
) -> None:
    """Makes, shows and changes a folder of references for --references, without encoding anything twice."""
    given = dict(locals())
    from zsad.cli.references import Request, change_references

    settings = settings_of(given, method_arguments(method, set_, None))
    raise typer.Exit(change_references(Request(folder, method, add or (), remove or (), settings, as_json)))
