"""``zsad evaluate``: a data set with labels in, a table of metrics out."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from zsad.cli.app import EXIT_CODES, Json, app, sentence_on_error
from zsad.cli.options import (
    Backbone,
    BatchSize,
    Checkpoint,
    Coreset,
    Device,
    KeepAspect,
    Method,
    Overlap,
    Precision,
    Roi,
    Sets,
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
def evaluate(
    data: Annotated[str, typer.Option(help="Folder of a data set, the file that lists it, or elpv, elpv:mono, elpv:poly.")],
    method: Method = "compact",
    out: Annotated[str, typer.Option(help="Folder for metrics.csv, metrics.json and metrics.md.")] = "evaluation",
    categories: Annotated[str | None, typer.Option(help="Only these, with commas between.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Only these, with commas between: image_auroc, aupro, aupimo ...")] = None,
    layout: Annotated[str | None, typer.Option(help="Of the data set, where it fits several.")] = None,
    split: Annotated[str, typer.Option(help="Which pictures are scored.")] = "test",
    kinds: Annotated[str | None, typer.Option(help="Only these kinds, with commas between: good,crack.")] = None,
    map_size: Annotated[int | None, typer.Option(help="Pixel metrics at this size; by default at the model's.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Pixel metrics without bins.")] = False,
    shots: Annotated[int, typer.Option(help="Normal pictures per category that are given as references.")] = 0,
    seeds: Annotated[str, typer.Option(help="Of the draws of references, with commas between.")] = "0",
    raw_names: Annotated[bool, typer.Option("--raw-names", help="Categories' own names in sentences: pcb1.")] = False,
    coreset: Coreset = 1.0,
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    word: Words = None,
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
    jobs: Annotated[int, typer.Option(help="Processes; each takes whole categories.")] = 1,
    keep_maps: Annotated[bool, typer.Option("--keep-maps", help="Leave the maps in --out, as float32 .npy.")] = False,
    allow_leakage: Annotated[bool, typer.Option("--allow-leakage", help="Measure also on data that was learned from.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the evaluation in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the evaluation in --out first.")] = False,
    as_json: Json = False,
) -> None:
    """Measures a method on a data set with labels: a table per category and the mean, printed and in --out.

    Layouts are recognised. What cannot be read becomes an error, and the rest is still measured.
    """
    given: dict[str, Any] = dict(locals())
    from zsad.cli.evaluate import Request, evaluate_data, numbers_of, words_of

    if not out.strip():
        raise UsageError("--out is empty (an unset variable?). Give the folder for the results; '.' is this one.")
    given |= {key: words_of(given[key]) for key in ("categories", "kinds", "metrics")} | {"seeds": numbers_of(seeds)}
    plan = ("categories", "kinds", "metrics", "split", "map_size", "exact", "shots", "seeds", "raw_names", "coreset")
    how = ("jobs", "keep_maps", "allow_leakage", "resume", "overwrite")
    options = settings_of(given, method_arguments(method, set_, word), *plan, *how)
    raise typer.Exit(evaluate_data(Request(data, method, out, layout, options, as_json)))
