"""Draws how data flow through a method as SVG: lanes of boxes that end in one chain. For scripts/methods_page.py."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

HEIGHT, GAP, ROW, CHAR, PAD = 34, 26, 48, 7.2, 22  # pixels; CHAR is the mean width of a letter at 13 px
FILL = {"": ("#dfe8f3", "#7d95b0"), "*": ("#fbdfb2", "#c98416")}  # plain; learned for the method
OPTIONAL = "#f5f6f8"  # of what is optional and not learned
MERGE = 30  # from the end of the longest lane to the first joined box


def width(label: str) -> float:
    """Of a box, from its text."""
    return len(label) * CHAR + PAD


def boxes(lane: str) -> list[tuple[str, bool, bool]]:
    """(text, learned, optional) of each box in "a > ?b* > c". An optional first box makes the rest of its lane optional too."""
    cells = [cell.strip() for cell in lane.split(">")]
    whole = cells[0].startswith("?")
    return [(cell.strip("?*"), cell.endswith("*"), whole or cell.startswith("?")) for cell in cells]


def box(x: float, y: float, label: str, learned: bool, optional: bool) -> str:
    """One box, y being its middle."""
    fill, line = FILL["*" if learned else ""]
    fill = OPTIONAL if optional and not learned else fill
    dash = ' stroke-width="2" stroke-dasharray="6 4"' if optional else ""
    middle = f'x="{x + width(label) / 2:.0f}" y="{y + 4.5:.0f}"'
    return (
        f'<rect x="{x:.0f}" y="{y - HEIGHT / 2:.0f}" width="{width(label):.0f}" height="{HEIGHT}" rx="6" fill="{fill}" '
        f'stroke="{line}"{dash}/><text {middle} text-anchor="middle">{escape(label)}</text>'
    )


def arrow(x0: float, y0: float, x1: float, y1: float) -> str:
    """From the end of one box to the beginning of another."""
    middle = (x0 + x1) / 2
    curve = f"M{x0:.0f} {y0:.0f}C{middle:.0f} {y0:.0f} {middle:.0f} {y1:.0f} {x1 - 4:.0f} {y1:.0f}"
    return f'<path d="{curve}" marker-end="url(#a)"/>'


def chain(cells: Sequence[tuple[str, bool, bool]], x: float, y: float) -> tuple[list[str], float]:
    """Boxes of one lane with arrows between them, and where the lane ends."""
    drawn = []
    for place, (label, learned, optional) in enumerate(cells):
        if place:
            drawn.append(arrow(x - GAP, y, x, y))
        drawn.append(box(x, y, label, learned, optional))
        x += width(label) + GAP
    return drawn, x - GAP


def figure(lanes: Sequence[str], joined: str, title: str) -> str:
    """The SVG. Colours are readable on light and on dark pages.

    Args:
        lanes: one text per lane, "picture > tower > patches".
        joined: the chain that all lanes end in.
        title: what a reader who does not see the figure is told.
    """
    middle = 8 + HEIGHT / 2 + ROW * (len(lanes) - 1) / 2
    drawn, ends = [], []
    for place, lane in enumerate(lanes):
        y = 8 + HEIGHT / 2 + ROW * place
        parts, end = chain(boxes(lane), 8, y)
        drawn += parts
        ends.append((end, y))
    start = max(end for end, _ in ends) + MERGE
    drawn += [arrow(end, y, start, middle) for end, y in ends]
    parts, end = chain(boxes(joined), start, middle)
    total, height = end + 8, ROW * (len(lanes) - 1) + HEIGHT + 16
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total:.0f} {height:.0f}" width="{total:.0f}" role="img">'
    style = "<style>text{font:13px system-ui,sans-serif;fill:#1d2733}path{fill:none;stroke:#8a8f98;stroke-width:1.6}</style>"
    tip = '<defs><marker id="a" viewBox="0 0 8 8" refX="5" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
    tip += '<path d="M0 0L8 4L0 8z" style="fill:#8a8f98;stroke:none"/></marker></defs>'
    return "\n".join([head, f"<title>{escape(title)}</title>", style, tip, *drawn, *parts, "</svg>"]) + "\n"
