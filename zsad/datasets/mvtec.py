"""Readers of MVTec AD's layout, which LOCO, MPDD, BTAD, DTD-Synthetic and many others share, and of MVTec AD 2's.

``ground_truth/<defect>`` holds a file per picture (``000_mask.png``), or a folder per picture (LOCO: ``000/000.png``,
``000/001.png``; their union is the mask). Normal are ``good``, ``ok`` (BTAD) and ``normal``.
"""

from __future__ import annotations

from pathlib import Path

from zsad.datasets.dataset import Sample
from zsad.datasets.layout import Found, Layout, below, categories, child, entries, match_masks, pictures, subfolders
from zsad.datasets.words import role_of
from zsad.images.sources import SUFFIXES

__all__ = ["MVTEC", "MVTEC2"]

TRUTH = "ground_truth"
MVTEC_SPLITS = {"train": "train", "validation": "validation", "test": "test"}
MVTEC2_SPLITS = {"train": "train", "validation": "validation", "test_public": "test"}
PRIVATE = ("test_private", "test_private_mixed")  # of MVTec AD 2: pictures without labels


def _has(folder: Path, name: str) -> bool:
    return child(folder, name).is_dir()


def _kinds(split: Path) -> list[Path]:
    """Folders of normal pictures and of kinds of defects: not masks, nor what is said to have no label."""
    return [folder for folder in subfolders(split) if role_of(folder.name) not in ("mask", "unlabelled")]


def _is_split(split: Path) -> bool:
    return any(any(below(kind).values()) for kind in _kinds(split))


def _is_category(folder: Path) -> bool:
    return _is_split(child(folder, "test"))


def _is_category2(folder: Path) -> bool:
    return _is_split(child(folder, "test_public"))


def _read(root: Path, found: Found) -> None:
    single = _is_category(root)
    for folder in [root] if single else [one for one in subfolders(root) if _has(one, "test") or _has(one, "train")]:
        truth = [one for one in subfolders(folder) if found.role(one) == "mask"]
        _read_category(folder, MVTEC_SPLITS, truth[0] if truth else folder / TRUTH, found)


def _read2(root: Path, found: Found) -> None:
    single = _is_category2(root)
    for folder in [root] if single else [one for one in subfolders(root) if _has(one, "test_public")]:
        _read_category(folder, MVTEC2_SPLITS, child(child(folder, "test_public"), TRUTH), found)
        for split in PRIVATE:
            for path in pictures(folder / split):
                found.add(Sample(path, None, None, folder.resolve().name, split))


def _read_category(folder: Path, splits: dict[str, str], truth: Path, found: Found) -> None:
    """Pictures in a subfolder of a kind are of that kind; their masks lie in the same subfolder, or beside the others."""
    name = folder.resolve().name
    found.category(name)
    by_kind: dict[str, dict[str, list[tuple[str, Path]]]] = {}  # kind -> subfolder -> (split, picture)
    labels: dict[str, int] = {}
    for place, split in splits.items():
        for kind in _kinds(child(folder, place)):
            if (role := found.role(kind)) in ("mask", "unlabelled", "ignore"):
                continue
            labels[kind.name] = int(role != "normal")
            for deeper, paths in below(kind).items():
                by_kind.setdefault(kind.name, {}).setdefault(deeper, []).extend((split, path) for path in paths)
    for kind_name, parts in by_kind.items():
        label = labels[kind_name]
        for deeper, rows in parts.items():
            places = dict.fromkeys([child(truth, kind_name) / deeper, child(truth, kind_name)])
            files = [one for place in places for one in entries(place) if one.is_dir() or one.suffix.lower() in SUFFIXES]
            own = {path.stem for _, path in rows}
            near = [one for one in files if one.parent == next(iter(places)) or one.stem in own] if deeper else files
            near = [one for one in near if not (one.is_dir() and one.name in parts)]
            masks = match_masks([path for _, path in rows], near, found) if label else {}
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
