"""Methods on a tower with small random weights: exported with a certificate that passes, or refused with a reason."""

# ruff: noqa: F811  (fixtures of another file)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from exported import pictures, small_tower  # noqa: F401
from tiny_methods import tiny_method

import zsad
from zsad.errors import UsageError

SHAPE = "does not read pictures that were resized to a square"
REFUSED = {"adaclip": "k-means clusters", "anomaly_ov": SHAPE, "anovl": SHAPE, "inp_former": SHAPE, "metauas": SHAPE}
EXPORTED = ("adaptclip", "anomalyclip", "april_gan", "clip_ad", "patchcore", "subspacead")
FORMS: list[tuple[str, dict[str, Any], str]] = [
    *[(name, {}, "") for name in (*REFUSED, *EXPORTED)],
    ("winclip", {}, "references"),
    ("compact", {"tower": "small"}, "references"),
    ("compact", {"tower": "small"}, "batch"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "arguments", "how"), FORMS)
def test_a_method_is_exported_or_refused(
    method: str, arguments: dict[str, Any], how: str, pictures: Path, tmp_path: Path
) -> None:
    detector, out, settings = tiny_method(method, **arguments), tmp_path / "model", dict[str, Any]()
    if how == "references" or detector.needs_references:
        normal = pictures / "good"
        settings["references"] = str(normal / "0.png" if method == "metauas" else normal)
    settings |= {"batch": True} if how == "batch" else {}
    if method in REFUSED:
        with pytest.raises(UsageError, match=f"^{method} cannot be exported: .*{REFUSED[method]}"):
            zsad.export(detector, "nut", out=out, pictures=str(pictures), **settings)
        assert list(tmp_path.iterdir()) == []
        return
    made = zsad.export(detector, "nut", out=out, pictures=str(pictures), **settings)
    assert made.passed
    assert made.pictures["count"] == 10
    assert made.tolerance["difference"] == 1e-4
