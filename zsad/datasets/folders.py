"""Readers of plain folders: good/ bad/ [masks/], yes/ no/, a flat folder, and pictures beside their masks."""

from __future__ import annotations

import os
import re
from pathlib import Path

from zsad.datasets.dataset import Sample
from zsad.datasets.layout import NORMAL, Found, Layout, categories, has_pictures, match_masks, pictures, subfolders
from zsad.datasets.masks import read_mask
from zsad.errors import MaskError

__all__ = ["FLAT", "GOOD_BAD", "PAIRS", "YES_NO", "add_labelled_by_mask"]

MASKS = frozenset({"masks", "mask", "ground_truth", "gt"})
SPLITS = frozenset({"train", "test", "validation", "test_public", "test_private", "test_private_mixed"})  # are no categories


# ---------------------------------------------------------------- good/ bad/ [masks/]
def _is_good_bad(folder: Path) -> bool:
    names = {one.name.casefold() for one in subfolders(folder) if has_pictures(one)}
    return bool(names & NORMAL) and bool(names - NORMAL - MASKS)


def _good_bad(root: Path) -> list[Path]:
    return [folder for folder in categories(root, _is_good_bad) if folder == root or folder.name not in SPLITS | MASKS]


def _read_good_bad(root: Path, found: Found) -> None:
    for folder in _good_bad(root):
        name, inside = folder.resolve().name, subfolders(folder)
        kinds = {one.name: pictures(one) for one in inside if one.name.casefold() not in MASKS}
        bad = [path for kind, paths in kinds.items() if kind.casefold() not in NORMAL for path in paths]
        masks: dict[Path, Path] = {}
        for store in [one for one in inside if one.name.casefold() in MASKS]:
            for part in [store, *subfolders(store)]:  # masks/x.png, or masks/<kind>/x.png
                own = bad if part == store else kinds.get(part.name, [])
                masks |= match_masks(own, pictures(part), found)
        for kind, paths in kinds.items():
            label = int(kind.casefold() not in NORMAL)
            for path in paths:
                found.add(Sample(path, label, masks.get(path) if label else None, name, kind=kind))


# ---------------------------------------------------------------- yes/ no/
def _is_yes_no(folder: Path) -> bool:
    return {"yes", "no"} <= {one.name for one in subfolders(folder) if has_pictures(one)}


def _read_yes_no(root: Path, found: Found) -> None:
    """Other folders beside (Br35H: pred/) are unlabelled, and not read."""
    for folder in categories(root, _is_yes_no):
        for kind in ("no", "yes"):
            for path in pictures(folder / kind):
                found.add(Sample(path, int(kind == "yes"), None, folder.resolve().name, kind=kind))


# ---------------------------------------------------------------- a flat folder
def _is_flat(root: Path) -> bool:
    """Pictures, and none in any folder below; not where masks lie among them, for they would be scored as pictures."""
    stems = {path.stem for path in pictures(root)}
    beside = any(re.sub(r"[_-](mask|gt|label)$", "", stem, flags=re.IGNORECASE) in stems - {stem} for stem in stems)
    below = (Path(folder) for top in subfolders(root) for folder, _, _ in os.walk(top))
    return bool(stems) and not beside and not any(map(has_pictures, below))


def _read_flat(root: Path, found: Found) -> None:
    for path in pictures(root):
        found.add(Sample(path, None, None, root.resolve().name))


# ---------------------------------------------------------------- images/ masks/
def _pairs(folder: Path) -> list[tuple[Path, Path, str]]:
    """(pictures, masks, split) of one category, as the segmentation sets of the AnomalyCLIP family name them."""
    names = {one.name for one in subfolders(folder)}
    known = [("images", "masks", "test"), ("test-image", "test-mask", "test"), ("trainval-image", "trainval-mask", "train")]
    known.append(("test", "ground_truth", "test"))  # Crane's ISIC: pictures directly in test/
    for truth in sorted(name for name in names if name.endswith("_GroundTruth")):  # ISIC, as it is handed out
        stem = truth.removesuffix("_GroundTruth")
        known += [(f"{stem}_Data", truth, "train" if stem.endswith("_Training") else "test"), ("test", truth, "test")]
    if {name.casefold() for name in names} & NORMAL:
        return []  # EndoTect with a folder good/: every folder but masks/ is one of pictures
    return [(folder / a, folder / b, split) for a, b, split in known if {a, b} <= names and has_pictures(folder / a)]


def _read_pairs(root: Path, found: Found) -> None:
    for folder in categories(root, lambda one: bool(_pairs(one))):
        for images, truth, split in _pairs(folder):
            paths = pictures(images)
            masks = match_masks(paths, pictures(truth), found)
            for path in paths:
                add_labelled_by_mask(found, path, masks.get(path), folder.resolve().name, split)


def add_labelled_by_mask(found: Found, path: Path, mask: Path | None, category: str, split: str) -> None:
    """Adds a picture of a set whose only label is the mask: normal where the mask is empty, unlabelled where there is none."""
    label = None
    if mask is None:
        found.problem(path, "has no mask, and in this layout the mask is the label: taken as unlabelled.")
    else:
        try:
            label = int(read_mask(mask, []).any())
        except MaskError as error:
            found.problem(path, f"taken as unlabelled. {error}")
    kind = {None: "", 0: "good", 1: "defect"}[label]
    found.add(Sample(path, label, mask if label else None, category, split, kind))


GOOD_BAD = Layout(
    "good_bad",
    "[category/]good and any other folders (bad, scratch ...), perhaps masks/x.png or masks/<kind>/x.png",
    lambda root: bool(_good_bad(root)),
    _read_good_bad,
)
YES_NO = Layout(
    "yes_no",
    "[category/]no (normal) and yes (anomalous), as in BrainMRI and Br35H",
    lambda root: bool(categories(root, _is_yes_no)),
    _read_yes_no,
    masks=False,
)
FLAT = Layout("flat", "pictures and no folders: all unlabelled", _is_flat, _read_flat, masks=False)
PAIRS = Layout(
    "pairs",
    "[category/]images and masks (Kvasir, CVC-ColonDB, CVC-ClinicDB), test-image and test-mask (TN3K), x_Data and "
    "x_GroundTruth or test and ground_truth with pictures directly inside (ISIC); an empty mask means normal",
    lambda root: bool(categories(root, lambda one: bool(_pairs(one)))),
    _read_pairs,
)
