"""Batch zero-shot over any number of pictures: a seeded pool of them is what every picture is compared with.

Comparing all with all does not divide among machines. A pool does: it is encoded once and goes to every worker, and the time
grows with the number of pictures. Which pictures are in it follows from the seed and their paths, not from their order.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from safetensors.torch import load, save

from zsad.detector import Detector
from zsad.distributed.places import Place
from zsad.errors import UsageError
from zsad.images.reading import ImageRef
from zsad.inference.inspector import Inspector
from zsad.types import Bank

__all__ = ["POOL", "POOL_FILE", "draw", "kept_pool", "make_pool", "pooled_form", "pooled_inspector"]

POOL = 250  # pictures; as many as the embedded default takes components of in a folder
POOL_FILE = "pool.safetensors"


def draw(paths: Iterable[str], size: int, seed: int) -> list[str]:
    """The pictures of the pool: the ``size`` lowest digests of seed and path, in that order; one pass, little memory."""

    def digest(path: str) -> bytes:
        return hashlib.blake2b(f"{seed} {path}".encode("utf-8", "backslashreplace"), digest_size=16).digest()

    return heapq.nsmallest(size, paths, key=digest)


def pooled_form(inspector: Inspector) -> Detector:
    """The detector that compares pictures with a pool. Raises ``UsageError`` where the method has none."""
    found = inspector.detector.against_pool(inspector.context)
    if found is None:
        raise UsageError(
            f"{inspector.detector.name} cannot compare pictures with a pool of others, and comparing all with all does not "
            "divide among machines. Choose a method that can, compact or subspacead, or leave --engine out."
        )
    return found


def make_pool(inspector: Inspector, refs: Iterable[ImageRef], seed: int) -> tuple[bytes, dict[str, Any]]:
    """Encodes the pool; returns it as a safetensors file, and its description for the manifest.

    Args:
        inspector: scores pictures by themselves, with references or without.
        refs: the pictures of the pool; those that cannot be read are left out.
        seed: that they were drawn with.

    Raises:
        UsageError: the method has no such mode, or too few pictures could be read.
    """
    detector = pooled_form(inspector)
    scorer = inspector.with_detector(detector).scorer()
    features = [found for _, _, found in scorer.encoded(refs) if found is not None]
    banks = detector.pool_banks(features, inspector.context)
    rows = {f"{key}/rows": bank.rows.cpu().contiguous() for key, bank in banks.items()}
    content = save(rows | {f"{key}/source": bank.source.cpu() for key, bank in banks.items()})
    return content, {"seed": seed, "pieces": len(features), "sha256": hashlib.sha256(content).hexdigest()}


def kept_pool(place: Place, manifest: Mapping[str, Any] | None, seed: int) -> tuple[bytes, dict[str, Any]] | None:
    """The pool of a table that is gone on with: pictures that came since do not change it. None where there is none."""
    known = (manifest or {}).get("pool")
    if not known or known.get("seed") != seed or not place.exists(POOL_FILE):
        return None
    content = place.read(POOL_FILE)
    if hashlib.sha256(content).hexdigest() != known["sha256"]:
        raise UsageError(f"{POOL_FILE} of {place} is damaged. Give another --out, or --overwrite.")
    return content, dict(known)


def pooled_inspector(inspector: Inspector, attachments: Mapping[str, bytes]) -> Inspector:
    """The inspector with every picture compared with the pool of the attachments."""
    tensors = load(attachments[POOL_FILE])
    keys = {key.rpartition("/")[0] for key in tensors}
    banks = {key: Bank(tensors[f"{key}/rows"], tensors[f"{key}/source"]).to(inspector.device) for key in sorted(keys)}
    context = replace(inspector.context, banks={**inspector.context.banks, **banks})
    return inspector.with_detector(pooled_form(inspector), context)
