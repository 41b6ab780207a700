"""What ``zsad predict`` does, between the command line and the run folder."""

from __future__ import annotations

import platform
import shutil
import sys
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import typer
from tqdm import tqdm

from zsad.cli.console import heard, say_unreadable, table
from zsad.common.file_names import many
from zsad.common.version import __version__, versions
from zsad.images.reading import list_images
from zsad.inference.inspector import Inspector
from zsad.registry import list_methods, method_class
from zsad.runs.folder import RunFolder
from zsad.runs.records import rows_at
from zsad.runs.report import verdict_line
from zsad.runs.writers import Options, Summary, write_results

__all__ = ["Request", "predict_folder"]

SHOWN = 20  # rows of the table on stdout
STEP_UP = "winclip"


@dataclass
class Request:
    """What the user asked for."""

    source: str
    target: str
    out: Path
    method: str
    settings: dict[str, Any]  # keywords of Inspector
    options: Options
    resume: bool = False
    overwrite: bool = False
    as_json: bool = False
    times: dict[str, Any] = field(default_factory=dict)


def predict_folder(request: Request) -> int:
    """Scores, decides, writes and says what came out; returns the exit code."""
    refs = list_images(request.source)
    first = next(refs)  # a wrong path is said before any weights are loaded
    inspector = Inspector(request.method, request.target, **request.settings)
    say_unreadable(inspector)
    folder = RunFolder(request.out)
    folder.claim(resume=request.resume, overwrite=request.overwrite)
    folder.records.open(inspector.describe() | {"device": str(inspector.device), "batch_size": inspector.batch_size})
    request.times |= {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "on_record_before": len(folder.records)}
    try:
        places = _score(folder, inspector, chain([first], refs), request)
        begun = time.perf_counter()
        summary = write_results(
            folder,
            places,
            inspector,
            inspector.thresholds,
            request.options,
            lambda s: _about(request, inspector, s, begun),
            _watch,
        )
    except KeyboardInterrupt:
        typer.echo(f"zsad: stopped. What is scored is kept in {request.out}; give --resume to go on with it.", err=True)
        return 130
    _say(request, inspector, folder, summary)
    return 3 if summary.counts["error"] else 0


def _score(folder: RunFolder, inspector: Inspector, refs: Iterable[Any], request: Request) -> array[int]:
    begun = time.perf_counter()
    total = sum(1 for _ in list_images(request.source)) if sys.stderr.isatty() else 0
    spill = folder.hidden / "features" if inspector.judges_sets else None
    group = sys.maxsize if inspector.judges_sets else inspector.batch_size
    found = folder.records.score(folder.outside(refs), partial(inspector.scored, folder=spill), group)
    with heard():
        places = array("q", _watch(found, "scoring", total))
    if spill is not None:
        shutil.rmtree(spill, ignore_errors=True)  # every answer is on record
    request.times["scoring_seconds"] = round(time.perf_counter() - begun, 3)
    return places


def _watch(items: Iterable[Any], label: str, total: int) -> Iterable[Any]:
    """A progress bar on stderr, silent without a terminal."""
    return tqdm(items, label, total or None, unit="picture", disable=None)


def _about(request: Request, inspector: Inspector, summary: Summary, begun: float) -> dict[str, Any]:
    """The content of run.json; everything that may differ between equal runs is under "times"."""
    levels = summary.thresholds
    described = inspector.describe()
    return {
        "zsad": __version__,
        "versions": versions(("torch", "numpy", "scipy", "pillow", "open_clip_torch", "transformers"))
        | {"platform": platform.platform()},
        "source": request.source,
        "judge": described,
        "seeds": {key: value for key, value in described["arguments"].items() if "seed" in key},
        "device": str(inspector.device),
        "batch_size": inspector.batch_size,
        "thresholds": {"anomalous": levels.anomalous, "review": levels.review, "pixel": levels.pixel, "source": levels.source},
        "calibration": _calibrated(inspector, request.settings),
        "counts": dict(sorted(summary.counts.items())),
        "maps": _scale_of_maps(request.options.maps, inspector.detector.map_range),
        "limit_report": request.options.limit_report,
        "times": request.times | {"writing_seconds": round(time.perf_counter() - begun, 3)},
    }


def _calibrated(inspector: Inspector, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Which calibration the verdicts rest on, and at which shares of false alarms."""
    made = inspector.calibration
    if made is None:
        return None
    shares = made.shares(settings.get("max_false_alarms"), settings.get("review_false_alarms"))
    said = {"file": str(settings["calibration"]), "kind": made.kind, "normal_pictures": len(made)}
    return said | {"max_false_alarms": shares[0], "review_false_alarms": shares[1]}


def _scale_of_maps(kind: str | None, map_range: tuple[float, float]) -> str | None:
    if kind == "png":
        return f"16 bit at original size: 0 is {map_range[0]:g} and 65535 is {map_range[1]:g}"
    return "float32 at original size" if kind else None


def _say(request: Request, inspector: Inspector, folder: RunFolder, summary: Summary) -> None:
    rows = folder.out / "predictions.jsonl"
    if folder.skipped:
        typer.echo(f"zsad: output of earlier runs in {request.out} was left out: {many(folder.skipped, 'picture')}.", err=True)
    if request.as_json:
        _print_json(rows, folder.out / "run.json")
        return
    width = shutil.get_terminal_size((120, 24)).columns
    typer.echo(
        "\n".join(table([_line(row, inspector.calibration is not None) for row in rows_at(rows, summary.order[:SHOWN])], width))
    )
    if summary.total > SHOWN:
        typer.echo(f"… and {summary.total - SHOWN} more in {request.out / 'predictions.csv'}")
    typer.echo(f"\n{verdict_line(summary.counts)}.")
    levels = summary.thresholds
    typer.echo(f"Threshold: {'none' if levels.anomalous is None else f'{levels.anomalous:.4g}'}; {levels.source}.")
    typer.echo(_judged_by(inspector))
    written = ["report.html", "predictions.jsonl", "predictions.csv", "run.json", "overlays/", "masks/", "maps/"]
    there = [name for name in written if (folder.out / name).exists()]
    typer.echo(f"Written to {request.out}: {', '.join(there)}")


def _line(row: dict[str, Any], calibrated: bool) -> dict[str, str]:
    regions = row["regions"]
    where = "{},{}-{},{}".format(*regions[0]["box"]) if regions else ""
    more = f" and {len(regions) - 1} more" if len(regions) > 1 else ""
    return {
        "score": "-" if row["pred_score"] is None else f"{row['pred_score']:.4f}",
        **({"p": "-" if row["p_value"] is None else f"{row['p_value']:.3f}"} if calibrated else {}),
        "verdict": "error" if row["error"] else row["pred_label"] or "-",
        "picture": row["name"] if len(row["name"]) <= 60 else f"{row['name'][:28]}…{row['name'][-31:]}",
        "strongest region": row["error"] or where + more,
    }


def _judged_by(inspector: Inspector) -> str:
    """Which model judged, and how to use a larger one."""
    backbone = inspector.detector.backbone
    said = f"Judged by {inspector.detector.name} on {backbone.name} ({backbone.image_size} px)."
    if inspector.detector.name != "compact" or STEP_UP not in list_methods():
        return said
    return (
        f"{said} It is small and ships with zsad; a larger model: --method {STEP_UP} "
        f"({method_class(STEP_UP).recipe.backbone}; downloads about 830 MB once)."
    )


def _print_json(rows: Path, run: Path) -> None:
    """{"run": ..., "results": [...]}, the rows copied line by line."""
    typer.echo(f'{{"run": {run.read_text(encoding="utf-8").strip()},\n"results": [', nl=False)
    with rows.open(encoding="utf-8") as file:
        for index, line in enumerate(file):
            typer.echo(f"{',' if index else ''}\n{line.rstrip()}", nl=False)
    typer.echo("\n]}")
