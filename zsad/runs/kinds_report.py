"""Contact sheets of kinds, as a section of ``report.html``."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from zsad.common.file_names import many
from zsad.inference.region_features import Found
from zsad.kinds.grouping import NEW
from zsad.runs.additions import put_section

__all__ = ["add_sheets", "contact_sheets", "largest"]

SHOWN, SIDE = 24, 112  # crops of a kind, and the side of each in pixels


def add_sheets(
    path: Path, regions: Sequence[Found], kinds: Sequence[str], names: Sequence[str], counts: Mapping[str, int]
) -> None:
    """Puts the contact sheets into a report, in the place of earlier ones; arguments as of ``contact_sheets``."""
    lead = '<p class="soft">Regions that look alike, found without labels. The largest of each kind first.</p>'
    put_section(path, "kinds", f"<h2>Kinds of anomalies</h2>{lead}{contact_sheets(regions, kinds, names, counts)}")


def contact_sheets(regions: Sequence[Found], kinds: Sequence[str], names: Sequence[str], counts: Mapping[str, int]) -> str:
    """The crops of each kind, as HTML.

    Args:
        regions: of flagged pictures.
        kinds: of each region.
        names: of the pictures, by number.
        counts: pictures of each kind, most first.
    """
    ordered = [*counts, *(kind for kind in dict.fromkeys(kinds) if kind not in counts)]
    return "".join(
        _sheet(kind, [r for r, own in zip(regions, kinds, strict=True) if own == kind], names, counts.get(kind, 0))
        for kind in ordered
    )


def _sheet(kind: str, regions: Sequence[Found], names: Sequence[str], pictures: int) -> str:
    shown = largest(regions, SHOWN)
    crops = "".join(
        f'<img loading="lazy" width="{SIDE}" height="{SIDE}" style="margin:2px" alt="{escape(names[region.picture])}" '
        f'title="{escape(names[region.picture])}" src="data:image/jpeg;base64,{_jpeg(region)}">'
        for region in shown
    )
    title = "new: like no known kind" if kind == NEW else kind
    more = f", {len(regions) - SHOWN} not shown" if len(regions) > SHOWN else ""
    counted = f"{many(pictures, 'picture')}, {many(len(regions), 'region')}{more}"
    return f'<h3>{escape(title)} <span class="soft">({counted})</span></h3><div>{crops}</div>\n'


def largest(regions: Sequence[Found], most: int) -> list[Found]:
    """The regions of the largest areas, those first."""
    return sorted(regions, key=lambda region: -region.area)[:most]


def _jpeg(region: Found) -> str:
    memory = io.BytesIO()
    Image.fromarray(region.crop).resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(memory, "JPEG", quality=80)
    return base64.b64encode(memory.getvalue()).decode()
