"""Code blocks of Markdown pages: which there are, which are run, and which are marked with the reason why not.

``<!-- not run: reason -->`` in the line before a block leaves it out. Console blocks have ``$`` before each command; in files
without fences a block that is indented by four spaces is taken for commands.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Block", "blocks_of", "pages", "summary"]

ROOT = Path(__file__).resolve().parents[2]
MARK = re.compile(r"<!-- (?:not run: |(?=recipe: ))(.+) -->")  # tests/distributed runs the recipes of docs/scale.md
CODE = ("console", "python")
README = {  # the README has no room for marks: the beginnings of commands and blocks that are not run, and why
    "pip install": "installs",
    "python -m sphinx": "tests/docs builds the site",
    'zsad predict photos/ --target "metal nut" --method winclip': "needs weights that are downloaded",
    "zsad verify": "takes a minute; tests/verification runs it",
    "zsad demo": "serves until it is stopped; tests/demo does it",
    "pytest": "runs the tests",
}


@dataclass(frozen=True)
class Block:
    """A fenced or indented block of a page."""

    page: str
    line: int
    language: str
    text: str
    reason: str = ""

    @property
    def commands(self) -> list[str]:
        """Of a console block, with continued lines joined and without comments."""
        lines = [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [line.partition("  #")[0].strip() for line in lines]


def fenced(page: str, lines: list[str]) -> Iterator[Block]:
    """Blocks between fences, directives left out."""
    start, before = 0, ""
    while start < len(lines):
        found = re.match(r"(`{3,}|:{3,})(.*)$", lines[start])
        if not found:
            before = lines[start] if lines[start].strip() else before
            start += 1
            continue
        end = start if found[1][0] == ":" else lines.index(found[1], start + 1)
        marked = MARK.match(before)
        if re.fullmatch(r"\w*", found[2]) and end > start:
            yield Block(page, start + 1, found[2], "\n".join(lines[start + 1 : end]), marked[1] if marked else "")
        start, before = end + 1, ""


def indented(page: str, lines: list[str]) -> Iterator[Block]:
    """Blocks of four spaces that stand alone: neither in a list nor in a fence."""
    inside, start, before = False, None, ""
    for place, line in enumerate([*lines, "."]):
        inside ^= line.startswith("```")
        code = line.startswith("    ") and not inside
        if code and start is None and not before.startswith(("-", "*", "  ")) and not lines[place - 1].strip():
            start = place
        elif start is not None and not code:
            marked = MARK.match(before)
            text = "\n".join(one[4:] for one in lines[start:place])
            yield Block(page, start + 1, "console", text, marked[1] if marked else "")
            start, before = None, ""
        if line.strip() and not code:
            before = line


def one_by_one(block: Block) -> Iterator[Block]:
    """A block of the README by its commands, each with the reason why it is not run."""
    parts = [part for line in block.commands for part in line.split(" && ")] if block.language == "console" else [block.text]
    for part in parts:
        known = [begin for begin in README if part.startswith(begin)]
        yield Block(block.page, block.line, block.language, part, README[max(known, key=len)] if known else "")


def blocks_of(page: str) -> list[Block]:
    """All blocks of a page, given by its path from the top of the checkout."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found = [*fenced(page, lines), *indented(page, lines)]
    if page == "README.md":
        found = [part for one in found for part in one_by_one(one)]
    return sorted(found, key=lambda one: one.line)


def pages() -> list[str]:
    """README, the start, the concepts, the how-tos and the pages of methods."""
    names = ("start", "concepts", "index", "gallery", "training-on-your-data", "export", "scale")
    folders = [ROOT / "docs" / name for name in ("how-to", "methods")]
    found = [path.relative_to(ROOT).as_posix() for folder in folders for path in sorted(folder.glob("*.md"))]
    return ["README.md", *(f"docs/{name}.md" for name in names), *found]


def summary() -> str:
    """How many blocks there are, run, and not run by reason."""
    every = [one for page in pages() for one in blocks_of(page)]
    code = [one for one in every if one.language in CODE]
    run = Counter(one.language for one in code if not one.reason)
    left = Counter(one.reason for one in code if one.reason)
    other = Counter(one.language or "plain" for one in every if one.language not in CODE)
    ran = f"{run['console']} of commands and {run['python']} of Python are run."
    lines = [f"{len(code)} code blocks in {len(pages())} pages: {ran}"]
    lines += [f"  {count} not run: {reason}" for reason, count in sorted(left.items())]
    return "\n".join([*lines, f"  {other.total()} others hold no code ({', '.join(sorted(other))})."])


if __name__ == "__main__":
    print(summary())
