"""``zsad references``: makes, shows and changes a folder of saved references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zsad.cli.app import EXIT_CODES, app, sentence_on_error
from zsad.cli.console import print_json, report_unreadable
from zsad.cli.options import (
    AdaptivePrompts,
    AnomalousMasks,
    Backbone,
    BatchSize,
    Checkpoint,
    Device,
    Focus,
    IgnoreWords,
    Json,
    KeepAspect,
    Method,
    Overlap,
    Precision,
    Prompts,
    Roi,
    Sets,
    Tile,
    ValueRange,
    Workers,
    inspector_settings,
)
from zsad.common.file_names import many, printable
from zsad.errors import UsageError
from zsad.inference.inspector import Inspector
from zsad.inference.reference_files import is_saved
from zsad.inference.reference_set import ReferenceSet


@app.command(epilog=EXIT_CODES)
@sentence_on_error
def references(
    folder: Annotated[Path, typer.Argument(help="Folder of saved references; made if it is not there.")],
    add: Annotated[list[str] | None, typer.Option(help="Normal pictures: a folder or pattern; repeat for more.")] = None,
    add_anomalous: Annotated[str | None, typer.Option(help="Anomalous pictures, for methods that take them.")] = None,
    anomalous_masks: AnomalousMasks = None,
    remove: Annotated[list[str] | None, typer.Option(help="Name of a picture to take out; repeat for more.")] = None,
    method: Method = "compact",
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    focus: Focus = None,
    ignore_words: IgnoreWords = None,
    prompts: Prompts = None,
    adaptive_prompts: AdaptivePrompts = False,
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
    settings = inspector_settings(dict(locals()))
    there = is_saved(folder)
    if not there and not (add or add_anomalous):
        raise UsageError(f"{str(folder)!r} holds no saved references. Give --add DIR to make some.")
    added: list[str] = []
    if add or add_anomalous:
        known = ReferenceSet.load(folder) if there else None
        inspector = Inspector(method, references=known, **settings)
        for source in add or ():
            added += inspector.add_references(source)
        added += inspector.add_anomalous(add_anomalous, anomalous_masks) if add_anomalous else []
        report_unreadable(inspector)
        kept = inspector.references
    else:
        kept = ReferenceSet.load(folder)  # removing needs no model
    before = len(kept.names) + len(kept.anomalous_names)
    kept.remove(remove or ())
    kept.save(folder)
    if as_json:
        facts = {"folder": str(folder), "references": list(kept.names), "added": added, "errors": kept.errors}
        facts |= {"anomalous": list(kept.anomalous_names)} if kept.anomalous_names else {}
        print_json(facts | {"removed": list(remove or ()), "detector": kept.detector})
    else:
        lines = [*map(printable, kept.names), *(f"{printable(name)} (anomalous)" for name in kept.anomalous_names)]
        typer.echo("".join(f"{line}\n" for line in lines), nl=False)
        typer.echo(f"{many(len(lines), 'reference')} in {folder}, {len(added)} new, {before - len(lines)} removed.")
    raise typer.Exit(3 if kept.errors else 0)
