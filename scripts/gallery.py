"""Draws the pictures of docs/gallery.md from ``demo/examples``: what was given, and the overlay of what was found.

python scripts/gallery.py          # writes docs/images/gallery-*.jpg
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import zsad

ROOT = Path(__file__).resolve().parents[1]
BRICK = ROOT / "demo/examples/brick"  # CC0; the solar cells are CC BY-NC-SA and are not shown here
SIDE, GAP, LABEL = 180, 8, 22
GOOD = ("01", "02", "04", "06")


def sheet(rows: Sequence[Sequence[tuple[Image.Image, str]]]) -> Image.Image:
    """Pictures with a line of text below each, in rows."""
    width = max(len(row) for row in rows) * (SIDE + GAP) + GAP
    page = Image.new("RGB", (width, len(rows) * (SIDE + LABEL + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for line, row in enumerate(rows):
        for column, (picture, text) in enumerate(row):
            x, y = GAP + column * (SIDE + GAP), GAP + line * (SIDE + LABEL + GAP)
            page.paste(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))
            draw.text((x + 2, y + SIDE + 3), text, fill="#222222", font=font)
    return page


def shown(result: zsad.Result) -> tuple[Image.Image, str]:
    """Overlay and score."""
    label = f" {result.pred_label}" if result.pred_label else ""
    return result.overlay(), f"{result.pred_score:.2f}{label}"


def folder() -> Image.Image:
    """The highest six of the folder that was compared with itself: pictures above, overlays below."""
    found = sorted(zsad.Inspector(target="brick wall")(BRICK), key=lambda one: -float(one.pred_score or 0))[:6]
    given = [(Image.open(one.path or ""), one.name) for one in found]
    return sheet([given, [shown(one) for one in found]])


def comparisons() -> Image.Image:
    """The same three pictures by themselves, with four references, and in tiles of 120 pixels."""
    names = [str(BRICK / f"brick-{number}.png") for number in ("03", "05", "08")]
    references = [BRICK / f"brick-{number}.png" for number in GOOD]
    forms = [{"batch": "off"}, {"references": references}, {"tile": 120, "batch": "off"}]
    found = [list(zsad.Inspector(target="brick wall", **form)(names)) for form in forms]
    rows = [[(Image.open(name), Path(name).name) for name in names]]
    return sheet([*rows, *[[shown(one) for one in results] for results in found]])


def main() -> None:
    for name, page in {"brick": folder(), "comparisons": comparisons()}.items():
        page.save(ROOT / f"docs/images/gallery-{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
