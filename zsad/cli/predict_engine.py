"""``zsad predict --engine``: a folder or store of any number of pictures, scored by many processes into one table."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from tqdm import tqdm

from zsad.cli.console import log_to_stderr, report_unreadable
from zsad.cli.options import check_out, inspector_settings
from zsad.common.file_names import many
from zsad.distributed.job import Job
from zsad.distributed.levels import Outcome
from zsad.distributed.manifest import read_manifest
from zsad.distributed.places import Place, is_store
from zsad.distributed.pool import POOL, POOL_FILE, draw, kept_pool, make_pool, pooled_form
from zsad.distributed.ray_engine import RayEngine, load_ray
from zsad.distributed.scorer import BatchScorer
from zsad.distributed.specification import LEVELS, Specification, attachments_of, go_offline, specify
from zsad.distributed.work import Done
from zsad.errors import UsageError
from zsad.images.path_lists import read_paths
from zsad.images.walking import MAGIC
from zsad.inference.inspector import Inspector
from zsad.runs.summary import verdict_line

__all__ = ["engine_options", "predict_with_engine"]

OWN = {"address": None, "actors": None, "maps_out": None, "retry_errors": False, "pool_size": POOL, "allow_downloads": False}
NOT_HERE = {"format_": None, "dry_run": False, "allow_urls": False, "null": False, "every": "1s"}
SECONDS = 60  # between lines on the progress where there is no terminal


def engine_options(given: Mapping[str, Any]) -> list[str]:
    """The options that say something to an engine alone, and were given."""
    return [f"--{key.replace('_', '-')}" for key, default in OWN.items() if given[key] != default]


def predict_with_engine(given: Mapping[str, Any]) -> None:
    """Carries the command out.

    Args:
        given: the command's parameters by name.

    Raises:
        UsageError: options that do not go together, and whatever a worker says in a sentence.
    """
    check_options(given)
    load_ray()
    source = source_of(given["source"])
    settings = inspector_settings(given, "references", "anomalous", "anomalous_masks", "coreset", *LEVELS)
    settings |= {"method": given["method"], "target": given["target"]}
    if not given["allow_downloads"]:
        go_offline()
    with log_to_stderr(), stopped_by_user(given["out"]):
        inspector = Inspector(**settings, batch="off")
        report_unreadable(inspector)
        job = job_of(given, inspector, settings, source)
        engine = RayEngine(given["address"], given["actors"], 1)
        outcome = job.run(engine, watched, inspector.far_score)
    show(given, job, outcome)
    raise typer.Exit(3 if outcome.counts["error"] else 0)


def check_options(given: Mapping[str, Any]) -> None:
    """Raises ``UsageError`` for options that do not go together."""
    check_out(given["out"])
    if given["engine"] is None:
        raise UsageError(f"{', '.join(engine_options(given))} is for --engine ray. Give that too, or leave it out.")
    if wrong := [key.strip("_") for key, default in NOT_HERE.items() if (given[key] or default) != default]:
        raise UsageError(
            f"--{wrong[0].replace('_', '-')} does nothing with --engine {given['engine']}, which takes a folder, a store or "
            "@list.txt and writes a Parquet table. Leave it out."
        )
    if given["skip_masks"] == "on":
        raise UsageError(
            "--skip-masks on looks at all pictures together, which --engine does not. Keep masks in another folder."
        )
    if (given["maps"] is None) != (given["maps_out"] is None):
        raise UsageError("With --engine maps need both --maps (png or npy) and --maps-out, the folder or address for them.")


def source_of(text: str) -> str:
    """The source in full. Raises ``UsageError`` for a pattern, or a list on standard input."""
    if text == "-":
        raise UsageError("--engine reads no list from standard input, since a run is gone on with later. Give @list.txt.")
    if text.startswith("@") or is_store(text):
        return text
    if MAGIC.search(text) and not Path(text).exists():
        raise UsageError(
            f"{text!r} is a pattern; --engine takes a folder, an address such as s3://bucket/photos, or @list.txt."
        )
    return Place(text).url


def job_of(given: Mapping[str, Any], inspector: Inspector, settings: Mapping[str, Any], source: str) -> Job:
    """The run, with its pool where pictures are compared with one: asked for, or because the method always compares."""
    pictures = None
    if source.startswith("@"):
        listed = [str(Path(path).absolute()) for path in read_paths(Path(source[1:]).read_bytes(), f"The list {source[1:]!r}")]
        pictures = [(path, path) for path in listed]
    spec = specify(
        inspector, settings, source="" if pictures else source, maps=given["maps"], maps_out=given["maps_out"],
        network=given["allow_downloads"],
    )  # fmt: skip
    attachments = attachments_of(inspector)
    if given["batch"] == "on" or inspector.needs_set:
        spec = with_pool(given, inspector, spec, attachments, pictures)
    return Job(spec, attachments, given["out"], given["retry_errors"], given["overwrite"], pictures)


def with_pool(
    given: Mapping[str, Any],
    inspector: Inspector,
    spec: Specification,
    attachments: dict[str, bytes],
    pictures: Iterable[tuple[str, str]] | None,
) -> Specification:
    """Draws and encodes the pool, or takes that of the table that is gone on with; adds it to the attachments."""
    pooled_form(inspector)
    place, seed = Place(given["out"]), int(inspector.detector.arguments().get("seed", 0))
    manifest = None if given["overwrite"] else read_manifest(place)
    kept = kept_pool(place, manifest, seed)
    if kept is None:
        listed = Place(spec.source).pictures() if pictures is None else pictures
        scorer = BatchScorer(spec)
        drawn = draw((path for path, _ in listed), given["pool_size"], seed)
        kept = make_pool(inspector, map(scorer.ref, drawn), seed)
        if manifest is None:  # else the table was made with another pool, and the run is refused
            place.write(POOL_FILE, kept[0])
    attachments[POOL_FILE] = kept[0]
    return replace(spec, pool=kept[1])


# ------------------------------------------------------------------ what a person sees
def watched(done: Iterator[Done], left: int, before: int) -> Iterator[Done]:
    """Shows progress: a bar on a terminal, else a line every minute."""
    if before:
        typer.echo(f"zsad: {many(before, 'picture is', 'pictures are')} in the table already, {left} to score.", err=True)
    bar = tqdm(total=left, desc="scoring", unit="picture", disable=None)
    begun = told = time.monotonic()
    scored = errors = first = 0
    with bar:
        for one in done:
            scored, errors = scored + one.pictures, errors + one.errors
            bar.update(one.pictures)
            now = time.monotonic()
            if not first:
                begun, first = now, scored  # the time before has the start of Ray and the loading of models
            elif not sys.stderr.isatty() and now - told >= SECONDS:
                told, rate = now, (scored - first) / (now - begun)
                rest = (left - scored) / rate / 60
                typer.echo(
                    f"zsad: {scored} of {left}, {errors} errors, {rate:.1f} per second, {rest:.0f} minutes to go", err=True
                )
            yield one


@contextmanager
def stopped_by_user(out: str) -> Iterator[None]:
    """Turns a stop by the user into a line on how to go on, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"zsad: stopped. What is scored is in {Place(out)}; the same command goes on with it.", err=True)
        raise typer.Exit(130) from None


def show(given: Mapping[str, Any], job: Job, outcome: Outcome) -> None:
    """Counts, levels and errors by kind, as lines or as one JSON document."""
    if given["as_json"]:
        typer.echo(json.dumps(outcome.as_dict() | {"out": str(Place(job.out))}, indent=1))
        return
    levels = outcome.thresholds
    typer.echo(f"{verdict_line(outcome.counts, levels.false_alarm_rate)}.")
    for kind, number in outcome.errors.most_common(10):
        typer.echo(f"Error of {many(number, 'picture')}: {kind}.")
    typer.echo(f"Threshold: {'none' if levels.anomalous is None else f'{levels.anomalous:.4g}'}; {levels.source}.")
    if job.specification.pool is None:
        typer.echo("Each picture was scored by itself; --batch on compares them with a pool of others.")
    else:
        typer.echo(f"Pictures were compared with a pool of {job.specification.pool['pieces']}, drawn by seed.")
    typer.echo(f"Written to {Place(job.out)}: table/, manifest.json, summary.json. For a report: zsad report {Place(job.out)}")
