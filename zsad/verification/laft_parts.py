"""The parts of LAFT's proof that need no tower: projections of seeded features, what a subspace is compared by, metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.concepts import Concept, concept_subspace, guided, ignored, mean_nearest, orthonormal
from zsad.metrics.ranking import auroc, average_precision, f1_max
from zsad.verification.compare import Comparisons
from zsad.verification.tiny_clip import random_tensor

__all__ = ["compare_concept", "compare_metrics", "compare_projections", "pairs_of", "score_along"]

PROJECTORS, UNIT, RAW = 5e-6, 5e-6, 2e-5  # tolerances


def compare_projections(check: Comparisons) -> None:
    """Projections, nearest neighbours and scores of seeded features."""
    seed, reference = check.reference.settings["seed"], check.reference
    features, train = random_tensor(seed, "laft/features", (10, 64), 1.0), random_tensor(seed, "laft/train", (40, 64), 1.0)
    vectors, text = random_tensor(seed, "laft/vectors", (6, 64), 0.5), random_tensor(seed, "laft/text", (12, 64), 1.0, 0.3)
    check("inputs", "unit/pairs", pairs_of(text))
    check("inputs", "unit/pairs_two", pairs_of(text[:5], text[5:]))
    concept = concept_subspace(text)
    compare_concept(check, "unit/", concept, {"basis_projector_6": 6})
    theirs = reference.tensor("unit/orthonormal")
    own = orthonormal(vectors)
    gram = theirs.T @ theirs
    check.number("features", "unit/orthonormal", (own.T @ own - gram).abs().max(), 0.0, tolerance=UNIT)
    check.used("unit/orthonormal")
    one = vectors[0]
    found = {
        "inner_basis": guided(features, theirs),
        "inner_svd": guided(features, own),
        "inner_raw": guided(features, vectors),
        "inner_one": guided(features, F.normalize(one, dim=0)[None]),
        "orthogonal_basis": ignored(features, theirs),
        "orthogonal_basis_normalized": F.normalize(ignored(features, theirs), dim=-1),
        "orthogonal_svd": ignored(features, own),
        "orthogonal_raw": ignored(features, vectors),
        "orthogonal_one": ignored(features, one[None]),
        "orthogonal_one_svd": ignored(features, orthonormal(one[None])),
    }
    for key, value in found.items():
        raw = key.endswith("_raw") or key == "orthogonal_one"  # vectors that are no basis
        check("features", f"unit/{key}", value, tolerance=RAW if raw else UNIT)
    for count in (1, 5, 30, 100):
        check("scores", f"unit/knn_{count}", mean_nearest(features, train, count), tolerance=UNIT)
    zeros = torch.zeros(2, 64)
    check("scores", "unit/knn_zero_vector", mean_nearest(zeros, train, 5), tolerance=UNIT)
    for kind, way in (("guide", guided), ("ignore", ignored)):
        rows = [score_along(way, features, train, concept.basis[:n], 5) for n in range(1, len(concept.basis) + 1)]
        check("scores", f"unit/{kind}_score", torch.stack(rows), tolerance=UNIT)


def pairs_of(*lists: Tensor) -> Tensor:
    """The program's differences, each turned to the side of the first; nothing else here forms them."""
    if len(lists) == 1:
        i, j = torch.triu_indices(len(lists[0]), len(lists[0]), 1)
        pairs = lists[0][i] - lists[0][j]
    else:
        pairs = (lists[0][:, None] - lists[1][None]).flatten(0, 1)
    return torch.where((pairs @ pairs[0] < 0)[:, None], -pairs, pairs)


def score_along(way: Any, features: Tensor, train: Tensor, basis: Tensor, count: int) -> Tensor:
    """(B,): mean distance to the ``count`` nearest of ``train`` after ``way``, which is ``guided`` or ``ignored``."""
    return mean_nearest(way(features, basis), way(train, basis), count)


def compare_concept(check: Comparisons, stem: str, concept: Concept, projectors: dict[str, int]) -> None:
    """Singular values within the rank, and projectors; a basis by what it spans, since its signs are free."""
    rank, largest = len(concept.values), float(concept.values[0])
    key = f"{stem}singular_values"
    check("losses", key, concept.values, part=slice(0, rank), scale=largest, tolerance=1e-6)
    for name, count in projectors.items():
        own = concept.basis[:count]
        check("features", f"{stem}{name}", own.T @ own, tolerance=PROJECTORS)
    if f"{stem}basis" in check.reference:
        theirs = check.reference.tensor(f"{stem}basis")[:rank].float()
        agree = (theirs * concept.basis).sum(dim=1).abs()[:3]  # the first directions, which gaps set apart
        check.number("features", f"{stem}basis", agree.min(), 1.0, tolerance=1e-4)
        span = (theirs.T @ theirs - concept.basis.T @ concept.basis).abs().max()
        check.number("features", f"{stem}basis, its span", span, 0.0, tolerance=2e-5)
        check.used(f"{stem}basis")


def compare_metrics(check: Comparisons) -> None:
    """Their metrics of image scores without and with ties, and of a map."""
    reference, stored = check.reference, check.reference.settings["metrics"]
    labels = reference["metrics/labels"]
    for name, key, threshold in zip(("exact", "ties"), ("scores", "scores_ties"), stored["threshold"], strict=True):
        scores = reference[f"metrics/{key}"]
        best, level = f1_max(scores, labels)
        check.number("metrics", f"metrics/{name}/threshold", level, threshold)
        found = {"auroc": auroc(scores, labels), "auprc": average_precision(scores, labels), "f1": best}
        found |= {"accuracy": float(((scores >= level) == (labels == 1)).mean()), "fpr95": _fpr95(scores, labels)}
        for metric, value in found.items():
            check.number("metrics", f"metrics/{name}/{metric}", value, stored[name][metric])
    pixel = auroc(reference["metrics/pixel_scores"], reference["metrics/pixel_labels"])
    check.number("metrics", "metrics/pixel_auroc", pixel, stored["pixel_auroc"]["auroc"])
    check.number("metrics", "metrics/pixel_auroc of scikit-learn", pixel, stored["pixel_auroc_sklearn"])


def _fpr95(scores: Any, labels: Any) -> float:
    """False-positive rate at the recall that is closest to 0.95, of the lowest such threshold; up to the first full recall."""
    found = []
    for level in np.unique(scores)[::-1]:
        flagged = scores >= level
        found.append((flagged[labels == 1].mean(), flagged[labels == 0].mean()))
        if found[-1][0] == 1:
            break
    return float(min(reversed(found), key=lambda pair: abs(pair[0] - 0.95))[1])
