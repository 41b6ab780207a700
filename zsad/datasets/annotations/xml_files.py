"""XML files of annotation tools, read without anything that a file could use against its reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

from zsad.errors import UsageError

__all__ = ["HEAD", "parse_xml", "root_tag"]

HEAD = 1 << 12  # bytes by which a file's kind is told
Element = ElementTree.Element


class _Builder(ElementTree.TreeBuilder):
    """Refuses a DOCTYPE, without which there are no entities; hands over elements of one tag as they end, and empties them."""

    def __init__(self, tag: str, use: Callable[[Element], object]) -> None:
        super().__init__()
        self.tag, self.use = tag, use

    def doctype(self, name: str, public: str | None, system: str | None) -> NoReturn:
        raise UsageError("has a DOCTYPE, which no annotation tool writes, and which may expand without end: refused")

    def end(self, tag: str) -> Element:
        element = super().end(tag)
        if tag == self.tag:
            self.use(element)
            element.clear()
        return element


def parse_xml(file: Path, tag: str = "", use: Callable[[Element], object] = lambda element: None) -> Element:
    """The root element of a file; elements called ``tag`` go to ``use`` one by one and are empty afterwards.

    Raises:
        UsageError: it is no XML, or has a DOCTYPE.
    """
    parser = ElementTree.XMLParser(target=_Builder(tag, use))
    try:
        with file.open("rb") as opened:
            while block := opened.read(1 << 16):
                parser.feed(block)
        root: Any = parser.close()
    except UsageError as error:
        raise UsageError(f"{file.name!r} {error}.") from error
    except (ElementTree.ParseError, ValueError, LookupError, OSError) as error:
        raise UsageError(f"{file.name!r} is no XML: {error}.") from error
    if root is None:
        raise UsageError(f"{file.name!r} is no XML: it has no element.")
    return root


def root_tag(file: Path) -> str:
    """The first tag in the head of an XML file; "" where there is none. Nothing is parsed."""
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD).decode("utf-8", "replace")
    except OSError:
        return ""
    for part in head.split("<")[1:]:
        if part[:1].isalpha():
            return part.split(">")[0].split()[0].rstrip("/")
    return ""
