"""Contact sheets of kinds, as a section of ``report.html``."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from zsad.common.atomic_files import write_atomically
from zsad.common.file_names import many
from zsad.inference.region_features import Found
from zsad.kinds.grouping import NEW

__all__ = ["add_sheets"]

BEGIN, END = "<!--kinds-->", "<!--/kinds-->"
SHOWN, SIDE = 24, 112  # crops of a kind, and the side of each in pixels
SECTION = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END) + "\n?", re.DOTALL)


def add_sheets(
    path: Path, regions: Sequence[Found], kinds: Sequence[str], names: Sequence[str], counts: Mapping[str, int]
) -> None:
    """Puts the contact sheets into a report, in the place of earlier ones; nothing where there is no report.

    Args:
        path: of the report.
        regions: of flagged pictures.
        kinds: of each region.
        names: of the pictures, by number.
        counts: pictures of each kind, most first.
    """
    if not path.is_file():
        return
    text = SECTION.sub("", path.read_text(encoding="utf-8"))
    ordered = [*counts, *(kind for kind in dict.fromkeys(kinds) if kind not in counts)]
    sheets = "".join(
        _sheet(kind, [r for r, own in zip(regions, kinds, strict=True) if own == kind], names, counts.get(kind, 0))
        for kind in ordered
    )
    section = (
        f'{BEGIN}<section id="kinds"><h2>Kinds of anomalies</h2><p class="soft">Regions that look alike, found without labels. '
        f"The largest of each kind first.</p>{sheets}</section>{END}\n"
    )
    before, mark, after = text.rpartition("</main>")
    write_atomically(path, (before + section + mark + after).encode("utf-8"))


def _sheet(kind: str, regions: Sequence[Found], names: Sequence[str], pictures: int) -> str:
    largest = sorted(regions, key=lambda region: -region.area)[:SHOWN]
    crops = "".join(
        f'<img loading="lazy" width="{SIDE}" height="{SIDE}" style="margin:2px" alt="{escape(names[region.picture])}" '
        f'title="{escape(names[region.picture])}" src="data:image/jpeg;base64,{_jpeg(region)}">'
        for region in largest
    )
    title = "new: like no known kind" if kind == NEW else kind
    more = f", {len(regions) - SHOWN} not shown" if len(regions) > SHOWN else ""
    counted = f"{many(pictures, 'picture')}, {many(len(regions), 'region')}{more}"
    return f'<h3>{escape(title)} <span class="soft">({counted})</span></h3><div>{crops}</div>\n'


def _jpeg(region: Found) -> str:
    memory = io.BytesIO()
    Image.fromarray(region.crop).resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(memory, "JPEG", quality=80)
    return base64.b64encode(memory.getvalue()).decode()
