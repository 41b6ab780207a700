"""MuSc beside its authors' code (xrli-U/MuSc, b76b93d)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from zsad.references.mutual_scoring import lnamd
from zsad.registry import create
from zsad.types import ImageFeatures
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference
from zsad.verification.towers import TAPS, tiny_backbone

__all__ = ["PROOF", "build"]

RADII = (1, 3, 5)
RSCIN = {"raw": (), "rscin_1_2_3": (1, 2, 3), "rscin_1_8_9": (1, 8, 9)}  # none, as on MVTec AD, as on VisA
KEPT = 4  # pictures whose maps are stored


def build(reference: Reference, folder: Path) -> Any:
    """The method on the tiny weights."""
    tower = tiny_backbone(reference, folder, activation="gelu", position_embedding="bicubic", image_size=112)
    return create("musc", backbone=tower)


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Raw features, neighbourhoods, distances per layer and radius, maps, and scores with and without RsCIN."""
    detector, images = build(reference, folder), reference.pixels()
    check("inputs", "input_first", images[:1])
    with torch.inference_mode():
        features = detector.encode(images)
        _features(check, features)
        apart = [features[i : i + 1] for i in range(len(features))]
        _distances(check, detector, apart, features)
        for key, rscin in RSCIN.items():
            found = list(create("musc", backbone=detector.backbone, rscin_k=rscin).score_set(apart, detector.prepare()))
            check("scores", f"image_score_{key}", torch.cat([one.pred_score for one in found]))
            check("maps", "anomaly_map", torch.cat([one.anomaly_map for one in found[:KEPT]]))


def _features(check: Comparisons, features: ImageFeatures) -> None:
    check("features", "class_tokens", F.normalize(features.image, dim=-1))
    for layer, tap in features.taps.items():
        assert tap.cls is not None
        check("features", f"patch_tokens_{layer}", torch.cat([tap.cls[:, None], tap.patches], 1)[:2])
        for side in RADII:
            if f"lnamd_r{side}_{layer}" in check.reference:
                check("features", f"lnamd_r{side}_{layer}", lnamd(tap.patches[:2], tap.grid, (side,))[0])


def _distances(check: Comparisons, detector: Any, apart: Sequence[ImageFeatures], features: ImageFeatures) -> None:
    """Per layer and neighbourhood, their means, and the map on the patch grid."""
    layers = []
    for layer in TAPS:
        near = detector.layer_distances(apart, range(len(apart)), layer)[0].flatten(2)  # (N, R, L)
        layers.append(near)
        for number, side in enumerate(RADII):
            check("maps", f"msm_r{side}_{layer}", near[:, number])
    for number, side in enumerate(RADII):
        check("maps", f"map_r{side}", torch.stack(layers).mean(0)[:, number])
    check("maps", "map_grid", detector.distance_grids(apart, features.image)[0])


PROOF = Proof(
    "musc",
    "musc",
    run,
    inputs=("input_uint8",),
    left_out={
        "images_uint8": "the pictures before they are resized",
        "masks_uint8": "where the drawn defects are; no part of the method",
        "labels": "which pictures have a defect; no part of the method",
        "positional_embedding_resized": "on the way to the features, which are compared",
    },
)
