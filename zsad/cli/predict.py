"""``zsad predict``: pictures in, verdicts out."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from zsad.cli.app import EXIT_CODES, app, keeps_scores_in, sentence_on_error
from zsad.cli.console import log_to_stderr, progress, report_unreadable
from zsad.cli.dry_run import plan_of, show_plan
from zsad.cli.options import (
    Actors,
    AdaptivePrompts,
    Address,
    AllowDownloads,
    AllowUrls,
    Anomalous,
    AnomalousMasks,
    Backbone,
    Batch,
    BatchSize,
    Checkpoint,
    Coreset,
    Device,
    Engine,
    Every,
    Focus,
    IgnoreWords,
    Json,
    KeepAspect,
    LimitReport,
    MapsOut,
    Method,
    Null,
    Overlap,
    Overwrite,
    PixelThreshold,
    PoolSize,
    Precision,
    Prompts,
    References,
    Resume,
    RetryErrors,
    ReviewAt,
    Roi,
    Sets,
    SkipMasks,
    Target,
    Threshold,
    Tile,
    ValueRange,
    Words,
    Workers,
    check_out,
    inspector_settings,
)
from zsad.cli.predict_engine import engine_options, predict_with_engine
from zsad.cli.predict_output import print_results, print_summary
from zsad.cli.source import Source, TakesPaths
from zsad.common.file_names import many
from zsad.common.version import __version__, versions
from zsad.distributed.pool import POOL
from zsad.images.urls import without_keys
from zsad.inference.inspector import Inspector
from zsad.inference.settings import AUTO_FEWEST
from zsad.runs.drawing import Options
from zsad.runs.folder import RunFolder, count_outside
from zsad.runs.source_files import facts_of_references
from zsad.runs.summary import Summary
from zsad.runs.tables import load_pyarrow

LEVELS = ("threshold", "review_at", "pixel_threshold", "calibration", "max_false_alarms", "review_false_alarms")


class Format(StrEnum):
    """Files of predictions besides jsonl and csv."""

    coco, excel, parquet = "coco", "excel", "parquet"


@app.command(cls=TakesPaths, epilog=EXIT_CODES)
@sentence_on_error
def predict(
    source: Annotated[
        str,
        typer.Argument(help="A picture, folder, quoted glob pattern, archive or video; @list.txt, or - for a list."),
    ],
    target: Target = "object",
    out: Annotated[str, typer.Option(help="Folder for the results.")] = "results",
    method: Method = "compact",
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    word: Words = None,
    focus: Focus = None,
    ignore_words: IgnoreWords = None,
    prompts: Prompts = None,
    adaptive_prompts: AdaptivePrompts = False,
    references: References = None,
    anomalous: Anomalous = None,
    anomalous_masks: AnomalousMasks = None,
    coreset: Coreset = 1.0,
    set_: Sets = None,
    threshold: Threshold = None,
    review_at: ReviewAt = None,
    pixel_threshold: PixelThreshold = None,
    calibration: Annotated[
        Path | None, typer.Option(help="File of zsad calibrate: verdicts with a guaranteed false-alarm rate.")
    ] = None,
    max_false_alarms: Annotated[
        float | None,
        typer.Option(help="Share of normal pictures that may be called anomalous; the calibration's by default."),
    ] = None,
    review_false_alarms: Annotated[
        float | None, typer.Option(help="Share that may be called anomalous or review; twice the other by default.")
    ] = None,
    maps: Annotated[
        Literal["npy", "png"] | None, typer.Option(help="Write the maps too: float32 .npy, or 16-bit .png.")
    ] = None,
    format_: Annotated[
        list[Format] | None,
        typer.Option("--format", help="Write this too, beside jsonl and csv; repeat for more. excel: CSV that Excel opens."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    batch: Batch = None,
    batch_size: BatchSize = None,
    workers: Workers = 2,
    value_range: ValueRange = None,
    tile: Tile = None,
    overlap: Overlap = None,
    roi: Roi = None,
    keep_aspect: KeepAspect = False,
    null: Null = False,
    skip_masks: SkipMasks = "auto",
    every: Every = "1s",
    allow_urls: AllowUrls = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would be scored, in how much time and memory; score nothing."),
    ] = False,
    limit_report: LimitReport = 500,
    engine: Engine = None,
    address: Address = None,
    actors: Actors = None,
    maps_out: MapsOut = None,
    retry_errors: RetryErrors = False,
    pool_size: PoolSize = POOL,
    allow_downloads: AllowDownloads = False,
    as_json: Json = False,
) -> None:
    """Scores pictures, decides, and writes predictions.jsonl, .csv, report.html, overlays/ and masks/ to --out.

    By default the pictures of a folder are compared with each other (--batch auto: from 8 on, where the method can, without
    --threshold, --calibration or 4 --references). Without a threshold or calibration the verdicts come from the references, if
    there are 4 or more, else from a robust rule over the batch, which assumes that more than half of the pictures are normal
    and needs at least 8. With --engine ray a folder or store of any size becomes a table, see docs/scale.md.
    """
    given = dict(locals())
    if engine is not None or engine_options(given):
        return predict_with_engine(given)
    settings = inspector_settings(given, "references", "anomalous", "anomalous_masks", "coreset", *LEVELS)
    settings |= {} if batch is None else {"batch": batch}
    check_out(out)
    pictures = Source(source, null=null, skip_masks=skip_masks, every=every, allow_urls=allow_urls)
    if dry_run:
        return show_plan(plan_of(given, pictures.refs()), as_json)
    formats = tuple(format_ or ())
    if "parquet" in formats:
        load_pyarrow()
    refs = pictures.refs()
    first = next(refs)  # a wrong path ends here, before any weights are loaded
    inspector = Inspector(method, target, **settings).over(count_outside(pictures.refs(), AUTO_FEWEST))
    report_unreadable(inspector)
    detector, scoring = inspector.describe(), {"device": str(inspector.device), "batch_size": inspector.batch_size}
    with keeps_scores_in(out), RunFolder(out, detector, resume=resume, overwrite=overwrite, **scoring) as run:
        times: dict[str, Any] = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "on_record_before": len(run.records)}
        begun = time.perf_counter()
        score = partial(inspector.scored, folder=run.features)
        group = sys.maxsize if inspector.needs_set else inspector.batch_size
        total = sum(1 for _ in pictures.refs()) if sys.stderr.isatty() else 0
        with log_to_stderr():
            run.fill(run.outside(chain([first], refs)), score, group, watch=progress, total=total)
        scored = time.perf_counter()
        options = Options(maps, limit_report, formats=formats, source=source)
        summary = run.write(inspector, inspector.known_thresholds(), options, watch=progress)
        times |= {"scoring_seconds": round(scored - begun, 3), "writing_seconds": round(time.perf_counter() - scored, 3)}
        outcome = {"maps": _scale_of_maps(maps, inspector), "limit_report": limit_report, "times": times}
        outcome |= facts_of_references(references)
        run.finish(
            run_facts(without_keys(source), run, scoring, summary, calibration_facts(inspector, settings))
            | pictures.facts()
            | outcome
        )
    pictures.report()
    if run.skipped:
        typer.echo(f"zsad: output of earlier runs in {out} was left out: {many(run.skipped, 'picture')}.", err=True)
    if as_json:
        print_results(run.out)
    else:
        print_summary(run, inspector, summary)
    raise typer.Exit(3 if summary.counts["error"] else 0)


# ------------------------------------------------------------------ run.json
def run_facts(
    source: str, run: RunFolder, scoring: Mapping[str, Any], summary: Summary, calibration: dict[str, Any] | None
) -> dict[str, Any]:
    """What scored, and what came out; whatever may differ between equal runs goes under "times"."""
    outcome = summary.as_dict()
    return {
        "zsad": __version__,
        "versions": versions(("torch", "numpy", "scipy", "pillow", "open_clip_torch", "transformers"))
        | {"platform": platform.platform()},
        "source": source,
        "detector": run.detector,
        "seeds": {key: value for key, value in run.detector["arguments"].items() if "seed" in key},
        **scoring,
        "thresholds": outcome["thresholds"],
        "calibration": calibration,
        "counts": outcome["counts"],
        "notes": outcome["notes"],
    }


def calibration_facts(inspector: Inspector, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Which calibration the verdicts rest on, and at which false-alarm rates."""
    made = inspector.calibration
    if made is None:
        return None
    shares = made.shares(settings["max_false_alarms"], settings["review_false_alarms"])
    facts = {"file": str(settings["calibration"] or "of the exported model"), "kind": made.kind, "normal_pictures": len(made)}
    return facts | {"max_false_alarms": shares[0], "review_false_alarms": shares[1]}


def _scale_of_maps(kind: str | None, inspector: Inspector) -> str | None:
    low, high = inspector.detector.map_range
    if kind == "png":
        return f"16 bit at original size: 0 is {low:g} and 65535 is {high:g}"
    return "float32 at original size" if kind else None
