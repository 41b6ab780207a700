"""Readers of plain folders: good/ bad/ [masks/], yes/ no/, a flat folder, and pictures beside their masks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from zsad.datasets.dataset import Sample
from zsad.datasets.layout import (
    MASK_ENDING,
    Found,
    Layout,
    below,
    categories,
    child,
    has_pictures,
    match_masks,
    pictures,
    subfolders,
)
from zsad.datasets.masks import read_mask
from zsad.datasets.words import names_a_defect, plain, role_of
from zsad.errors import MaskError, UsageError
from zsad.images.side_masks import is_black_and_white
from zsad.images.sources import ImageRef

__all__ = ["BESIDE", "FLAT", "GOOD_BAD", "PAIRS", "YES_NO", "add_labelled_by_mask"]

SPLITS = frozenset({"train", "test", "validation", "test_public", "test_private", "test_private_mixed"})  # are no categories


# ---------------------------------------------------------------- good/ bad/ [masks/]
def _is_good_bad(folder: Path) -> bool:
    roles = [role_of(one.name) for one in subfolders(folder) if any(below(one).values())]
    return "normal" in roles and bool({"anomalous", ""} & set(roles))


def _good_bad(root: Path) -> list[Path]:
    return [folder for folder in categories(root, _is_good_bad) if folder == root or _may_be_category(folder)]


def _may_be_category(folder: Path) -> bool:
    return plain(folder.name) not in SPLITS and role_of(folder.name) != "mask"


def _read_good_bad(root: Path, found: Found) -> None:
    for folder in _good_bad(root):
        name, inside = folder.resolve().name, [(one, found.role(one)) for one in subfolders(folder)]
        _ask(folder, inside)
        kinds: dict[str, tuple[int, list[Path]]] = {}  # "good", "scratch", "bad/line2": label and pictures
        for place, role in inside:
            for deeper, paths in below(place).items() if role in ("normal", "anomalous", "") else ():
                kinds[f"{place.name}/{deeper}".rstrip("/")] = int(role != "normal"), paths
        bad = {kind: paths for kind, (label, paths) in kinds.items() if label}
        masks = _masks_of([place for place, role in inside if role == "mask"], bad, found)
        for kind, (label, paths) in kinds.items():
            for path in paths:
                found.add(Sample(path, label, masks.get(path) if label else None, name, kind=kind))


def _ask(folder: Path, inside: Sequence[tuple[Path, str]]) -> None:
    """Refuses a folder beside one of anomalous pictures whose name neither is a defect's nor says what else it holds."""
    known = [place.name for place, role in inside if role == "anomalous"]
    named = [place for place, role in inside if role == "" and not names_a_defect(place.name)]
    unknown = [place for place in named if any(below(place).values())]
    if known and unknown:
        names = ", ".join(f"{one.name} ({sum(map(len, below(one).values()))} pictures)" for one in unknown)
        first = unknown[0].name
        raise UsageError(
            f"{str(folder)!r} has the folder {known[0]!r} and beside it {names}: the name does not say what it holds. Say so: "
            f"--kind {first}=anomalous (or normal, or mask), or --ignore {first}; in Python roles={{{first!r}: 'anomalous'}}."
        )


def _masks_of(stores: Sequence[Path], kinds: Mapping[str, list[Path]], found: Found) -> dict[Path, Path]:
    """Masks by picture: masks/x.png of any kind, or masks/<kind>/x.png, <kind> whole ("bad/line2") or its last part."""
    masks: dict[Path, Path] = {}
    whole = [path for paths in kinds.values() for path in paths]
    for store in stores:
        for deeper in [store, *(one for one in sorted(store.rglob("*")) if one.is_dir())]:
            of = deeper.relative_to(store).as_posix()
            fits = [paths for kind, paths in kinds.items() if of in (kind, kind.partition("/")[2])]
            own = whole if deeper == store else [path for paths in fits for path in paths]
            masks |= match_masks(own, pictures(deeper), found)
    return masks


# ---------------------------------------------------------------- yes/ no/
def _is_yes_no(folder: Path) -> bool:
    return {"yes", "no"} <= {plain(one.name) for one in subfolders(folder) if has_pictures(one)}


def _read_yes_no(root: Path, found: Found) -> None:
    """Other folders beside (Br35H: pred/) are unlabelled, and not read."""
    for folder in categories(root, _is_yes_no):
        for kind in ("no", "yes"):
            for path in pictures(child(folder, kind)):
                found.add(Sample(path, int(kind == "yes"), None, folder.resolve().name, kind=kind))


# ---------------------------------------------------------------- a flat folder
def _is_flat(root: Path) -> bool:
    """Pictures, and none in any folder below; not where masks lie among them, for they would be scored as pictures."""
    below_root = (Path(folder) for top in subfolders(root) for folder, _, _ in os.walk(top))
    return has_pictures(root) and not _is_beside(root) and not any(map(has_pictures, below_root))


def _read_flat(root: Path, found: Found) -> None:
    for path in pictures(root):
        found.add(Sample(path, None, None, root.resolve().name))


# ---------------------------------------------------------------- x.jpg and x_mask.png in one folder
def _beside(root: Path) -> tuple[list[Path], list[Path]]:
    """Pictures and masks of a folder: ``x_mask.png`` by ``x.jpg``, or ``x.png`` by ``x.jpg``."""
    files = pictures(root)
    stems = {path.stem for path in files}
    masks = [path for path in files if (short := MASK_ENDING.sub("", path.stem)) != path.stem and short in stems]
    if not masks:
        photographs = {path.stem for path in files if path.suffix.lower() in (".jpg", ".jpeg")}
        masks = [path for path in files if path.suffix.lower() == ".png" and path.stem in photographs]
    return [path for path in files if path not in set(masks)], masks


def _is_beside(root: Path) -> bool:
    """Masks that their names' ends mark, or black and white ones of the pictures' names; and no folder below has pictures."""
    own, masks = _beside(root)
    same = [path for path in masks if path.stem in {one.stem for one in own}]
    told = not same or is_black_and_white(ImageRef(same[0].name, same[0]))
    return bool(masks) and told and not any(any(below(folder).values()) for folder in subfolders(root))


def _read_beside(root: Path, found: Found) -> None:
    own, files = _beside(root)
    masks = match_masks(own, files, found)
    for path in own:
        add_labelled_by_mask(found, path, masks.get(path), root.resolve().name, "test")


# ---------------------------------------------------------------- images/ masks/
def _pairs(folder: Path) -> list[tuple[Path, Path, str]]:
    """(pictures, masks, split) of one category, as the segmentation sets of the AnomalyCLIP family name them."""
    names = {one.name for one in subfolders(folder)}
    known = [("images", "masks", "test"), ("test-image", "test-mask", "test"), ("trainval-image", "trainval-mask", "train")]
    known.append(("test", "ground_truth", "test"))  # Crane's ISIC: pictures directly in test/
    for truth in sorted(name for name in names if name.endswith("_GroundTruth")):  # ISIC, as it is handed out
        stem = truth.removesuffix("_GroundTruth")
        known += [(f"{stem}_Data", truth, "train" if stem.endswith("_Training") else "test"), ("test", truth, "test")]
    if any(role_of(name) == "normal" for name in names):
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
BESIDE = Layout(
    "beside",
    "x.jpg and x_mask.png (or x.png) of every picture in one folder; an empty mask means normal",
    _is_beside,
    _read_beside,
)
PAIRS = Layout(
    "pairs",
    "[category/]images and masks (Kvasir, CVC-ColonDB, CVC-ClinicDB), test-image and test-mask (TN3K), x_Data and "
    "x_GroundTruth or test and ground_truth with pictures directly inside (ISIC); an empty mask means normal",
    lambda root: bool(categories(root, lambda one: bool(_pairs(one)))),
    _read_pairs,
)
