"""Readers of industrial data sets in layouts of their own: DAGM 2007, Kolektor SDD and SDD2, Magnetic Tile Defects."""

from __future__ import annotations

import re
from pathlib import Path

from zsad.datasets.dataset import Sample
from zsad.datasets.folders import add_labelled_by_mask
from zsad.datasets.layout import Found, Layout, match_masks, pictures, subfolders

__all__ = ["DAGM", "KSDD", "KSDD2", "MTD"]


# ---------------------------------------------------------------- DAGM 2007, as on Kaggle
def _classes(root: Path) -> list[Path]:
    own = [root] if re.fullmatch(r"Class\d+", root.resolve().name) else subfolders(root)
    named = [folder for folder in own if re.fullmatch(r"Class\d+", folder.resolve().name)]
    return sorted(named, key=lambda folder: int(folder.resolve().name[5:]))


def _phases(folder: Path) -> list[Path]:
    names = ("Train", "Test")
    return [one for one in subfolders(folder) if one.name in names and any(two.name == "Label" for two in subfolders(one))]


def _read_dagm(root: Path, found: Found) -> None:
    """A picture is anomalous where it has a label file (a weak, elliptical mask)."""
    for folder in _classes(root):
        name = folder.resolve().name
        found.category(name)
        for phase in _phases(folder):
            paths = pictures(phase)
            masks = match_masks(paths, pictures(phase / "Label"), found)
            for path in paths:
                mask = masks.get(path)
                kind = "defect" if mask else "good"
                found.add(Sample(path, int(mask is not None), mask, name, phase.name.casefold(), kind))


# ---------------------------------------------------------------- Kolektor
def _parts(root: Path) -> list[Path]:
    return [folder for folder in subfolders(root) if re.fullmatch(r"kos\d+", folder.name)]


def _beside(folder: Path, ending: str) -> tuple[list[Path], list[Path]]:
    """Pictures, and the masks among them, which the end of their stem marks."""
    files = pictures(folder)
    masks = [path for path in files if path.stem.endswith(ending)]
    return [path for path in files if path not in set(masks)], masks


def _read_beside(root: Path, folder: Path, ending: str, split: str, found: Found) -> None:
    paths, files = _beside(folder, ending)
    masks = match_masks(paths, files, found)
    for path in paths:
        add_labelled_by_mask(found, path, masks.get(path), root.resolve().name, split)


def _read_ksdd(root: Path, found: Found) -> None:
    """No official split: all is "test"."""
    for folder in _parts(root):
        _read_beside(root, folder, "_label", "test", found)


def _halves(root: Path) -> list[Path]:
    return [one for one in subfolders(root) if one.name in ("train", "test") and _beside(one, "_GT")[1]]


def _read_ksdd2(root: Path, found: Found) -> None:
    for folder in _halves(root):
        _read_beside(root, folder, "_GT", folder.name, found)


# ---------------------------------------------------------------- Magnetic Tile Defects
def _tiles(root: Path) -> list[Path]:
    return [folder / "Imgs" for folder in subfolders(root) if folder.name.startswith("MT_") and (folder / "Imgs").is_dir()]


def _read_mtd(root: Path, found: Found) -> None:
    """JPEG pictures with a PNG mask of the same stem; ``MT_Free`` is normal. No official split: all is "test"."""
    for folder in _tiles(root):
        kind = folder.parent.name.removeprefix("MT_").casefold()
        label = int(kind != "free")
        paths = pictures(folder, (".jpg", ".jpeg"))
        if not paths:
            found.problem(folder, "holds no JPEG picture.")
        masks = match_masks(paths, pictures(folder, (".png",)), found)
        for path in paths:
            mask = masks.get(path) if label else None
            found.add(Sample(path, label, mask, root.resolve().name, kind=kind if label else "good"))


DAGM = Layout(
    "dagm",
    "Class1 ... Class10, each with Train and Test, of 0001.PNG and Label/0001_label.PNG",
    lambda root: any(_phases(folder) for folder in _classes(root)),
    _read_dagm,
)
KSDD = Layout("ksdd", "kos01 ... with Part0.jpg and Part0_label.bmp", lambda root: bool(_parts(root)), _read_ksdd)
KSDD2 = Layout("ksdd2", "train and test, of 10000.png and 10000_GT.png", lambda root: bool(_halves(root)), _read_ksdd2)
MTD = Layout(
    "mtd", "MT_Free/Imgs, MT_Crack/Imgs ..., of x.jpg and x.png (its mask)", lambda root: bool(_tiles(root)), _read_mtd
)
