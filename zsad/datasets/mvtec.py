"""Readers of MVTec AD's layout, which LOCO, MPDD, BTAD, DTD-Synthetic and many others share, and of MVTec AD 2's.

``ground_truth/<defect>`` holds a file per picture (``000_mask.png``), or a folder per picture (LOCO: ``000/000.png``,
``000/001.png``; their union is the mask). Normal are ``good``, ``ok`` (BTAD) and ``normal``.
"""

from __future__ import annotations

from pathlib import Path

from zsad.datasets.dataset import Sample
from zsad.datasets.layout import NORMAL, Found, Layout, categories, entries, has_pictures, match_masks, pictures, subfolders
from zsad.images.sources import SUFFIXES

__all__ = ["MVTEC", "MVTEC2"]

TRUTH = "ground_truth"
MVTEC_SPLITS = {"train": "train", "validation": "validation", "test": "test"}
MVTEC2_SPLITS = {"train": "train", "validation": "validation", "test_public": "test"}
PRIVATE = ("test_private", "test_private_mixed")  # of MVTec AD 2: pictures without labels


def _has(folder: Path, name: str) -> bool:
    """Whether it has that folder, in that spelling even where the disk ignores case (DAGM's is "Test")."""
    return any(entry.name == name for entry in subfolders(folder))


def _kinds(split: Path) -> list[Path]:
    return [folder for folder in subfolders(split) if folder.name != TRUTH]


def _is_category(folder: Path) -> bool:
    kinds = (kind for kind in _kinds(folder / "test") if kind.name != "images")  # test/images is YOLO's, or LabelMe's
    return _has(folder, "test") and any(map(has_pictures, kinds))


def _is_category2(folder: Path) -> bool:
    return _has(folder, "test_public") and any(map(has_pictures, _kinds(folder / "test_public")))


def _read(root: Path, found: Found) -> None:
    single = _is_category(root)
    for folder in [root] if single else [one for one in subfolders(root) if _has(one, "test") or _has(one, "train")]:
        _read_category(folder, MVTEC_SPLITS, folder / TRUTH, found)


def _read2(root: Path, found: Found) -> None:
    single = _is_category2(root)
    for folder in [root] if single else [one for one in subfolders(root) if _has(one, "test_public")]:
        _read_category(folder, MVTEC2_SPLITS, folder / "test_public" / TRUTH, found)
        for split in PRIVATE:
            for path in pictures(folder / split):
                found.add(Sample(path, None, None, folder.resolve().name, split))


def _read_category(folder: Path, splits: dict[str, str], truth: Path, found: Found) -> None:
    name = folder.resolve().name
    found.category(name)
    by_kind: dict[str, list[tuple[str, Path]]] = {}
    for place, split in splits.items():
        for kind in _kinds(folder / place):
            by_kind.setdefault(kind.name, []).extend((split, path) for path in pictures(kind))
    for kind_name, rows in by_kind.items():
        label = int(kind_name.casefold() not in NORMAL)
        files = [entry for entry in entries(truth / kind_name) if entry.is_dir() or entry.suffix.lower() in SUFFIXES]
        masks = match_masks([path for _, path in rows], files, found) if label else {}
        for split, path in rows:
            found.add(Sample(path, label, masks.get(path), name, split, kind_name))


MVTEC = Layout(
    "mvtec",
    "[category/]train/good, test/good, test/<defect>, ground_truth/<defect>/x_mask.png (LOCO: ground_truth/<defect>/x/000.png)",
    lambda root: bool(categories(root, _is_category)),
    _read,
)
MVTEC2 = Layout(
    "mvtec2",
    "[category/]train/good, test_public/good, test_public/bad, test_public/ground_truth/bad/x_mask.png",
    lambda root: bool(categories(root, _is_category2)),
    _read2,
)
