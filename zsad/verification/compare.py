"""Outputs of a method beside the stored ones: the difference of each, and the worst per kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.verification.reference import Part, Reference

__all__ = ["TOLERANCES", "Comparison", "Comparisons", "worst_per_kind"]

# kind -> (tolerance, relative); float32 on another machine differs by about 1e-6 on features
TOLERANCES = {
    "sentences": (0.0, False),  # 0 where they are equal, else infinity; tokens too
    "inputs": (2e-6, False),
    "text": (1e-5, False),
    "features": (1e-5, False),
    "maps": (2e-5, False),
    "scores": (2e-5, False),
    "losses": (1e-5, True),
    "gradients": (1e-4, True),  # the norm of each learned tensor's gradient
    "metrics": (1e-6, False),
}


@dataclass(frozen=True)
class Comparison:
    """One output.

    Attributes:
        kind: a key of ``TOLERANCES``.
        output: the stored array or number.
        difference: the largest one; infinity where shapes differ or a value is no finite number.
        tolerance: what it may be.
        relative: whether the difference is divided by the stored value.
    """

    kind: str
    output: str
    difference: float
    tolerance: float
    relative: bool

    @property
    def passed(self) -> bool:
        """True where the difference is within the tolerance."""
        return self.difference <= self.tolerance

    @property
    def share(self) -> float:
        """The difference as a share of the tolerance."""
        return self.difference / self.tolerance if self.tolerance else self.difference


def worst_per_kind(comparisons: Iterable[Comparison]) -> dict[str, Comparison]:
    """By kind, in the order of ``TOLERANCES``, the comparison that uses most of its tolerance."""
    found: dict[str, Comparison] = {}
    for one in comparisons:
        if one.kind not in found or one.share > found[one.kind].share:
            found[one.kind] = one
    return {kind: found[kind] for kind in TOLERANCES if kind in found}


class Comparisons:
    """Collects the comparisons of one method; each call is one output.

    Args:
        reference: the stored outputs.

    Attributes:
        made: the comparisons in their order.
        compared: keys of the stored arrays that were compared.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.made: list[Comparison] = []
        self.compared: set[str] = set()

    def __call__(
        self,
        kind: str,
        key: str,
        found: Any,
        *,
        part: Part = ...,
        plus: str | None = None,
        scale: float | None = None,
        tolerance: float | None = None,
    ) -> None:
        """Compares an output with the stored array.

        Args:
            kind: a key of ``TOLERANCES``.
            key: of the stored array.
            found: the output, of the shape of ``array[part]``; axes of length one may lack.
            part: which part of the stored array the output is.
            plus: a second stored array of the same shape, added to the first.
            scale: what every difference is divided by, in place of the stored value, where the kind is relative.
            tolerance: instead of the kind's.
        """
        own = torch.as_tensor(found).detach().double().numpy().reshape(-1)
        places, stored = self.reference.stored(key, part)
        self.compared.add(key)
        if plus is not None:
            stored = stored + self.reference.stored(plus, part)[1]
            self.compared.add(plus)
        whole = int(np.prod(np.empty(self.reference.shape(key), dtype=np.bool_)[part].shape, dtype=np.int64))
        self._add(kind, key, own[places] if own.size == whole else None, stored, tolerance, scale)

    def number(self, kind: str, name: str, found: Any, stored: float, *, tolerance: float | None = None) -> None:
        """Compares a number that is computed from several stored values, or stands in the settings."""
        value = float(found.detach()) if isinstance(found, Tensor) else float(found)
        self._add(kind, name, np.array([value]), np.array([float(stored)]), tolerance)

    def equal(self, kind: str, name: str, found: Any, stored: Any) -> None:
        """Compares what has to be equal: sentences, tokens."""
        self.made.append(Comparison(kind, name, 0.0 if found == stored else float("inf"), *TOLERANCES[kind]))

    def used(self, *keys: str) -> None:
        """Marks arrays whose values entered a comparison made by ``number``."""
        self.compared.update(keys)

    def _add(
        self,
        kind: str,
        name: str,
        found: NDArray[np.float64] | None,
        stored: NDArray[np.float64],
        given: float | None,
        scale: float | None = None,
    ) -> None:
        usual, relative = TOLERANCES[kind]
        if found is None or not np.isfinite(found).all():
            difference = float("inf")
        else:
            unit = np.maximum(np.abs(stored), 1e-12) if relative and scale is None else (scale or 1.0)
            difference = float((np.abs(found - stored) / unit).max(initial=0.0))
        self.made.append(Comparison(kind, name, difference, usual if given is None else given, relative))
