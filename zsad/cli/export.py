"""``zsad export``: a method as a model for another runtime, with a certificate of how far its outputs are from the method's."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from zsad.cli.app import app, sentence_on_error
from zsad.cli.console import log_to_stderr, print_json
from zsad.cli.options import (
    Anomalous,
    AnomalousMasks,
    Backbone,
    Checkpoint,
    Coreset,
    Json,
    PixelThreshold,
    References,
    ReviewAt,
    Sets,
    Target,
    Threshold,
    Words,
    check_out,
    joined,
    method_arguments,
)
from zsad.exports import certificate as certificates
from zsad.exports import export as run

OWN_CODES = "Exit codes: 0 written, 2 wrong usage or beyond the tolerance (one sentence on stderr, and nothing is written)."
Pictures = Annotated[
    str | None,
    typer.Option(
        help="What both are compared on, and int8 is calibrated on; with a folder called good, AUROC is compared too."
    ),
]


@app.command(epilog=OWN_CODES)
@sentence_on_error
def export(
    method: Annotated[str, typer.Argument(help="A method, or method.tag; see zsad list methods.")] = "compact",
    target: Target = "object",
    out: Annotated[str, typer.Option(help="Folder for the model; it must not be there yet.")] = "model",
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    word: Words = None,
    references: References = None,
    anomalous: Anomalous = None,
    anomalous_masks: AnomalousMasks = None,
    coreset: Coreset = 1.0,
    set_: Sets = None,
    calibration: Annotated[Path | None, typer.Option(help="File of zsad calibrate; its levels go with the model.")] = None,
    threshold: Threshold = None,
    review_at: ReviewAt = None,
    pixel_threshold: PixelThreshold = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="Compare the pictures of a folder with each other; zsad does that part.")
    ] = False,
    format_: Annotated[str, typer.Option("--format", help="onnx, or openvino.")] = "onnx",
    precision: Annotated[str, typer.Option(help="fp32, int8 (needs --pictures) or int8-weights.")] = "fp32",
    pictures: Pictures = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Largest difference of a score or map; for int8 the largest loss of AUROC.")
    ] = None,
    allow: Annotated[bool, typer.Option("--allow", help="Keep a model that is beyond the tolerance.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the exported model in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Writes a method, with its target and references inside, as an ONNX or OpenVINO model.

    The folder holds the model, metadata.json, certificate.json (the differences from torch) and run.py, which needs neither
    zsad nor torch. zsad predict --method FOLDER runs it with all that predict can do.
    """
    check_out(out)
    allowed = certificates.tolerance_of(precision)
    if tolerance is not None:
        allowed = replace(allowed, **{"difference" if precision == "fp32" else "auroc_loss": tolerance})
    settings: dict[str, Any] = {
        "backbone": backbone,
        "checkpoint": checkpoint,
        "references": references,
        "anomalous": anomalous,
        "anomalous_masks": anomalous_masks,
        "coreset": coreset,
        "calibration": calibration,
        "threshold": threshold,
        "review_at": review_at,
        "pixel_threshold": pixel_threshold,
        "batch": batch,
    }
    settings = joined(settings, method_arguments(method, set_, word))
    how: dict[str, Any] = {
        "format": format_,
        "precision": precision,
        "pictures": pictures,
        "allow": allow,
        "overwrite": overwrite,
    }
    with log_to_stderr():
        made = run(method, target, out=out, tolerance=allowed, **how, **settings)
    if as_json:
        print_json(asdict(made) | {"out": out})
        return
    show(made)
    typer.echo(f"Written to {out}; use it with: zsad predict SOURCE --method {out}/, or python {out}/run.py SOURCE")


def show(made: certificates.Certificate) -> None:
    """Prints the certificate's figures, and what is beyond the tolerance."""
    typer.echo(f"{made.runtime}, {made.precision}: {made.summary()}.")
    typer.echo("Within the tolerance." if made.passed else f"Beyond the tolerance: {'; '.join(made.failed)}.")
