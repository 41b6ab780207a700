"""Groups of region features, and the kind of a new region: a known one, or new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.errors import UsageError

__all__ = ["NEW", "Kinds", "group", "kinds_of", "unit"]

NEW = "new"  # the kind of a region that is like none
SLACK = 1.25  # a region is of a kind up to this multiple of the distance of the kind's farthest member
LEAST_LIMIT = 0.02  # of 1 - cosine, for a kind of equal members
FEWEST = 2  # members of a kind

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Kinds:
    """Kinds of regions.

    Attributes:
        names: one per kind.
        centres: (K, D) of length one.
        limits: (K,) largest 1 - cosine to the centre at which a region still is of the kind.
        encoder: what made the features; other features cannot be compared.
    """

    names: tuple[str, ...]
    centres: Floats
    limits: Floats
    encoder: Mapping[str, Any]

    def similarity(self, features: Floats) -> Floats:
        """(N, K) cosines of features (N, D) with the centres."""
        return unit(features) @ self.centres.T

    def of(self, features: Floats) -> list[str]:
        """The kind of each region: that of the nearest centre, or ``NEW`` where it is farther than any member was."""
        found = self.similarity(features)
        nearest = found.argmax(axis=1)
        near = 1 - found[np.arange(len(found)), nearest] <= self.limits[nearest]
        return [self.names[kind] if inside else NEW for kind, inside in zip(nearest, near, strict=True)]

    def renamed(self, names: Mapping[str, str]) -> Kinds:
        """The same kinds with other names; kinds that get the same name are one, since a kind may have several centres.

        Raises:
            UsageError: a kind that there is not, or an empty name.
        """
        if unknown := [name for name in names if name not in self.names]:
            raise UsageError(f"There is no kind {unknown[0]!r}; there are {', '.join(map(repr, dict.fromkeys(self.names)))}.")
        if not all(name.strip() and name.strip() != NEW for name in names.values()):
            raise UsageError(f"A kind needs a name, and not {NEW!r}, which stands for none. Write 'kind 1=scratch'.")
        return replace(self, names=tuple(names.get(name, name).strip() for name in self.names))


def unit(rows: Floats) -> Floats:
    """Rows of length one; a zero row stays."""
    found: Floats = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    return found


def group(features: Floats, number: int | None = None) -> NDArray[np.int64]:
    """Groups of regions: (N,) numbers from 0 on, -1 for one that is like no other.

    Args:
        features: (N, D).
        number: of groups, by Ward's method; None: found by HDBSCAN (Campello et al. 2013), which may leave regions alone. Where
            it finds no group at all, all are one.

    Raises:
        UsageError: fewer than two regions, or fewer than groups.
    """
    if len(features) < FEWEST:
        raise UsageError(
            f"Kinds are found by comparing regions, and there is {len(features)} region. Give a run with more flagged pictures."
        )
    if number is not None and not 1 <= number <= len(features):
        raise UsageError(f"{number} kinds of {len(features)} regions cannot be. Give a number from 1 to {len(features)}.")
    rows = unit(features)
    if number is None:
        from sklearn.cluster import HDBSCAN

        found = HDBSCAN(min_cluster_size=FEWEST, min_samples=1, copy=True).fit_predict(rows)
        found = np.zeros(len(rows)) if (found < 0).all() else found
    else:
        from sklearn.cluster import AgglomerativeClustering

        found = AgglomerativeClustering(number).fit_predict(rows)
    labels: NDArray[np.int64] = np.asarray(found, dtype=np.int64)
    return labels


def kinds_of(features: Floats, groups: NDArray[np.int64], encoder: Mapping[str, Any], names: Sequence[str] = ()) -> Kinds:
    """Centres and limits of groups, the largest first.

    Args:
        features: (N, D).
        groups: (N,), -1 for none.
        encoder: what made the features.
        names: by group; missing and empty ones become "kind 1", "kind 2" ...
    """
    rows, order = unit(features), [int(one) for one in np.unique(groups[groups >= 0])]
    order.sort(key=lambda one: -int((groups == one).sum()))
    centres = unit(np.stack([rows[groups == one].mean(axis=0) for one in order])) if order else np.zeros((0, rows.shape[1]))
    farthest = [1 - float((rows[groups == one] @ centre).min()) for one, centre in zip(order, centres, strict=True)]
    limits = np.maximum(np.array(farthest) * SLACK, LEAST_LIMIT)
    given = dict(enumerate(names))
    called = tuple(given.get(one) or f"kind {place}" for place, one in enumerate(order, 1))
    return Kinds(called, centres, limits, encoder)
