"""Shared parts of the readers: the samples found so far, folder listings, masks matched by stem, checked paths."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zsad.datasets.dataset import Sample, display_path
from zsad.datasets.words import plain, role_of
from zsad.images.sources import SUFFIXES

__all__ = [
    "MASK_ENDING",
    "Found",
    "Layout",
    "below",
    "categories",
    "child",
    "entries",
    "has_pictures",
    "match_masks",
    "pictures",
    "subfolders",
]

MASK_ENDING = re.compile(r"[_-](mask|gt|label|segmentation)$", re.IGNORECASE)


@dataclass
class Found:
    """Samples and problems that a reader has found so far. ``root`` is the folder that names in problems are relative to."""

    root: Path
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)  # those that should have pictures
    resolved: dict[Path, Path] = field(default_factory=dict)  # folder -> where it really is
    roles: Mapping[str, str] = field(default_factory=dict)  # what the user says that folders hold, by plain name

    def role(self, folder: Path) -> str:
        """What a folder holds: as the user says, else by its name; see ``words.role_of``."""
        return self.roles.get(plain(folder.name)) or role_of(folder.name)

    def category(self, name: str) -> None:
        """Declares a category, so that one without pictures becomes a problem."""
        if name not in self.categories:
            self.categories.append(name)

    def add(self, sample: Sample) -> None:
        """Adds a sample."""
        self.samples.append(sample)

    def inside(self, root: Path, text: str, *, absolute: bool) -> Path | None:
        """Resolves a path that a file of the data set names; None where it may not be followed.

        Relative paths are relative to ``root`` and have to end inside it, links resolved. An absolute path is taken where
        ``absolute`` allows it, else where it too ends inside. Backslashes count as slashes.
        """
        named = Path(text.replace("\\", "/"))
        path = root / named  # an absolute name replaces the root
        if "\0" in text:
            return None
        if absolute and named.is_absolute():
            return path
        try:  # of a hundred thousand rows, few folders differ
            plain = path.name not in ("", "..") and not path.is_symlink()
            real = self._real(path.parent) / path.name if plain else path.resolve()
            return path if real.is_relative_to(self._real(root)) else None
        except (OSError, RuntimeError):  # a link to itself
            return None

    def _real(self, folder: Path) -> Path:
        if folder not in self.resolved:
            self.resolved[folder] = folder.resolve()
        return self.resolved[folder]

    def problem(self, where: Path | str, what: str) -> None:
        """Adds a problem of a file, row or category."""
        name = display_path(where, self.root) if isinstance(where, Path) else where
        self.problems.append(f"{name}: {what}")


@dataclass(frozen=True)
class Layout:
    """A folder layout: how it is recognised and read.

    Attributes:
        name: as ``open_dataset(layout=)`` takes it.
        expected: what a folder of this layout looks like, in a line.
        recognise: whether a path (a folder, or a file that lists pictures) is of this layout; looks at names alone.
        read: fills ``Found``.
        index: it is recognised by a file that lists the pictures, and so goes before the layouts of folders.
        masks: anomalous pictures should have masks.
    """

    name: str
    expected: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path, Found], None]
    index: bool = False
    masks: bool = True


# ---------------------------------------------------------------- listings
def _scan(folder: Path) -> Iterator[tuple[str, bool]]:
    """(name, is a folder) of each entry that is not hidden, unsorted; none where it is no folder or cannot be opened."""
    try:
        with os.scandir(folder) as found:
            yield from ((entry.name, _is_folder(entry)) for entry in found if not entry.name.startswith("."))
    except OSError:
        return


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_picture(name: str, endings: Collection[str] = SUFFIXES) -> bool:
    return os.path.splitext(name)[1].lower() in endings  # noqa: PTH122 (twenty times faster than a Path)


def entries(folder: Path) -> list[Path]:
    """The entries of a folder, sorted by name, without hidden ones; [] where it is no folder or cannot be opened."""
    return [folder / name for name, _ in sorted(_scan(folder))]


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones."""
    return [folder / name for name, is_folder in sorted(_scan(folder)) if is_folder]


def pictures(folder: Path, endings: Collection[str] = SUFFIXES) -> list[Path]:
    """The picture files in a folder, by their endings, sorted by name."""
    return [folder / name for name, is_folder in sorted(_scan(folder)) if not is_folder and _is_picture(name, endings)]


def child(folder: Path, name: str) -> Path:
    """The folder of that name in a folder, in whatever spelling; as named where there is none."""
    return next((one for one in subfolders(folder) if plain(one.name) == plain(name)), folder / name)


def below(folder: Path) -> dict[str, list[Path]]:
    """The picture files in a folder and its subfolders by the subfolder ("" itself, "a/b"), without folders of masks."""
    found = {"": pictures(folder)}
    for one in subfolders(folder):
        if role_of(one.name) != "mask" and not one.is_symlink():
            found |= {f"{one.name}/{deeper}".rstrip("/"): paths for deeper, paths in below(one).items()}
    return found


def has_pictures(folder: Path) -> bool:
    """Whether a folder has a picture file directly inside."""
    return any(not is_folder and _is_picture(name) for name, is_folder in _scan(folder))


def categories(root: Path, is_one: Callable[[Path], bool]) -> list[Path]:
    """The folders of the categories: the root itself where it is one, else those of its folders that are."""
    return [root] if is_one(root) else [folder for folder in subfolders(root) if is_one(folder)]


# ---------------------------------------------------------------- masks and foreign paths
def match_masks(wanted: Sequence[Path], masks: Sequence[Path], found: Found) -> dict[Path, Path]:
    """Matches masks to pictures by stem.

    The mask's stem may end in ``_mask``, ``_GT``, ``_label`` or ``_Segmentation``; file endings do not matter. Two masks
    that fit one picture, a mask that fits two, and masks that fit none are problems; the picture has no mask then.

    Returns:
        Mask by picture.
    """
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for mask in masks:
        for stem in {mask.stem, MASK_ENDING.sub("", mask.stem)}:
            by_stem[stem].append(mask)
    fits = {path: [mask for mask in by_stem.get(path.stem, ()) if mask != path] for path in wanted}
    owners = Counter(mask for several in fits.values() for mask in several)
    for path, several in fits.items():
        if len(several) > 1:
            found.problem(path, f"{len(several)} masks fit it ({', '.join(mask.name for mask in several)}), so none is used.")
        elif several and owners[several[0]] > 1:
            found.problem(path, f"its mask {several[0].name} fits {owners[several[0]]} pictures, so it is not used.")
    orphans = [mask for mask in masks if mask not in owners]
    if orphans:
        found.problem(orphans[0], f"{len(orphans)} mask(s) in its folder fit no picture, this is the first.")
    return {path: several[0] for path, several in fits.items() if len(several) == 1 and owners[several[0]] == 1}
