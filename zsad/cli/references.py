"""What ``zsad references`` does: makes, shows and changes a folder of saved references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from zsad.cli.console import print_json, say_unreadable
from zsad.common.file_names import many, printable
from zsad.errors import UsageError
from zsad.inference.inspector import Inspector
from zsad.inference.reference_set import ReferenceSet, is_saved

__all__ = ["Request", "change_references"]


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    folder: Path
    method: str
    add: Sequence[str] = ()
    remove: Sequence[str] = ()
    settings: dict[str, Any] = field(default_factory=dict)  # keywords of Inspector
    as_json: bool = False


def change_references(request: Request) -> int:
    """Adds and removes pictures, saves, and says what is there; returns the exit code."""
    there = is_saved(request.folder)
    if not there and not request.add:
        raise UsageError(f"{str(request.folder)!r} holds no saved references. Give --add DIR to make some.")
    added: list[str] = []
    errors: dict[str, str] = {}
    if request.add:
        known = ReferenceSet.load(request.folder) if there else None
        inspector = Inspector(request.method, references=known, **request.settings)
        for source in request.add:
            added += inspector.add_references(source)
        say_unreadable(inspector)
        kept, errors = inspector.references, inspector.references.errors
    else:
        kept = ReferenceSet.load(request.folder)  # removing needs no model
    before = len(kept)
    kept.remove(request.remove)
    kept.save(request.folder)
    facts = {"folder": str(request.folder), "references": list(kept.names), "added": added, "errors": errors}
    if request.as_json:
        print_json(facts | {"removed": list(request.remove), "judge": kept.judge})
    else:
        typer.echo("".join(f"{printable(name)}\n" for name in kept.names), nl=False)
        typer.echo(f"{many(len(kept), 'reference')} in {request.folder}, {len(added)} new, {before - len(kept)} removed.")
    return 3 if errors else 0
