"""``open_dataset``: recognises the layout of a data set and reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from zsad.datasets.annotations import ANNOTATIONS
from zsad.datasets.dataset import Dataset, Sample, display_path
from zsad.datasets.elpv import ELPV, KINDS, installed_elpv
from zsad.datasets.folders import BESIDE, FLAT, GOOD_BAD, PAIRS, YES_NO
from zsad.datasets.layout import Found, Layout, entries, subfolders
from zsad.datasets.left_out import left_out
from zsad.datasets.listed import HEAD_CT, MANIFEST, META, REAL_IAD, VISA
from zsad.datasets.mvtec import MVTEC, MVTEC2
from zsad.datasets.surfaces import DAGM, KSDD, KSDD2, MTD
from zsad.datasets.words import check_roles
from zsad.errors import SourceNotFound, UnknownName, UsageError

__all__ = ["LAYOUTS", "matching_layouts", "open_dataset"]

_FOLDERS = (MVTEC, MVTEC2, DAGM, KSDD, KSDD2, MTD, GOOD_BAD, YES_NO, PAIRS, BESIDE, FLAT)
_ALL = (META, MANIFEST, VISA, REAL_IAD, HEAD_CT, ELPV, *ANNOTATIONS, *_FOLDERS)
LAYOUTS = {layout.name: layout for layout in _ALL}
"""The readers by name. A new one is a row here, and a tree in tests/helpers/trees.py."""


def open_dataset(
    path: str | Path, layout: str | None = None, split: str | None = "test", roles: Mapping[str, str] | None = None
) -> Dataset:
    """Opens a data set in any known layout. Files are listed and matched; pictures stay undecoded.

    Files or rows that cannot be used, and pictures that the layout leaves out, are counted in ``Dataset.problems``.

    Args:
        path: its folder; the file that lists it (meta.json, a manifest, VisA's or Real-IAD's lists); or "elpv",
            "elpv:mono", "elpv:poly" for the installed package.
        layout: a name of ``LAYOUTS``, where a folder fits several; None: recognised.
        split: "train", "test" or what the data set has; None: all. Sets without a split are "test".
        roles: what folders hold whose names do not say it: "anomalous", "normal", "mask" or "ignore", by name.

    Raises:
        SourceNotFound: nothing is there, or no picture.
        UnknownName: no such layout.
        UsageError: no layout fits, or several do, or the data set has no such split; the message lists the layouts.
        MissingExtra: "elpv" without the package.
    """
    if layout is not None and layout not in LAYOUTS:
        raise UnknownName.among("layout", layout, LAYOUTS)
    name, _, kind = str(path).partition(":")
    installed = name == "elpv" and kind in ("", *KINDS) and not Path(path).exists()
    root = installed_elpv() if installed else Path(path)
    if not root.exists():
        raise SourceNotFound(f"There is no data set at {str(root)!r}. Give its folder, or the file that lists it.")
    root = root if root.is_dir() else root.absolute()  # the folders above a list are looked at
    chosen = _choose(root, layout)
    found = Found(root if root.is_dir() else root.parent, roles=check_roles(roles or {}))
    chosen.read(root, found)
    if installed and kind:
        found.samples = [sample for sample in found.samples if sample.category == kind]
    samples = _of_split(found, split, root)
    title = str(path) if installed else found.root.resolve().name
    problems = (*found.problems, *left_out(found, chosen), *_shortcomings(found, samples, chosen, split))
    return Dataset(title, found.root, chosen.name, tuple(samples), problems)


def matching_layouts(root: Path) -> list[Layout]:
    """The layouts that fit. A file that lists the pictures goes before folders: many a set in MVTec's layout has both.

    Among such files, lists of labels go before exports of annotation tools, from which they may have been made; and files
    beside the pictures go before a flat folder.
    """
    fitting = [layout for layout in LAYOUTS.values() if layout.recognise(root)]
    listing = [layout for layout in fitting if layout.index]
    labels = [layout for layout in listing if layout not in ANNOTATIONS]
    return labels or listing or [layout for layout in fitting if layout is not FLAT] or fitting


def _choose(root: Path, layout: str | None) -> Layout:
    if layout is not None:
        if LAYOUTS[layout].recognise(root):
            return LAYOUTS[layout]
        raise UsageError(f"{str(root)!r} is not of the layout {layout!r}, which is: {LAYOUTS[layout].expected}. {_holds(root)}")
    fitting = matching_layouts(root)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " and ".join(repr(one.name) for one in fitting)
        raise UsageError(f"{str(root)!r} fits the layouts {names}. Choose one: layout={fitting[0].name!r}.")
    below = [folder for folder in subfolders(root)[:50] if len(matching_layouts(folder)) == 1]
    guess = f" Did you mean {str(below[0])!r}?" if len(below) == 1 else ""
    expected = "".join(f"\n  {one.name}: {one.expected}" for one in LAYOUTS.values())
    raise UsageError(f"{str(root)!r} is of no known layout.{guess} {_holds(root)} Known layouts:{expected}")


def _holds(root: Path) -> str:
    if not root.is_dir():
        return "It is a file."
    names = [display_path(entry, root) + "/" * entry.is_dir() for entry in entries(root)]
    return f"It holds: {', '.join(names[:12]) or 'nothing'}{' ...' if len(names) > 12 else ''}."


def _of_split(found: Found, split: str | None, root: Path) -> list[Sample]:
    if not found.samples:
        first = f" {found.problems[0]}" if found.problems else ""
        raise SourceNotFound(f"The data set {str(root)!r} lists no picture that can be used.{first}")
    samples = [sample for sample in found.samples if split in (None, sample.split)]
    if not samples:
        counts = ", ".join(f"{name} ({n})" for name, n in Counter(sample.split for sample in found.samples).items())
        raise UsageError(f"{str(root)!r} has no picture of split {split!r}. Its splits: {counts}.")
    return samples


def _shortcomings(found: Found, samples: list[Sample], layout: Layout, split: str | None) -> list[str]:
    """Problems of the set as a whole: empty categories, missing masks, pictures that are listed twice."""
    messages = []
    for category in dict.fromkeys([*found.categories, *(sample.category for sample in found.samples)]):
        own = [sample for sample in samples if sample.category == category]
        bare = [sample for sample in own if sample.label == 1 and sample.mask is None]
        anomalous = sum(sample.label == 1 for sample in own)
        if not own:
            messages.append(f"{category}: has no picture{f' of split {split!r}' if split else ''}.")
        elif layout.masks and bare and len(bare) == anomalous:
            messages.append(f"{category}: none of its {anomalous} anomalous pictures has a mask, so it has no pixel metrics.")
        elif layout.masks:
            messages += [f"{display_path(sample.path, found.root)}: is anomalous and has no mask." for sample in bare]
    listed: dict[Path, list[str]] = {}
    for sample in found.samples:
        listed.setdefault(sample.path, []).append(sample.split)
    twice = {path: splits for path, splits in listed.items() if len(splits) > 1}
    for path, splits in twice.items():
        messages.append(f"{display_path(path, found.root)}: is listed {len(splits)} times ({', '.join(splits)}).")
    return messages
