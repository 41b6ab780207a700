"""Reader of the ELPV data set of solar cells, from the PyPI package ``elpv-dataset`` or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from zsad.datasets.dataset import Sample
from zsad.datasets.layout import Found, Layout
from zsad.errors import MissingExtra, SourceNotFound, UnknownName, UsageError

__all__ = ["ELPV", "KINDS", "Cell", "installed_elpv", "read_elpv"]

KINDS = ("mono", "poly")


@dataclass(frozen=True)
class Cell:
    """One electroluminescence picture of a solar cell."""

    path: Path
    label: int  # 0: defect probability 0; 1: any higher one
    kind: str  # "mono" or "poly" (crystalline silicon)
    probability: float  # of a defect, by the annotators: 0, 1/3, 2/3 or 1


def read_elpv(kind: str | None = None) -> list[Cell]:
    """Reads the ELPV data set (Buerhop-Lutz et al. 2018; CC BY-NC-SA 4.0) from the installed package ``elpv-dataset``.

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
    return [cell for cell in _cells(installed_elpv()) if kind in (None, cell.kind)]


def installed_elpv() -> Path:
    """The data folder of the installed package: ``labels.csv`` and ``images/``.

    Raises:
        MissingExtra: the package is not installed.
        SourceNotFound: it is, without its labels.
    """
    spec = find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("The ELPV data set", "bench")
    data = Path(spec.submodule_search_locations[0]) / "data"
    if not (data / "labels.csv").is_file():
        raise SourceNotFound(f"The installed elpv-dataset has no labels.csv in {str(data)!r}. Install it again.")
    return data


def _lines(data: Path) -> list[list[str]]:
    text = (data / "labels.csv").read_text(encoding="utf-8", errors="replace")
    return [line.split() for line in text.splitlines() if line.strip()]


def _is_elpv(fields: Sequence[str]) -> bool:
    return len(fields) == 3 and fields[2] in KINDS


def _cells(data: Path) -> list[Cell]:
    rows = _lines(data)
    try:
        return [Cell(data / name, int(float(p) > 0), which, float(p)) for name, p, which in rows]
    except ValueError as error:
        raise UsageError(
            f"{str(data / 'labels.csv')!r} is no list of ELPV ({error}): its lines are 'images/x.png 1.0 mono'."
        ) from error


def _recognise(root: Path) -> bool:
    return (root / "labels.csv").is_file() and all(map(_is_elpv, _lines(root)[:1] or [[]]))


def _read(root: Path, found: Found) -> None:
    """Categories mono and poly; kinds good (probability 0), doubtful (1/3, 2/3: anomalous here) and defective (1)."""
    for cell in _cells(root):
        kind = "good" if cell.probability == 0 else "defective" if cell.probability == 1 else "doubtful"
        found.add(Sample(cell.path, cell.label, None, cell.kind, kind=kind))


ELPV = Layout(
    "elpv",
    "the name elpv, elpv:mono or elpv:poly (pip install 'zsad[bench]'), or a folder with its labels.csv",
    _recognise,
    _read,
    index=True,
    masks=False,
)
