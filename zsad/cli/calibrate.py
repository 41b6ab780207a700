"""``zsad calibrate``: scores normal pictures, keeps them as a calibration, and prints which false-alarm rate it guarantees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from zsad.cli.app import EXIT_CODES, app, sentence_on_error
from zsad.cli.console import print_json, progress, report_unreadable
from zsad.cli.options import (
    AdaptivePrompts,
    Anomalous,
    AnomalousMasks,
    Backbone,
    BatchSize,
    Checkpoint,
    Coreset,
    Device,
    Focus,
    IgnoreWords,
    Json,
    KeepAspect,
    Method,
    Overlap,
    Precision,
    Prompts,
    References,
    Replace,
    Roi,
    Sets,
    Target,
    Tile,
    ValueRange,
    Words,
    Workers,
    inspector_settings,
)
from zsad.common.file_names import many, printable
from zsad.decision.calibration import Calibration, false_alarm_rates
from zsad.decision.conformal import check_size, false_alarm_spread, lowest_rate, percent, pictures
from zsad.decision.thresholds import levels as batch_levels
from zsad.errors import ImageError, UsageError
from zsad.images.content import is_blank
from zsad.images.reading import ImageRef, digest_of, list_images, load_image
from zsad.inference.inspector import Inspector
from zsad.inference.normal_pictures import calibration_of, without_copies
from zsad.inference.reference_files import is_saved
from zsad.inference.scorer import Scored
from zsad.runs.summary import levels_of

NAMED = 3  # outliers that are called by name
INSIDE = 0.9  # of the sets of normal pictures: the spread that is printed


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def calibrate(
    normal: Annotated[
        str | None, typer.Option(help="Folder or quoted glob pattern of normal pictures that are no references.")
    ] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Take the references themselves, each scored without itself: approximate.")
    ] = False,
    target: Target = "object",
    out: Annotated[Path, typer.Option(help="File for the calibration.")] = Path("calibration.json"),
    method: Method = "compact",
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    focus: Focus = None,
    ignore_words: IgnoreWords = None,
    prompts: Prompts = None,
    adaptive_prompts: AdaptivePrompts = False,
    word: Words = None,
    references: References = None,
    anomalous: Anomalous = None,
    anomalous_masks: AnomalousMasks = None,
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
    overwrite: Replace = False,
    as_json: Json = False,
) -> None:
    """Scores normal pictures once, so that predict --calibration can guarantee a rate of false alarms.

    The levels can be chosen anew at every predict, without scoring anything again.
    """
    settings = inspector_settings(dict(locals()), "references", "anomalous", "anomalous_masks", "coreset")
    if leave_one_out == (normal is not None) or (leave_one_out and references is None):
        raise UsageError("Give --normal DIR, or --references DIR with --leave-one-out: where do the normal pictures come from?")
    source = normal if normal is not None else str(references)
    if out.is_dir() or (out.exists() and not overwrite):
        raise UsageError(f"{str(out)!r} is there already. Give --overwrite to replace a file, or another --out.")
    false_alarm_rates(max_false_alarms, review_false_alarms)
    if leave_one_out and is_saved(source):
        raise UsageError("Saved references hold no pictures to score. Give --references the folder of the pictures.")
    count = sum(1 for _ in list_images(source))
    check_size(count, max_false_alarms)  # before any weights are loaded
    inspector = Inspector(method, target, **settings)
    report_unreadable(inspector)
    _require_own_scores(inspector)
    scores = _left_out(inspector, source) if leave_one_out else _scores(inspector, source)
    found = list(progress(scores, "scoring", count))
    copies = len(found) - len(found := without_copies(found))
    if copies:
        typer.echo(f"zsad: {many(copies, 'exact copy', 'exact copies')} of other normal pictures left out.", err=True)
    errors = {one.name: one.error for one in found if one.error is not None}
    blank = {one.name: f"left out; {one.notes[-1]}" for one in found if is_blank(one.notes)}
    for name, reason in (errors | blank).items():
        typer.echo(f"zsad: {printable(name)}: {printable(reason)}", err=True)
    made = calibration_of(
        found,
        detector := inspector.describe(),
        exact=not leave_one_out,
        max_false_alarms=max_false_alarms,
        review_false_alarms=review_false_alarms,
    )
    scored = [one.name for one in found if one.score is not None and one.name not in blank]
    facts = _facts(made, scored) | {"copies": copies, "errors": errors}
    out.parent.mkdir(parents=True, exist_ok=True)
    made.save(out)
    if as_json:
        print_json(facts | {"detector": detector, "out": str(out)})
    else:
        typer.echo("\n".join(_lines(facts, len(made))))
        typer.echo(f"Written to {out}; use it with: zsad predict SOURCE --calibration {out}")
    raise typer.Exit(3 if errors else 0)


# ------------------------------------------------------------------ scores of normal pictures
def _scores(inspector: Inspector, source: str) -> Iterator[Scored]:
    """Scores of normal pictures that are no references.

    Raises:
        UsageError: some are references; nothing is scored then.
    """
    own = inspector.references.digests
    twice = [ref.name for ref in list_images(source) if _digest(inspector, ref) in own] if own else []
    if twice:
        raise UsageError(
            f"{len(twice)} of the normal pictures {'is a reference' if len(twice) == 1 else 'are references'} "
            f"({', '.join(twice[:NAMED])}): compared with themselves they look better than any picture to come. Take them out "
            "of --normal, or calibrate with the references alone: --references DIR --leave-one-out."
        )
    return inspector.scored(list_images(source))


def _left_out(inspector: Inspector, source: str) -> Iterator[Scored]:
    """Scores of the references, each by the others alone; copies of a picture count once, as they do among the references.

    Raises:
        UsageError: there are no others.
    """
    if len(inspector.references) < 2:
        raise UsageError("Leaving the only reference out leaves none to compare with. Give more references, or --normal DIR.")
    seen: set[str] = set()
    for ref in list_images(source):
        if not (digest := _digest(inspector, ref)):
            yield from inspector.scored([ref])  # has the error
        elif digest not in seen:
            seen.add(digest)
            yield from inspector.left_out(digest).scored([ref])


def _require_own_scores(inspector: Inspector) -> None:
    """Raises ``UsageError`` where scores depend on the set: those of the normal pictures do not carry over to other folders."""
    if inspector.needs_set:
        raise UsageError(
            f"{inspector.detector.name} compares the pictures of a folder with each other here, so a score depends on the "
            "others and no false-alarm rate can be guaranteed. Calibrate a detector that scores each picture by itself, such "
            "as compact with --references."
        )


def _digest(inspector: Inspector, ref: ImageRef) -> str:
    """``digest_of`` a picture; "" where it cannot be read."""
    try:
        return digest_of(load_image(ref, value_range=inspector.value_range).rgb)
    except ImageError:
        return ""


# ------------------------------------------------------------------ what is printed
def _facts(made: Calibration, names: list[str]) -> dict[str, Any]:
    """What the file holds and guarantees, as a JSON object."""
    first, second = made.shares()
    mean, low, high = false_alarm_spread(len(made), first, INSIDE)
    return {
        "normal": len(made),
        "kind": made.kind,
        "max_false_alarms": first,
        "review_false_alarms": second,
        "thresholds": levels_of(made.thresholds()),
        "floor": 1 / (len(made) + 1),
        "expected_false_alarms": {"mean": mean, "low": low, "high": high, "inside": INSIDE},
        "outliers": _outliers(made, names),
    }


def _outliers(made: Calibration, names: list[str]) -> list[dict[str, Any]]:
    """Normal pictures that the batch rule would call anomalous among themselves, the highest first."""
    found = batch_levels(made.scores)
    if isinstance(found, str):
        return []
    order = np.argsort(-np.asarray(made.scores), kind="stable").tolist()
    return [{"name": names[i], "score": made.scores[i]} for i in order if made.scores[i] >= found[1]]


def _lines(facts: dict[str, Any], count: int) -> list[str]:
    levels, spread = facts["thresholds"], facts["expected_false_alarms"]
    mean, low, high = (percent(spread[key], 2) for key in ("mean", "low", "high"))
    lines = [
        f"{pictures(count)} scored{', ' + str(len(facts['errors'])) + ' could not be read' if facts['errors'] else ''}.",
        f"Anomalous from {levels['anomalous']:.4g}, review from {levels['review']:.4g}, regions from {levels['pixel']:.4g}:",
        f"{levels['source']}.",
        f"The rate that comes true depends on which {count} these were: {mean} on average, for nine of ten such sets between "
        f"{low} and {high}.",
        f"{pictures(count)} cannot guarantee less than {lowest_rate(count)}.",
    ]
    return lines + ([_suspicion(facts["outliers"], count)] if facts["outliers"] else [])


def _suspicion(outliers: list[dict[str, Any]], count: int) -> str:
    named = ", ".join(f"{printable(one['name'])} ({one['score']:.4g})" for one in outliers[:NAMED])
    more = f" and {len(outliers) - NAMED} more" if len(outliers) > NAMED else ""
    return (
        f"Look at {named}{more}: {len(outliers)} of {count} score{'s' * (len(outliers) == 1)} far above the others. A defect "
        "among the normal pictures raises the level and hides others like it; if they are normal, all is well."
    )
