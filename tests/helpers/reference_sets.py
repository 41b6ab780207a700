"""Folders of reference outputs: the part in the repository, and the full set where it lies beside the checkout."""

from __future__ import annotations

from pathlib import Path

__all__ = ["COMMITTED", "FULL", "REFERENCE_SETS"]

ROOT = Path(__file__).resolve().parents[2]
COMMITTED, FULL = ROOT / "tests/parity", ROOT.parent / "shared/parity/dev"
REFERENCE_SETS = {"committed": COMMITTED} | ({"full": FULL} if FULL.is_dir() else {})
