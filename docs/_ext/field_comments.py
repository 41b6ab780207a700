"""Fields of dataclasses that a comment on their line explains: the comment becomes their documentation."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

from sphinx.application import Sphinx

FIELD = re.compile(r"    (\w+): .+?  # (.+)")


def document(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Called by Sphinx with the lines of a docstring; adds a line per field."""
    if what != "class" or not (dataclasses.is_dataclass(value) or getattr(value, "_is_protocol", False)):
        return
    if any(line.startswith(":ivar") for line in lines):
        return
    found = [FIELD.match(line) for line in inspect.getsource(value).splitlines()]
    rows = [f":ivar {one[1]}: {one[2]}" for one in found if one]
    if rows:
        lines += ["", *rows, ""]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", document)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
