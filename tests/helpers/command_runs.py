"""Commands run in the test's process, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from zsad.cli import app
from zsad.registry import method_class

__all__ = ["normal_pictures", "results", "run"]


def normal_pictures(method: str, data: Path) -> Path:
    """A folder of references, or one of them where the method takes no more."""
    folder = data / "tile/test/good"
    return min(folder.iterdir()) if method_class(method).most_references == 1 else folder


def run(command: str, *arguments: object) -> str:
    done = CliRunner().invoke(app, [command, *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def results(out: Path) -> dict[str, Any]:
    """What a run left for people and programs, run.json without its times."""
    found: dict[str, Any] = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    found = {name: content for name, content in found.items() if not name.startswith(".zsad")}
    return found | {"run.json": {key: value for key, value in json.loads(found["run.json"]).items() if key != "times"}}
