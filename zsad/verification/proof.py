"""``Proof``: what one method's comparison is; ``verify`` runs it. The proofs are in ``verification/proofs``, a file each."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from zsad.errors import UnknownName
from zsad.verification.compare import Comparison, Comparisons, worst_per_kind
from zsad.verification.reference import Reference, reference_folder

__all__ = ["Proof", "Verification", "list_proofs", "matches", "verify"]


@dataclass(frozen=True)
class Proof:
    """How a method is compared with its authors' code.

    Attributes:
        method: name in the registry, or what else is compared.
        fixture: name of the files with the stored outputs.
        run: builds the method on the tiny weights and compares; the path is an empty folder for weights.
        inputs: patterns of stored arrays that are inputs: they are kept whole and not compared.
        left_out: patterns of stored arrays that are not compared, each with the reason.
        full_only: patterns of arrays that are compared in the full set and too large for the part that comes with the package.
    """

    method: str
    fixture: str
    run: Callable[[Reference, Comparisons, Path], None]
    inputs: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    full_only: tuple[str, ...] = ()


def matches(key: str, patterns: Iterable[str]) -> bool:
    """True where the name of an array is of one of the patterns."""
    return any(fnmatchcase(key, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Verification:
    """Result of a proof.

    Attributes:
        method: what was compared.
        comparisons: one per output.
        missing: stored arrays that should have been compared and were not.
        seconds: how long it took.
    """

    method: str
    comparisons: tuple[Comparison, ...]
    missing: tuple[str, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """True where every stored output was compared and is within its tolerance."""
        return bool(self.comparisons) and not self.missing and all(one.passed for one in self.comparisons)

    def as_dict(self) -> dict[str, Any]:
        """As ``zsad verify --json`` prints it."""
        kinds = {
            kind: {
                "worst_difference": worst.difference,
                "tolerance": worst.tolerance,
                "relative": worst.relative,
                "output": worst.output,
                "outputs": sum(one.kind == kind for one in self.comparisons),
            }
            for kind, worst in worst_per_kind(self.comparisons).items()
        }
        failed = [one.output for one in self.comparisons if not one.passed]
        about = {"method": self.method, "passed": self.passed, "seconds": round(self.seconds, 2), "kinds": kinds}
        return about | {"beyond_tolerance": failed, "not_compared": list(self.missing)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's warnings that a backbone is not the published one: the fixtures have such settings on purpose."""
    log = logging.getLogger("zsad")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def list_proofs() -> dict[str, Proof]:
    """All proofs by method."""
    from zsad.verification import proofs

    found = [import_module(f"{proofs.__name__}.{module.name}").PROOF for module in iter_modules(proofs.__path__)]
    return {proof.method: proof for proof in found}


def verify(method: str, folder: Path | None = None) -> Verification:
    """Compares a method with the stored outputs of its authors' code, on the CPU.

    Args:
        method: a key of ``list_proofs``.
        folder: of the stored outputs; None: those that come with the package.

    Raises:
        UnknownName: no proof of that name.
        UsageError: the stored outputs are missing or damaged.
    """
    proofs = list_proofs()
    if method not in proofs:
        raise UnknownName(f"There are no reference outputs of {method!r}. There are those of {', '.join(proofs)}.")
    proof, begun = proofs[method], time.perf_counter()
    reference = Reference(folder or reference_folder(), proof.fixture)
    check = Comparisons(reference)
    with tempfile.TemporaryDirectory(prefix="zsad-") as scratch, _quiet():
        proof.run(reference, check, Path(scratch))
    exempt = (*proof.inputs, *proof.left_out)
    missing = [key for key in reference if key not in check.compared and not matches(key, exempt)]
    return Verification(method, tuple(check.made), tuple(missing), time.perf_counter() - begun)
