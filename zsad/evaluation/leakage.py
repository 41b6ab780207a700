"""Data leakage: finds out whether a detector's weights have learned from the data set that it is evaluated on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zsad.common.file_names import many
from zsad.datasets import Dataset, Sample
from zsad.detector import Detector
from zsad.weights.checkpoints import load_index, published, sha256_of

__all__ = ["TrainingData", "data_sets_in", "identify", "leakage", "learned_from", "records_of"]


class PublicDataset(NamedTuple):
    """Names, layouts and categories by which a public data set is recognised, in a text about training data and on disk."""

    name: str
    words: str  # pattern on lower-case letters and digits alone, of sentences and of folders' names
    layouts: tuple[str, ...] = ()  # that no other data set has
    categories: frozenset[str] = frozenset()  # all of it


class TrainingData(NamedTuple):
    """One data set in the header that ``zsad.train`` writes: name, categories, and the SHA-256 of its pictures."""

    name: str
    categories: frozenset[str]
    hashes: frozenset[str]


MVTEC_AD = "carpet bottle hazelnut leather cable capsule grid pill transistor metal_nut screw toothbrush zipper tile wood"
VISA = "candle capsules cashew chewinggum fryum macaroni1 macaroni2 pcb1 pcb2 pcb3 pcb4 pipe_fryum"
PUBLIC_DATASETS = (
    PublicDataset("MVTec AD 2", r"mvtec(ad|anomalydetection)2", ("mvtec2",)),
    PublicDataset("MVTec LOCO AD", r"mvtecloco|locoad"),
    PublicDataset("MVTec AD", r"mvtec(?!3d|loco|(ad|anomalydetection)2)", (), frozenset(MVTEC_AD.split())),
    PublicDataset("VisA", r"(?<![a-z])visa(?!b)", ("visa",), frozenset(VISA.split())),
    PublicDataset("BTAD", r"btad|btech"),
    PublicDataset("MPDD", r"mpdd"),
    PublicDataset("DAGM", r"dagm", ("dagm",)),
    PublicDataset("KolektorSDD2", r"k(olektor)?sdd2", ("ksdd2",)),
    PublicDataset("KolektorSDD", r"k(olektor)?sdd(?!2)|sddanomaly", ("ksdd",)),
    PublicDataset("Magnetic Tile Defects", r"magnetictile", ("mtd",)),
    PublicDataset("Real-IAD", r"realiad", ("real_iad",)),
    PublicDataset("DTD-Synthetic", r"dtdsynth"),
    PublicDataset("ELPV", r"elpv", ("elpv",)),
    PublicDataset("HeadCT", r"headct", ("head_ct",)),
    PublicDataset("BrainMRI", r"brainmri|braintumor"),
    PublicDataset("Br35H", r"br35"),
    PublicDataset("CVC-ColonDB", r"colondb"),
    PublicDataset("CVC-ClinicDB", r"clinicdb"),
    PublicDataset("Kvasir", r"kvasir"),
    PublicDataset("EndoTect", r"endotect"),
    PublicDataset("TN3K", r"tn3k"),
    PublicDataset("ISIC", r"isic(?!a)"),
)
BY_CATEGORIES = ("mvtec", "meta", "manifest")  # layouts of many data sets
CITED = 3  # pictures that are called by name


def data_sets_in(text: str) -> set[str]:
    """The public data sets that a text or a folder's name mentions: "VisA, test split" -> {"VisA"}."""
    words = [re.sub(r"[^a-z0-9]", "", part) for part in re.split(r"[,;()/]| and ", text.casefold())]
    return {one.name for one in PUBLIC_DATASETS if any(re.search(one.words, word) for word in words)}


def identify(data: Dataset) -> set[str]:
    """The public data sets that this one can be: by its folder's name or the one above, its layout, or its categories.

    A folder that names another known set (BTAD in MVTec's layout) is that one, whatever its categories are called. A single
    category is no sign: many a set of one's own is called "screw".
    """
    root = data.root.resolve()
    for text in (data.name, root.name, root.parent.name):
        if named := data_sets_in(text):
            return named
    own = {one.casefold() for one in data.categories} if data.layout in BY_CATEGORIES else set()
    return {one.name for one in PUBLIC_DATASETS if data.layout in one.layouts or (len(own) > 1 and own <= one.categories)}


def learned_from(detector: Detector, method: str = "", checkpoint: str | Path | None = None) -> list[str]:
    """Texts on record about the training data of a detector's learned weights; [] where there are none.

    Args:
        detector: built.
        method: the name that it was created by, perhaps with a tag.
        checkpoint: the file that it was loaded from.
    """
    header, index = detector.header, load_index()
    own = {detector.weights_sha256, dict(header.get("went_on_from") or {}).get("sha256", "")} - {""}
    rows = [row for row in index.values() if row.sha256 in own]
    rows += [index[method]] if method in index else []
    rows += [row] if checkpoint is not None and (row := published(checkpoint)) else []
    texts = [header.get("trained_on"), *(row.trained_on for row in rows)]
    return list(dict.fromkeys(str(text) for text in texts if text))


def records_of(header: Mapping[str, Any]) -> list[TrainingData]:
    """The data sets in the header of a training run; [] for weights that come from elsewhere."""
    data = header.get("data")
    rows = [row for row in data if isinstance(row, Mapping)] if isinstance(data, (list, tuple)) else []
    return [
        TrainingData(
            str(row.get("name", "")),
            frozenset(str(one).casefold() for one in row.get("categories") or ()),
            frozenset(dict(row.get("pictures") or {}).values()),
        )
        for row in rows
    ]


def leakage(detector: Detector, data: Dataset, samples: Sequence[Sample], trained_on: Sequence[str]) -> str:
    """A message where the weights have learned from the data; "" where nothing shows it.

    Compared are the names of the data sets that they learned from, and, where the header is of ``zsad.train`` and so lists
    the SHA-256 of its pictures, the pictures themselves. In such a header the name of a data set counts only for the
    categories beside it: the others were not learned from.

    Args:
        detector: with the header of its weights.
        data: the data set.
        samples: the pictures that are to be scored; read only where the header lists pictures.
        trained_on: from ``learned_from``.
    """
    records, known = records_of(detector.header), identify(data)
    tested = {sample.category.casefold() for sample in samples}
    texts = [text for text in trained_on if not records or text != detector.header.get("trained_on")]
    texts += [f"{one.name} ({', '.join(shared)})" for one in records if (shared := sorted(one.categories & tested))]
    for text in texts:
        if both := sorted(known & data_sets_in(text)):
            return f"{detector.name} learned from {text!r}, and {data.name!r} is {' or '.join(both)}."
    hashes = frozenset[str]().union(*(one.hashes for one in records))
    seen = [one for one in samples if hashes and one.path.is_file() and sha256_of(one.path) in hashes]
    if not seen:
        return ""
    names = ", ".join(data.name_of(one) for one in seen[:CITED]) + (" ..." if len(seen) > CITED else "")
    return f"{detector.name} learned from {len(seen)} of the {many(len(samples), 'picture')} of {data.name!r}: {names}."
