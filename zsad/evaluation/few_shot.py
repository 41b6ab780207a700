"""Draws the reference images of a few-shot evaluation by a seed, the same ones on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from zsad.datasets import Dataset, Sample
from zsad.errors import ImageError
from zsad.images.reading import ImageRef, load_image

__all__ = ["Drawn", "draw"]

Drawn = tuple[tuple[Sample, ...], tuple[str, ...]]


def draw(data: Dataset, category: str, tested: Sequence[Sample], shots: int, seed: int) -> Drawn:
    """Draws ``shots`` normal pictures of a category.

    They come from the train split where it has normal pictures, else from the normal ones that would be tested. The order is
    that of the SHA-256 of seed, category and name: it depends on no library's random numbers nor on the listing, and the
    pictures of one shot are among those of two. A picture that cannot be read is passed over.

    Args:
        data: all splits.
        category: as the data set writes it.
        tested: the category's pictures that will be scored.
        shots: how many, at least 1.
        seed: of the draw.

    Returns:
        The pictures, fewer than ``shots`` where there are no more, and remarks on the draw.
    """
    train = [one for one in data if one.category == category and one.split == "train" and one.label == 0]
    pool = train or [one for one in tested if one.label == 0]
    notes = (
        [] if train else ["No normal picture of a train split: references were drawn from the tested ones and left out there."]
    )

    def rank(sample: Sample) -> bytes:
        return hashlib.sha256(f"{seed}\0{category}\0{data.name_of(sample)}".encode()).digest()

    found: list[Sample] = []
    for sample in sorted(pool, key=rank):
        if len(found) == shots:
            break
        try:
            load_image(ImageRef(data.name_of(sample), sample.path))
        except ImageError as error:
            notes.append(f"As a reference passed over: {error}")
            continue
        found.append(sample)
    return tuple(found), tuple(notes)
