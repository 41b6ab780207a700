"""Notebooks as pages: cells and stored outputs become Markdown, which MyST reads. Nothing is executed."""

from __future__ import annotations

import json
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx


def output_lines(output: dict[str, Any]) -> list[str]:
    """A stored output as Markdown: a picture, or text."""
    data = output.get("data", {})
    for kind in ("image/jpeg", "image/png"):
        if kind in data:
            return [f"![output of the cell above](data:{kind};base64,{''.join(data[kind]).replace(chr(10), '')})", ""]
    text = "".join(output.get("text", data.get("text/plain", []))).rstrip()
    return ["```text", text, "```", ""] if text else []


def as_markdown(notebook: dict[str, Any]) -> str:
    """The notebook as one Markdown text."""
    lines: list[str] = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [source, ""]
        elif source:
            lines += ["```python", source, "```", ""]
            lines += [line for output in cell["outputs"] for line in output_lines(output)]
    return "\n".join(lines)


class NotebookParser(MystParser):
    """Reads ``.ipynb``."""

    supported = ("ipynb",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Called by Sphinx."""
        super().parse(as_markdown(json.loads(inputstring)), document)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_source_suffix(".ipynb", "ipynb")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
