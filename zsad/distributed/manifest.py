"""What a table was made with, as ``manifest.json`` beside it: another start has to say the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from zsad.common.output_folder import differences
from zsad.common.version import versions
from zsad.distributed.places import Place, shown
from zsad.distributed.specification import Specification
from zsad.errors import UsageError
from zsad.runs.summary import levels_of

__all__ = ["MANIFEST", "begin", "manifest_of", "read_manifest"]

MANIFEST, FORMAT = "manifest.json", "zsad table 1"
COMPARED = ("zsad", "source", "detector", "thresholds", "calibration", "pool", "maps")


def manifest_of(spec: Specification) -> dict[str, Any]:
    """The description of a run: detector, levels, calibration and pool in full; addresses without keys."""
    maps = None if spec.maps is None or spec.maps_out is None else f"{spec.maps} in {shown(spec.maps_out)}"
    return {
        "format": FORMAT,
        "zsad": spec.zsad,
        "source": shown(spec.source),
        "fingerprint": spec.fingerprint,
        "detector": dict(spec.detector),
        "weights": dict(spec.files),
        "thresholds": levels_of(spec.thresholds),
        "calibration": spec.calibration,
        "pool": spec.pool,
        "maps": maps,
        "versions": versions(("torch", "numpy", "pillow", "pyarrow", "ray")),
    }


def read_manifest(place: Place) -> dict[str, Any] | None:
    """The manifest of a table; None where there is none.

    Raises:
        UsageError: it is damaged, or of another version.
    """
    if not place.exists(MANIFEST):
        return None
    try:
        found: dict[str, Any] = json.loads(place.read(MANIFEST))
        known = found["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{MANIFEST} of {place} is damaged ({error}). Give another --out, or --overwrite.") from error
    if not known:
        raise UsageError(f"{place} was written in another format: {found['format']!r}. Give another --out, or --overwrite.")
    return found


def begin(place: Place, now: Mapping[str, Any]) -> bool:
    """Writes the manifest of a new table, or compares it with the one that is there; returns whether it was there.

    Raises:
        UsageError: the table was made with another one; names what differs.
    """
    then = read_manifest(place)
    if then is None:
        if place.names("table"):
            raise UsageError(f"{place} holds a folder 'table' without a manifest, and nothing was changed. Give another --out.")
        place.write(MANIFEST, json.dumps(dict(now), indent=1).encode())
        return False
    same = {key: then.get(key) for key in COMPARED}, {key: now.get(key) for key in COMPARED}
    if differ := differences(*same):
        raise UsageError(
            f"{place} holds a table with other settings: {'; '.join(differ)}. Give the same settings to go on with it, "
            "--overwrite to start anew, or another --out."
        )
    return True
