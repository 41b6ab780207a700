"""What ``zsad calibrate`` does: scores normal pictures, keeps the calibration, and says what it promises and what it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer
from tqdm import tqdm

from zsad.cli.console import print_json, say_unreadable
from zsad.common.file_names import printable
from zsad.decision.calibration import Calibration, both_shares
from zsad.decision.conformal import check_size, false_alarm_spread, floor_said, percent, pictures
from zsad.decision.thresholds import levels as batch_levels
from zsad.errors import ImageError, UsageError
from zsad.images.reading import ImageRef, list_images, load_image
from zsad.inference.inspector import Inspector
from zsad.inference.reference_set import digest_of, is_saved
from zsad.inference.result import shortest
from zsad.inference.scorer import Scored

__all__ = ["Request", "calibrate_folder"]

NAMED = 3  # outliers that are called by name
INSIDE = 0.9  # of the sets of normal pictures: the spread that is printed


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    normal: str
    target: str
    out: Path
    method: str
    settings: dict[str, Any]  # keywords of Inspector
    max_false_alarms: float
    review_false_alarms: float | None = None
    leave_one_out: bool = False
    overwrite: bool = False
    as_json: bool = False


def calibrate_folder(request: Request) -> int:
    """Scores, writes the file and says what came out; returns the exit code."""
    if request.out.is_dir() or (request.out.exists() and not request.overwrite):
        raise UsageError(f"{str(request.out)!r} is there already. Give --overwrite to replace a file, or another --out.")
    both_shares(request.max_false_alarms, request.review_false_alarms)
    if request.leave_one_out and is_saved(request.normal):
        raise UsageError("Saved references hold no pictures to judge. Give --references the folder of the pictures.")
    count = sum(1 for _ in list_images(request.normal))
    check_size(count, request.max_false_alarms)  # before any weights are loaded
    inspector = Inspector(request.method, request.target, **request.settings)
    say_unreadable(inspector)
    _require_own_scores(inspector)
    if request.leave_one_out:
        scores = _left_out(inspector, request.normal)
    else:
        _require_no_reference(inspector, request.normal)
        scores = inspector.scored(list_images(request.normal))
    found = list(tqdm(scores, "scoring", count, unit="picture", disable=None))
    errors = {one.name: one.error for one in found if one.error is not None}
    names = [one.name for one in found if one.error is None]
    for name, error in errors.items():
        typer.echo(f"zsad: {printable(name)}: {printable(error)}", err=True)
    made = _calibration(request, inspector, found)
    facts = _facts(made, names) | {"errors": errors}
    request.out.parent.mkdir(parents=True, exist_ok=True)
    made.save(request.out)
    if request.as_json:
        print_json(facts | {"judge": inspector.describe(), "out": str(request.out)})
    else:
        typer.echo("\n".join(_said(facts, len(made))))
        typer.echo(f"Written to {request.out}; use it with: zsad predict SOURCE --calibration {request.out}")
    return 3 if errors else 0


def _require_own_scores(inspector: Inspector) -> None:
    """Raises ``UsageError`` where scores depend on the set: those of the normal pictures say nothing of another folder's."""
    if inspector.judges_sets:
        raise UsageError(
            f"{inspector.detector.name} judges the pictures of a folder against each other here, so a score depends on the "
            "others and no promise can be kept. Calibrate a judge that scores each picture by itself, such as compact with "
            "--references."
        )


def _require_no_reference(inspector: Inspector, source: str) -> None:
    """Raises ``UsageError`` where some of the normal pictures are references of the inspector; nothing is scored for it."""
    own = inspector.references.digests
    twice = [ref.name for ref in list_images(source) if _digest(inspector, ref) in own] if own else []
    if twice:
        raise UsageError(
            f"{len(twice)} of the normal pictures {'is a reference' if len(twice) == 1 else 'are references'} "
            f"({', '.join(twice[:NAMED])}): judged by themselves they look better than any picture to come. Take them out of "
            "--normal, or calibrate with the references alone: --references DIR --leave-one-out."
        )


def _digest(inspector: Inspector, ref: ImageRef) -> str:
    """``digest_of`` a picture; "" where it cannot be read."""
    try:
        return digest_of(load_image(ref, value_range=inspector.value_range).rgb)
    except ImageError:
        return ""


def _left_out(inspector: Inspector, source: str) -> Iterator[Scored]:
    """Scores of the references, each by the others alone; copies of a picture count once, as they do among the references.

    Raises:
        UsageError: there are no others.
    """
    if len(inspector.references) < 2:
        raise UsageError("Leaving the only reference out leaves none to judge by. Give more references, or --normal DIR.")
    seen: set[str] = set()
    for ref in list_images(source):
        if not (digest := _digest(inspector, ref)):
            yield from inspector.scored([ref])  # says why
        elif digest not in seen:
            seen.add(digest)
            yield from inspector.left_out(digest).scored([ref])


def _calibration(request: Request, inspector: Inspector, found: list[Scored]) -> Calibration:
    good = [(one.score, shortest(one.model_map.max())) for one in found if one.score is not None and one.model_map is not None]
    check_size(len(good), request.max_false_alarms)
    return Calibration.from_scores(
        [score for score, _ in good],
        [peak for _, peak in good],
        inspector.describe(),
        exact=not request.leave_one_out,
        max_false_alarms=request.max_false_alarms,
        review_false_alarms=request.review_false_alarms,
    )


def _facts(made: Calibration, names: list[str]) -> dict[str, Any]:
    """What the file holds and promises, as a JSON object."""
    first, second = made.shares()
    levels = made.thresholds()
    mean, low, high = false_alarm_spread(len(made), first, INSIDE)
    return {
        "normal": len(made),
        "kind": made.kind,
        "max_false_alarms": first,
        "review_false_alarms": second,
        "thresholds": {"anomalous": levels.anomalous, "review": levels.review, "pixel": levels.pixel, "source": levels.source},
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


def _said(facts: dict[str, Any], count: int) -> list[str]:
    levels, spread = facts["thresholds"], facts["expected_false_alarms"]
    mean, low, high = (percent(spread[key], 2) for key in ("mean", "low", "high"))
    lines = [
        f"{pictures(count)} scored{', ' + str(len(facts['errors'])) + ' could not be read' if facts['errors'] else ''}.",
        f"Anomalous from {levels['anomalous']:.4g}, review from {levels['review']:.4g}, regions from {levels['pixel']:.4g}:",
        f"{levels['source']}.",
        f"The rate that comes true depends on which {count} these were: {mean} on average, for nine of ten such sets between "
        f"{low} and {high}.",
        f"{pictures(count)} cannot promise less than {floor_said(count)}.",
    ]
    return lines + ([_suspicion(facts["outliers"], count)] if facts["outliers"] else [])


def _suspicion(outliers: list[dict[str, Any]], count: int) -> str:
    named = ", ".join(f"{printable(one['name'])} ({one['score']:.4g})" for one in outliers[:NAMED])
    more = f" and {len(outliers) - NAMED} more" if len(outliers) > NAMED else ""
    return (
        f"Look at {named}{more}: {len(outliers)} of {count} score{'s' * (len(outliers) == 1)} far above the others. A defect "
        "among the normal pictures raises the level and hides others like it; if they are normal, all is well."
    )
