"""The directive ``weights-table``: files of learned weights with licence, data, size and digest, from ``checkpoints/``."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from zsad.weights.checkpoints import IndexEntry, load_index

HEAD = ("name", "licence", "learned from", "size", "digest")


def digest(entry: IndexEntry) -> str:
    """The beginning of what identifies the file."""
    if entry.sha256:
        return f"sha256 {entry.sha256[:16]}…"
    return f"git blob {entry.git_blob[:12]}…" if entry.git_blob else "none published"


class WeightsTable(SphinxDirective):
    """A row per file."""

    def run(self) -> list[nodes.Node]:
        """Called by docutils."""
        group = nodes.tgroup(cols=len(HEAD))
        group += [nodes.colspec(colwidth=1) for _ in HEAD]
        head, body = nodes.thead(), nodes.tbody()
        head += row(HEAD)
        for entry in load_index().values():
            here = " (ships)" if entry.path else ""
            body += row((entry.name + here, entry.licence, entry.trained_on, f"{entry.size / 1e6:.1f} MB", digest(entry)))
        group += [head, body]
        return [nodes.table("", group, classes=["weights"])]


def row(cells: tuple[str, ...]) -> nodes.row:
    """A row of a table."""
    return nodes.row("", *(nodes.entry("", nodes.paragraph(text=cell)) for cell in cells))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("weights-table", WeightsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
