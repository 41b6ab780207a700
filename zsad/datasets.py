"""Readers of public data sets, for benchmarks. They read files; they download nothing."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from zsad.errors import MissingExtra, SourceNotFound, UnknownName

__all__ = ["Cell", "read_elpv"]

KINDS = ("mono", "poly")


@dataclass(frozen=True)
class Cell:
    """One electroluminescence picture of a solar cell."""

    path: Path
    label: int  # 0: defect probability 0; 1: any higher one
    kind: str  # "mono" or "poly" (crystalline silicon)
    probability: float  # of a defect, by the annotators: 0, 1/3, 2/3 or 1


def read_elpv(kind: str | None = None) -> list[Cell]:
    """The ELPV data set (Buerhop-Lutz et al. 2018; CC BY-NC-SA 4.0) from the installed package ``elpv-dataset``.

    2624 grey pictures of 300 x 300 pixels, functional and defective cells. Published figures mostly take those of
    probability 0 and 1: ``[cell for cell in read_elpv() if cell.probability in (0, 1)]``.

    Args:
        kind: ``"mono"``, ``"poly"`` or None (both).

    Raises:
        MissingExtra: the package is not installed.
        UnknownName: no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise UnknownName.among("kind of solar cell", kind, KINDS)
    spec = find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("The ELPV data set", "bench")
    data = Path(spec.submodule_search_locations[0]) / "data"
    if not (data / "labels.csv").is_file():
        raise SourceNotFound(f"The installed elpv-dataset has no labels.csv in {str(data)!r}. Install it again.")
    rows = [line.split() for line in (data / "labels.csv").read_text(encoding="utf-8").splitlines() if line.strip()]
    cells = [Cell(data / name, int(float(p) > 0), which, float(p)) for name, p, which in rows]
    return [cell for cell in cells if kind in (None, cell.kind)]
