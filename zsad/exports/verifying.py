"""``verify_export``: the certificate of an exported folder, made anew on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zsad.errors import UsageError
from zsad.exports.certificate import Certificate, Tolerance, certify, tolerance_of
from zsad.exports.detector import CONTEXT, LEARNED, in_batch_mode, open_export
from zsad.exports.metadata import Metadata
from zsad.exports.pictures import pictures_of
from zsad.inference.inspector import Inspector
from zsad.registry import create, load_backbone
from zsad.types import Context

__all__ = ["original_of", "verify_export"]


def verify_export(folder: str | Path, pictures: Any = None, tolerance: Tolerance | None = None) -> Certificate:
    """Compares an exported model with the method in torch again, here, and writes ``certificate.json`` anew.

    Args:
        folder: as ``export`` wrote it.
        pictures: as of ``export``.
        tolerance: as of ``export``; None: the default of its precision.

    Raises:
        UsageError: the folder is no export, or damaged; or the encoder that is here has other weights.
        WeightsError: the encoder's weights cannot be had.
        MissingExtra: the runtime is not installed.
    """
    place = Path(folder)
    exported = Inspector(open_export(place), device="cpu")
    meta = Metadata.load(place)
    given = tolerance_of(meta.model["precision"]) if tolerance is None else tolerance
    made = certify(original_of(place, meta), exported, pictures_of(pictures), given)
    made.save(place)
    return made


def original_of(folder: Path, meta: Metadata) -> Inspector:
    """The method in torch that a folder was exported from, with its target and references.

    Raises:
        UsageError: an encoder that is here has other weights than the exported one.
        WeightsError: they cannot be had.
    """
    facts = meta.detector
    own = {"name": facts["backbone"], "weights_sha256": facts["backbone_sha256"]}
    own |= {key: facts[key] for key in ("activation", "position_embedding", "image_size")}
    encoders = {key: _encoder(one) for key, one in facts.get("encoders", {}).items()}
    learned = folder / LEARNED
    detector = create(
        facts["method"],
        backbone=_encoder(own),
        checkpoint=learned if learned.is_file() else None,
        **encoders,
        **facts["arguments"],
    )
    inspector = Inspector(detector, meta.target, device="cpu", batch="off", value_range=facts["value_range"])
    context = Context.load(folder / CONTEXT)
    inspector.context = context
    inspector.detector = in_batch_mode(detector, context) if meta.batch else detector
    return inspector


def _encoder(facts: dict[str, Any]) -> Any:
    """The encoder, loaded as it was. Raises ``UsageError`` where its weights are others."""
    how = {key: facts[key] for key in ("activation", "position_embedding", "image_size")}
    found = load_backbone(facts["name"], **how)
    if found.weights_sha256 != facts["weights_sha256"]:
        raise UsageError(
            f"The encoder {facts['name']!r} has other weights here (sha256 {found.weights_sha256[:12]}) than the exported one "
            f"({facts['weights_sha256'][:12]}), so there is nothing to compare with. Export again."
        )
    return found
