"""The metrics beside the code of the methods' repositories, on 20 maps of 128 x 128, with and without equal scores."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.metrics import aupimo, aupro, aupro_legacy, auroc, average_precision, f1_max
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference

__all__ = ["PROOF"]

Array = NDArray[Any]
AUPIMO = {"1e-5_1e-4": (1e-5, 1e-4), "1e-4_1e-2": (1e-4, 1e-2)}  # bounds of the integral
EXACT, FLOAT32 = 1e-12, 1e-7  # of numbers stored in float64, in float32


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """AUROC, AP and F1-max of pictures and pixels, the copied AUPRO, AUPIMO; exact AUPRO beside Crane's."""
    masks, labels = reference["masks"], reference["labels"]
    _compare(check, "ties", (reference["maps_ties_uint8"] / 64).astype(np.float32), masks, labels)
    if "maps" in reference:  # they do not come with the package
        maps = reference["maps"]
        check("scores", "image_scores", maps.max((1, 2)), tolerance=0.0)
        _compare(check, "exact", maps, masks, labels)
        # thresholds at normal pixels alone lie at most half a step above those at every score
        step = 1 / (2 * 0.3 * int((masks == 0).sum()))
        stored = reference.settings["values"]["exact"]["crane_openiad/aupro_allpixels"]
        check.number("metrics", "exact/crane_openiad/aupro_allpixels", aupro(maps, masks), stored, tolerance=step)


def _compare(check: Comparisons, kind: str, maps: Array, masks: Array, labels: Array) -> None:
    scores, stored = maps.max((1, 2)), check.reference.settings["values"][kind]
    found = {
        "musc/image_auroc": auroc(scores, labels),
        "musc/image_ap": average_precision(scores, labels),
        "musc/image_f1max": f1_max(scores, labels)[0],
        "musc/pixel_auroc": auroc(maps, masks),
        "musc/pixel_ap": average_precision(maps, masks),
        "musc/pixel_f1max": f1_max(maps, masks)[0],
        "anomalyclip/pixel_aupro": aupro_legacy(maps, masks),
        "anomalyclip/pixel_aupro_max_step_1000": aupro_legacy(maps, masks, thresholds=1000),
        "anomalyclip/pixel_aupro_float64_maps": aupro_legacy(maps.astype(np.float64), masks),
    }
    for name, value in found.items():
        check.number("metrics", f"{kind}/{name}", value, stored[name], tolerance=EXACT)
    for bounds, limits in AUPIMO.items():
        for thresholds in (30_000, 300_000):
            key = f"{kind}/aupimo/{bounds}/thresholds_{thresholds}"
            if key not in check.reference:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the bound is not met exactly by so few normal pixels; nor in their code
                values = aupimo(maps, masks, limits, thresholds)
            check("metrics", key, np.nan_to_num(values, nan=-1), tolerance=FLOAT32)  # -1: theirs for normal pictures


PROOF = Proof(
    "metrics",
    "metrics",
    run,
    inputs=("masks", "maps", "maps_ties_uint8", "labels"),
    full_only=("maps", "exact/*", "image_scores"),
)
