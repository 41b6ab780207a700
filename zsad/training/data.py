"""From data sets to training examples: which pictures can be used, why the others cannot, and the order of the steps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zsad.datasets import Dataset, Sample, load_mask, open_dataset
from zsad.datasets.masks import resize_mask
from zsad.errors import ImageError, MaskError, UsageError
from zsad.images.reading import load_image
from zsad.images.sources import ImageRef
from zsad.synthetic.defects import make_defect
from zsad.types import Schedule

__all__ = ["Example", "ExampleLoader", "epoch_steps", "find_examples", "load_examples", "open_datasets", "share", "usable"]

NO_NORMAL = "is of a category without a normal picture, and {} learns by comparing each picture with one."
NO_DEFECT = "is of a category without a defect that has a mask, and {} learns by comparing each picture with one."
NO_MASK = "has no mask, or is normal in a category of which no defect has one, and {} learns from masks alone."


@dataclass(frozen=True)
class Example:
    """One training picture as it is, or with one synthetic defect. Nothing is decoded."""

    sample: Sample
    source: str  # "data set/path below its root"
    name: str  # of the category, for prompts
    label: int  # 0 normal, 1 anomalous
    masked: bool  # whether the position of the defect is known (normal pictures: an empty mask)
    defect: int = 0  # 0: the picture as it is; n: with its n-th synthetic defect


def open_datasets(data: Any, split: str | None = "test") -> list[Dataset]:
    """Opens a data set, a path, or several of them.

    Raises:
        UsageError: nothing was given; SourceNotFound and the like as ``open_dataset``.
    """
    several = [data] if isinstance(data, (Dataset, str, Path)) else list(data)
    if not several:
        raise UsageError("There is no data set to train on. Give its folder: --data path/to/data.")
    return [one if isinstance(one, Dataset) else open_dataset(one, split=split) for one in several]


def find_examples(sets: Sequence[Dataset], synthetic: int = 0) -> tuple[list[Example], list[dict[str, str]]]:
    """Examples whose labels allow training, and an error row for each picture that has no label.

    With synthetic defects, pictures without a label count as normal. Where no anomalous picture of a category has a mask,
    its normal pictures train the image-level loss alone too: otherwise the maps would learn that everything is normal.

    Args:
        sets: opened data sets.
        synthetic: synthetic defects per normal picture.
    """
    found, rows = [], []
    for data in sets:
        real = [sample for sample in data if sample.label == 1]
        bare = {sample.category for sample in real} - {sample.category for sample in real if sample.mask is not None}
        for sample in data:
            source = f"{data.name}/{data.name_of(sample)}"
            label = 0 if sample.label is None and synthetic else sample.label
            if label is None:
                rows.append({"picture": source, "error": "has no label, so it cannot be trained on."})
                continue
            masked = sample.mask is not None or (label == 0 and (synthetic > 0 or sample.category not in bare))
            name = data.prompt_name(sample.category)
            found.append(Example(sample, source, name, label, masked))
            if label == 0:
                found += [Example(sample, source, name, 1, True, number) for number in range(1, synthetic + 1)]
    return found, rows


def usable(examples: Sequence[Example], schedule: Schedule, method: str, rows: list[dict[str, str]]) -> list[Example]:
    """The examples that a method can learn from by its schedule; the others become rows of ``errors.jsonl``."""
    normal = {one.name for one in examples if not one.label}
    bad = {one.name for one in examples if one.label and one.masked}
    kept = []
    for one in examples:
        lacks = {
            NO_MASK: not (schedule.labels_only or one.masked),
            NO_NORMAL: schedule.references and one.name not in normal,
            NO_DEFECT: schedule.anomalous and one.name not in bad,
        }
        reason = next((reason for reason, holds in lacks.items() if holds), None)
        if reason is None:
            kept.append(one)
        else:
            rows.append({"picture": one.source, "error": reason.format(method)})
    return kept


class ExampleLoader:
    """Loads pictures and masks at the model's input size.

    Args:
        backbone: its ``preprocess`` and ``image_size`` are used.
        seed: of the synthetic defects, which depend on the seed, the picture's name and their number alone.
        value_range: as ``load_image``.
    """

    def __init__(self, backbone: Any, seed: int = 111, value_range: tuple[float, float] | None = None) -> None:
        self.backbone, self.seed, self.value_range = backbone, seed, value_range

    def load(self, example: Example) -> tuple[Tensor, Tensor | None, str]:
        """The preprocessed picture (3, H, W), its mask (H, W) uint8, 1 = defect (None: no mask), and the kind of defect ("":
        normal, or unknown).

        Raises:
            ImageError: it cannot be read.
            MaskError: the mask cannot be read, has another size than the picture, or contradicts the label.
        """
        rgb, mask, kind = self.whole(example)
        return self.backbone.preprocess(rgb), None if mask is None else self.sized(mask), kind

    def sized(self, mask: Any) -> Tensor:
        """A mask (H, W) at the model's input size, uint8."""
        return torch.from_numpy(resize_mask(mask > 0, int(self.backbone.image_size)).astype(np.uint8))

    def whole(self, example: Example) -> tuple[Any, Any, str]:
        """The picture (H, W, 3) and its mask (H, W) uint8 or None as they are; synthetic defects at the model's input size.

        Raises:
            ImageError, MaskError: as ``load``.
        """
        sample = example.sample
        rgb = load_image(ImageRef(example.source, sample.path), value_range=self.value_range).rgb
        kind = sample.kind if example.label else ""
        if example.defect:
            return self._with_defect(rgb, example, int(self.backbone.image_size))
        if not example.masked:
            return rgb, None, kind
        if example.label == 0 and sample.mask is None:
            return rgb, np.zeros(rgb.shape[:2], np.uint8), kind
        mask = load_mask(sample, picture=rgb.shape[:2])
        if mask.any() != bool(example.label):
            what = "anomalous and its mask is empty" if example.label else "normal and has a mask with a defect"
            raise MaskError(f"{example.source!r} is labelled {what}. Correct one of them.")
        return rgb, mask.astype(np.uint8), kind

    def _with_defect(self, rgb: Any, example: Example, size: int) -> tuple[Any, Any, str]:
        """Adds a synthetic defect at the model's input size, so that thin ones survive."""
        small = np.array(Image.fromarray(rgb).resize((size, size), Image.Resampling.BICUBIC))
        digest = hashlib.sha256(f"{self.seed} {example.defect} {example.source}".encode()).digest()
        bad, mask, word = make_defect(small, np.random.default_rng(list(digest)))
        if not mask.any():
            raise MaskError(f"{example.source!r}: a synthetic defect changes nothing on it. Leave the picture out.")
        return bad, mask, word


def load_examples(
    examples: Iterable[Example], loader: ExampleLoader, rows: list[dict[str, str]]
) -> Iterator[tuple[Example, Tensor, Tensor | None, str]]:
    """Loads each example; a picture that cannot be used becomes one error row, and its synthetic defects are skipped."""
    failed: set[str] = set()
    for example in examples:
        if example.source in failed:
            continue
        try:
            loaded = loader.load(example)
        except (ImageError, MaskError) as error:
            rows.append({"picture": example.source, "error": str(error)})
            failed.add(example.source)
            continue
        yield example, *loaded


def epoch_steps(
    examples: Sequence[Example], batch_size: int, one_name: bool, seed: int, epoch: int, least: int = 1
) -> list[list[int]]:
    """The steps of an epoch as lists of indices into ``examples``: a function of seed and epoch, not of the processes.

    A step holds pictures with masks or pictures without, never both, and with ``one_name`` those of one category. A last step
    of fewer than ``least`` pictures joins the one before it.
    """
    rng = np.random.default_rng([seed, epoch])
    groups: dict[tuple[bool, str], list[int]] = {}
    for row in rng.permutation(len(examples)).tolist():
        example = examples[row]
        groups.setdefault((example.masked, example.name if one_name else ""), []).append(row)
    steps = [rows[start:end] for rows in groups.values() for start, end in _spans(len(rows), batch_size, least)]
    return [steps[place] for place in rng.permutation(len(steps)).tolist()]


def _spans(count: int, size: int, least: int) -> list[tuple[int, int]]:
    """Starts and ends of pieces of ``size``, the last one smaller; where it is below ``least``, the last two are one."""
    starts = [start for start in range(0, count, size) if start == 0 or count - start >= least]
    return list(zip(starts, [*starts[1:], count], strict=True))


def share(rows: Sequence[int], rank: int, world: int, parts: int = 1) -> list[tuple[list[int], float]]:
    """The micro-batches of one step that a process computes, each with its share of the step's pictures.

    A process without a picture computes the first one with weight 0, since it has to join the sum of gradients.
    """
    own = list(rows[rank::world])
    if not own:
        return [(list(rows[:1]), 0.0)]
    pieces = [piece.tolist() for piece in np.array_split(np.array(own), min(parts, len(own)))]  # sizes differ by one at most
    return [(piece, len(piece) / len(rows)) for piece in pieces]
