"""Files of the repository's top as pages: ``{include} ../CHANGELOG.md`` with links that lead to pages of the site."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

INCLUDE = re.compile(r"```\{include\} (\.\./[\w./-]+)\n```")
LINKS = (
    (re.compile(r"\]\((?:\.\./)*docs/"), "]("),
    (re.compile(r"\]\((?:\.\./)*(?:checkpoints/)?compact\.md"), "](model-card.md"),
)


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Called by Sphinx with the text of a page."""
    if "/" in docname:
        return
    text = INCLUDE.sub(lambda found: (Path(app.srcdir) / found[1]).read_text(encoding="utf-8"), source[0])
    for path in INCLUDE.findall(source[0]):
        app.env.note_dependency(str(Path(app.srcdir) / path))
    for pattern, link in LINKS:
        text = pattern.sub(link, text)
    source[0] = text


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
