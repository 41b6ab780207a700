"""``zsad references``: makes, shows and changes a folder of saved references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zsad.cli.app import EXIT_CODES, app, sentence_on_error
from zsad.cli.console import print_json, report_unreadable
from zsad.cli.options import (
    Backbone,
    BatchSize,
    Checkpoint,
    Device,
    Json,
    KeepAspect,
    Method,
    Overlap,
    Precision,
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
    settings = inspector_settings(dict(locals()))
    there = is_saved(folder)
    if not there and not add:
        raise UsageError(f"{str(folder)!r} holds no saved references. Give --add DIR to make some.")
    added: list[str] = []
    if add:
        known = ReferenceSet.load(folder) if there else None
        inspector = Inspector(method, references=known, **settings)
        for source in add:
            added += inspector.add_references(source)
        report_unreadable(inspector)
        kept = inspector.references
    else:
        kept = ReferenceSet.load(folder)  # removing needs no model
    before = len(kept)
    kept.remove(remove or ())
    kept.save(folder)
    if as_json:
        facts = {"folder": str(folder), "references": list(kept.names), "added": added, "errors": kept.errors}
        print_json(facts | {"removed": list(remove or ()), "detector": kept.detector})
    else:
        typer.echo("".join(f"{printable(name)}\n" for name in kept.names), nl=False)
        typer.echo(f"{many(len(kept), 'reference')} in {folder}, {len(added)} new, {before - len(kept)} removed.")
    raise typer.Exit(3 if kept.errors else 0)
