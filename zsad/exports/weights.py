"""Where the weights inside an exported model are from: licence and training data."""

from __future__ import annotations

from typing import Any

from zsad.backbones import compact, compact_vit
from zsad.common.assets import asset
from zsad.detector import Detector
from zsad.inference.listing import LICENCES, OWN
from zsad.weights.checkpoints import load_index, read_header

__all__ = ["licences"]

UNKNOWN = "not known"
SHIPPED = {"compact": compact.WEIGHTS, "compact-vit": compact_vit.WEIGHTS}


def licences(detector: Detector) -> dict[str, dict[str, str]]:
    """By part of the model ("backbone", further encoders, "learned"): its "name", "sha256", "licence" and "trained_on"."""
    found = {}
    for part, encoder in detector.frozen_encoders().items():
        header = read_header(asset(SHIPPED[encoder.name])) if encoder.name in SHIPPED else {}
        name, tag = encoder.name, encoder.name.rpartition(".")[2]
        licence = header.get("licence") or OWN.get(name, {}).get("licence") or LICENCES.get(tag)
        found[part] = _row(name, encoder.weights_sha256, licence, header.get("learned_from"))
    if detector.learned_state():
        sha, header = detector.weights_sha256, detector.header
        listed = next((one for one in load_index().values() if sha and one.sha256 == sha), None)
        licence, data = (header.get(key) or getattr(listed, key, None) for key in ("licence", "trained_on"))
        found["learned"] = _row(detector.name, sha, licence, data)
    return found


def _row(name: str, sha256: str, licence: Any, trained_on: Any) -> dict[str, str]:
    return {"name": name, "sha256": sha256, "licence": str(licence or UNKNOWN), "trained_on": str(trained_on or UNKNOWN)}
