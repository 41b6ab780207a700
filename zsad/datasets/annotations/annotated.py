"""Shared parts of the readers of annotations: pictures found by the names in them, samples, splits."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from zsad.datasets.dataset import Sample
from zsad.datasets.layout import Found, pictures, subfolders
from zsad.datasets.shapes import Encoded, Polygon, Shapes
from zsad.datasets.words import NORMAL

__all__ = ["AnnotatedSet", "Mark", "split_folders", "split_of"]

Mark = tuple[str, Polygon | Encoded | None]
"""One annotation: its name, and its area; None where it has none (a line, a point, an empty box, a word for the picture)."""

SPLITS = {"train": "train", "training": "train", "trainval": "train", "test": "test", "testing": "test"}
SPLITS |= dict.fromkeys(("val", "valid", "validation", "dev"), "validation")


class AnnotatedSet:
    """The pictures of an annotated data set while it is read.

    Args:
        found: what is read is added to it.
        root: folder of the data set; pictures are looked for inside and nowhere else.
    """

    def __init__(self, found: Found, root: Path) -> None:
        self.found, self.root, self.category = found, Path(os.path.normpath(root)), root.resolve().name
        found.root = self.root
        self.used: set[Path] = set()
        self._by_name: dict[str, list[Path]] | None = None
        self._harmless: Counter[str] = Counter()

    def find(
        self, name: object, where: str, bases: Sequence[Path] = (), *, any_ending: bool = False, other: str = ""
    ) -> Path | None:
        """The picture that an annotation names; None, with a problem, where there is none.

        The name is taken as it is and URL-decoded, relative to each of the folders and to the root. Where nothing is there
        (absolute paths of another machine, URLs), the one file counts that has the same name and most of the same folders.

        Args:
            name: from the annotations.
            where: names the entry in a problem.
            bases: folders to which the name may be relative.
            any_ending: the name may lack its ending, or have another one.
            other: a name to be tried where nothing has the first one.
        """
        if not isinstance(name, str) or not name.strip():
            self.found.problem(where, f"{name!r} is no name of a picture.")
            return None
        spellings = [*_spellings(name), *([other] if other else [])]
        for spelling in spellings:
            for base in (*bases, self.root):
                path = self._inside(base, spelling)
                if path is not None:
                    self.used.add(path)
                    return path
        best = next((fits for spelling in spellings if (fits := self._alike(spelling, any_ending))), [])
        if len(best) == 1:
            self.used.add(best[0])
            return best[0]
        what = f"{len(best)} pictures are called so" if best else "there is no such picture"
        self.found.problem(where, f"{what} in {self.category!r}: {name[:200]!r}.")
        return None

    def _inside(self, base: Path, name: str) -> Path | None:
        """An existing file below the root, links resolved."""
        if "\0" in name:
            return None
        path = Path(os.path.normpath(base / name))
        inside = self.found.inside(self.root, str(path), absolute=False) if path.is_absolute() else None
        if not path.is_absolute() and path.is_relative_to(self.root):
            inside = self.found.inside(self.root, path.relative_to(self.root).as_posix(), absolute=False)
        return inside if inside is not None and os.path.isfile(inside) else None  # noqa: PTH113 (answers for any name)

    def _alike(self, name: str, any_ending: bool) -> list[Path]:
        """The files below the root with this file name, those that share most of the folders above it."""
        parts = name.split("/")
        there = self._names().get(parts[-1], [])
        if any_ending and not there:
            stem = Path(parts[-1]).stem if Path(parts[-1]).suffix else parts[-1]
            there = self._names().get(f"{parts[-1]}/", []) or self._names().get(f"{stem}/", [])
        shared = {path: _shared(path.parts[:-1], parts[:-1]) for path in there}
        most = max(shared.values(), default=0)
        best = [path for path in there if shared[path] == most]
        return [path for path in best if self._inside(self.root, path.relative_to(self.root).as_posix()) is not None]

    def _names(self) -> dict[str, list[Path]]:
        """Pictures below the root by file name, and by "stem/"."""
        if self._by_name is None:
            self._by_name = {}
            for path in self.all_pictures():
                for key in (path.name, f"{path.stem}/"):
                    self._by_name.setdefault(key, []).append(path)
        return self._by_name

    def all_pictures(self) -> Iterator[Path]:
        """The picture files below the root, without hidden folders and linked ones."""
        for folder, below, _ in os.walk(self.root):
            below[:] = sorted(name for name in below if not name.startswith("."))
            yield from pictures(Path(folder))

    def add(
        self,
        path: Path,
        marks: Sequence[Mark],
        split: str,
        *,
        size: tuple[int, int] | None = None,
        relative: bool = False,
        mask: Path | None = None,
    ) -> None:
        """Adds a picture with its annotations; "good", "ok" and "normal" are no defects. ``mask``: a file instead of areas."""
        defects = [(name, part) for name, part in marks if name.casefold() not in NORMAL]
        self._harmless.update(name for name, _ in marks if name.casefold() in NORMAL)
        parts = tuple(part for _, part in defects if part is not None)
        if 0 < len(parts) < len(defects) and mask is None:
            self.found.problem(path, f"{len(defects) - len(parts)} of its {len(defects)} annotations have no area: not drawn.")
        drawn = Shapes(parts, size, relative) if parts else None
        kind = "+".join(sorted({name for name, _ in defects})) or "good"
        self.found.add(Sample(path, int(bool(defects)), (mask or drawn) if defects else None, self.category, split, kind))

    def add_unlabelled(self, path: Path, split: str) -> None:
        """Adds a picture of which nothing is known."""
        self.found.add(Sample(path, None, None, self.category, split))

    def finish(self) -> None:
        """Adds the problems of the set as a whole: pictures beside those that are listed, areas that are no defects."""
        for name, count in self._harmless.items():
            self.found.problem(self.category, f"{count} annotation(s) called {name!r} are taken as normal, not as defects.")
        if not self.used:
            return
        folders = {path.parent for path in self.used}
        left = [path for folder in sorted(folders) for path in pictures(folder) if path not in self.used]
        if left:
            self.found.problem(left[0], f"{len(left)} picture(s) are in no annotation file: left out; this is the first.")


def _spellings(name: str) -> list[str]:
    """A name as it is and URL-decoded, without host and query, and without the hash that Label Studio puts before uploads."""
    name = name.strip().replace("\\", "/")
    found = [name]
    if "://" in name or name.startswith("/data/") or "?d=" in name:
        address = urlsplit(name)
        local = parse_qs(address.query).get("d", [])
        found = [*local, address.path.lstrip("/") if not address.scheme or address.netloc else address.path]
    found += [unquote(one) for one in found]
    stripped = [re.sub(r"(^|/)[0-9a-f]{8}-(?=[^/]+$)", r"\1", one) for one in found]
    return list(dict.fromkeys(one for one in (*found, *stripped) if one))


def _shared(one: Sequence[str], two: Sequence[str]) -> int:
    """How many of the last parts of two paths are equal."""
    count = 0
    while count < min(len(one), len(two)) and one[-1 - count] == two[-1 - count]:
        count += 1
    return count


def split_of(*names: str) -> str:
    """The split of the first name (of a file or folder) that has one: "train", "validation" or "test"; else "test"."""
    return next((word for name in names if (word := _split_word(name))), "test")


def _split_word(name: str) -> str:
    words = re.findall(r"[a-z]+", name.casefold())
    return next((SPLITS[word] for word in words if word in SPLITS), "")


def split_folders(root: Path) -> list[Path]:
    """The folders in the root that are named like a split: train, valid, test."""
    return [folder for folder in subfolders(root) if _split_word(folder.name)]
