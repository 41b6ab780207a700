"""``Dataset``: the samples of a data set, and messages about files and rows that cannot be used."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from zsad.datasets.names import prompt_name
from zsad.datasets.shapes import Shapes
from zsad.errors import UnknownName
from zsad.images.sources import encodable

__all__ = ["Count", "Dataset", "Sample", "display_path"]


@dataclass(frozen=True)
class Sample:
    """One picture of a data set, with its label, mask, category and split. Nothing is decoded."""

    path: Path
    label: int | None  # 0 normal, 1 anomalous, None unknown
    mask: Path | Shapes | None  # a file, a folder of files whose union is the mask (MVTec LOCO), or annotated areas
    category: str  # as the data set writes it: "metal_nut"
    split: str = "test"
    kind: str = ""  # "good", "crack", ...; "" where it is unknown
    view: str = ""  # camera of a specimen that is seen from several sides (Real-IAD: "C1" to "C5")

    @property
    def boxes(self) -> bool:
        """Whether its mask is drawn from bounding boxes, at least in part, and so larger than the defect."""
        return isinstance(self.mask, Shapes) and self.mask.boxes > 0


@dataclass(frozen=True)
class Count:
    """Numbers of pictures and masks of one category: a line of ``Dataset.summary()``.

    Masks are counted over anomalous pictures alone: normal ones need none. ``boxes`` of the masks found are of bounding boxes.
    """

    category: str
    normal: int
    anomalous: int
    unlabelled: int
    masks_found: int
    masks_missing: int
    boxes: int = 0


@dataclass(frozen=True)
class Dataset:
    """The samples of a data set, in the order in which its reader lists them.

    Attributes:
        name: the folder's name.
        root: the folder.
        layout: name of the reader.
        samples: one per picture.
        problems: messages about what is missing or wrong, each naming a file, row or category. They are about the data
            set as it was opened: ``select`` keeps them.
    """

    name: str
    root: Path
    layout: str
    samples: tuple[Sample, ...]
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories with at least one picture, in the order of the samples."""
        return tuple(dict.fromkeys(sample.category for sample in self.samples))

    def select(
        self,
        categories: str | Collection[str] | None = None,
        split: str | None = None,
        kinds: str | Collection[str] | None = None,
    ) -> Dataset:
        """Selects the samples of some categories, of a split, of some kinds; None takes all.

        Raises:
            UnknownName: no sample has such a category, split or kind.
        """
        wanted = {"category": categories, "split": [split] if split is not None else None, "kind": kinds}
        kept = self.samples
        for field, values in wanted.items():
            if values is None:
                continue
            values = [values] if isinstance(values, str) else list(values)
            known = {getattr(sample, field) for sample in self.samples}
            for value in values:
                if value not in known:
                    raise UnknownName.among(f"{field} of {self.name}", value, known)
            kept = tuple(sample for sample in kept if getattr(sample, field) in values)
        return replace(self, samples=kept)

    def summary(self) -> list[Count]:
        """Numbers of pictures and masks, one line per category."""
        return [self._count(category) for category in self.categories]

    def _count(self, category: str) -> Count:
        rows = [sample for sample in self.samples if sample.category == category]
        labels = [sample.label for sample in rows]
        masks = [sample.mask is not None for sample in rows if sample.label == 1]
        found = sum(masks)
        boxes = sum(sample.boxes for sample in rows if sample.label == 1)
        return Count(category, labels.count(0), labels.count(1), labels.count(None), found, len(masks) - found, boxes)

    def prompt_name(self, category: str, *, raw: bool = False) -> str:
        """The object name of a category in prompts, by ``prompts/classes.toml``; ``raw`` keeps the folder's name."""
        root = self.root.resolve()
        folders = (root.name, root.parent.name) if category == root.name else (root.name,)  # the root may be one category
        return prompt_name(category, folders=folders, layout=self.layout, raw=raw)

    def name_of(self, sample: Sample) -> str:
        """Name of a picture in rows and tables: its path below the root, or its whole path where it lies elsewhere."""
        return display_path(sample.path, self.root)


def display_path(path: Path, root: Path) -> str:
    """A path as text for messages: below the root where it lies there, and always printable."""
    return encodable((path.relative_to(root) if path.is_relative_to(root) else path).as_posix())
