"""How well kinds that are found without labels agree with a data set's own, beside k-means on whole pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from zsad.datasets import Dataset
from zsad.detector import Detector
from zsad.errors import ImageError, UsageError
from zsad.evaluation.category import DetectorSetup
from zsad.evaluation.plan import Job, plan_jobs
from zsad.images.reading import ImageRef, load_image
from zsad.inference.inspector import Inspector
from zsad.inference.region_features import Found, eight_bits, features_of, limits_of, picture_kinds, regions_of
from zsad.kinds.grouping import group, kinds_of
from zsad.kinds.merging import Agreement, agreement

__all__ = ["KindsRow", "evaluate_kinds"]


@dataclass(frozen=True)
class KindsRow:
    """One category: how many pictures, kinds and groups there are, and how well they agree."""

    category: str
    pictures: int  # anomalous ones with a label
    kinds: int  # of the labels
    groups: int  # that were found
    regions: Agreement  # of groups of regions, merged to pictures
    whole: Agreement  # k-means on features of whole pictures, with the true number of kinds

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        counts = {"category": self.category, "pictures": self.pictures, "kinds": self.kinds, "groups": self.groups}
        return counts | {"regions": self.regions._asdict(), "whole_pictures": self.whole._asdict()}


def evaluate_kinds(
    detector: str | Detector | Inspector, data: Dataset, number: int | str | None = None, *, shots: int = 0, **settings: Any
) -> list[KindsRow]:
    """Scores the test pictures of a data set, groups the regions of the anomalous ones, and compares with the labels.

    Args:
        detector: as of ``evaluate``.
        data: opened; its kinds are the labels. Normal pictures set the lower end of the maps' range.
        number: of groups; "true": as many as there are labels; None: found (HDBSCAN).
        shots: references per category, drawn with seed 0.
        **settings: keywords of ``Inspector`` and of the method.

    Raises:
        UsageError: no category has two kinds of anomalous pictures.
    """
    setup, rows = DetectorSetup.load(detector, settings), []
    for job in plan_jobs(data, data.select(None, "test"), shots, (0,)):
        kinds = sorted({one.kind for one in job.samples if one.label == 1})
        if len(kinds) >= 2 and not job.error:
            rows.append(_row(setup.inspector(job), job, kinds, number))
    if not rows:
        raise UsageError(
            f"No category of {data.name} has two or more kinds of anomalous pictures, so there are no kinds to compare with."
        )
    return rows


def _row(inspector: Inspector, job: Job, kinds: list[str], number: int | str | None) -> KindsRow:
    refs = [ImageRef(name, sample.path) for name, sample in zip(job.names, job.samples, strict=True)]
    found_maps = zip(job.samples, inspector.over(len(refs)).scored(refs), strict=True)
    scored = [(sample, one.model_map) for sample, one in found_maps if one.model_map is not None]
    ends = min(float(np.nanmin(one)) for _, one in scored), max(float(np.nanmax(one)) for _, one in scored)
    limits, backbone = limits_of([float(np.nanmax(one)) for _, one in scored], *ends), inspector.detector.backbone
    regions: list[Found] = []
    labels: list[int] = []
    whole: list[Found] = []
    for sample, one in scored:
        if sample.label != 1:
            continue
        try:
            picture = load_image(ImageRef(sample.path.name, sample.path), value_range=inspector.value_range).rgb
        except ImageError:
            continue
        regions += regions_of(len(labels), picture, eight_bits(one, *ends), limits)
        whole.append(Found(len(labels), (0, 0, 0, 0), picture, np.ones(picture.shape[:2], dtype=bool)))
        labels.append(kinds.index(sample.kind))
    true = np.array(labels)
    wanted = len(kinds) if number == "true" else number
    features = features_of(regions, backbone, inspector.device)
    found = kinds_of(features, group(features, None if wanted is None else int(wanted)), {})
    pictures = picture_kinds(regions, found.similarity(features), len(labels))
    pictures = np.where(pictures < 0, len(found.names), pictures)  # a picture without regions is in a group of its own
    from sklearn.cluster import KMeans

    plain = KMeans(len(kinds), n_init=10, random_state=0).fit_predict(features_of(whole, backbone, inspector.device))
    return KindsRow(
        job.category, len(labels), len(kinds), len(set(pictures.tolist())), agreement(pictures, true), agreement(plain, true)
    )
