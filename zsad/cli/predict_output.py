"""What ``zsad predict`` prints at its end: the worst pictures, counts, thresholds and files, or one JSON document."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import typer

from zsad.cli.console import table
from zsad.inference.inspector import Inspector
from zsad.registry import list_methods, method_class
from zsad.runs.folder import FORMATS, RunFolder
from zsad.runs.records import rows_at
from zsad.runs.summary import Summary, verdict_line

__all__ = ["print_results", "print_summary"]

SHOWN = 20  # rows of the table on stdout
STEP_UP = "winclip"


def print_summary(run: RunFolder, inspector: Inspector, summary: Summary) -> None:
    """The worst pictures, counts, threshold, detector and files."""
    width = shutil.get_terminal_size((120, 24)).columns
    worst = rows_at(run.out / "predictions.jsonl", summary.order[:SHOWN])
    typer.echo("\n".join(table([_line(row, inspector.calibration is not None) for row in worst], width)))
    if summary.total > SHOWN:
        typer.echo(f"… and {summary.total - SHOWN} more in {run.out / 'predictions.csv'}")
    typer.echo(f"\n{verdict_line(summary.counts)}.")
    for sentence in summary.notes.sentences():
        typer.echo(sentence)
    levels = summary.thresholds
    typer.echo(f"Threshold: {'none' if levels.anomalous is None else f'{levels.anomalous:.4g}'}; {levels.source}.")
    typer.echo(_detector_line(inspector))
    if inspector.batch == "auto" and inspector.needs_set:
        some = "with the references and with each other" if len(inspector.references) else "with each other, as one product's"
        typer.echo(f"Pictures were compared {some}; --batch off scores each by itself.")
    files = ["report.html", "predictions.jsonl", "predictions.csv", *FORMATS, "run.json", "overlays/", "masks/", "maps/"]
    typer.echo(f"Written to {run.out}: {', '.join(name for name in files if (run.out / name).exists())}")


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


def _detector_line(inspector: Inspector) -> str:
    """The detector, and how to use a larger one."""
    backbone = inspector.detector.backbone
    line = f"Detector: {inspector.detector.name} on {backbone.name} ({backbone.image_size} px)."
    if inspector.detector.name != "compact" or STEP_UP not in list_methods():
        return line
    return (
        f"{line} It is small and ships with zsad; a larger model: --method {STEP_UP} "
        f"({method_class(STEP_UP).recipe.backbone}; downloads about 830 MB once)."
    )


def print_results(out: Path) -> None:
    """{"run": ..., "results": [...]}, the rows copied line by line."""
    typer.echo(f'{{"run": {(out / "run.json").read_text(encoding="utf-8").strip()},\n"results": [', nl=False)
    with (out / "predictions.jsonl").open(encoding="utf-8") as file:
        for index, line in enumerate(file):
            typer.echo(f"{',' if index else ''}\n{line.rstrip()}", nl=False)
    typer.echo("\n]}")
