"""NAGL beside its authors' code (JasonKyng/NAGL, 5466edf)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zsad.alignment.maps import smooth, upsample
from zsad.alignment.residual_proxies import Shown, sine_code
from zsad.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from zsad.methods.nagl import PLACE
from zsad.references.residuals import beyond_normal, marked_patches
from zsad.registry import create
from zsad.types import Bank, Context, ImageFeatures, References, Tap
from zsad.verification.compare import Comparisons
from zsad.verification.dino_towers import dino_backbone, tabled_tensors
from zsad.verification.nagl_training import training
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference
from zsad.verification.tiny_pictures import described_pictures, resized_pictures

__all__ = ["PROOF", "build", "masks_of", "outputs", "pictures", "tower", "write_proxies"]

TOKENS, CODES, SCORES = 2e-5, 1e-6, 2e-6  # tolerances of tokens and proxies, of position codes, of all in [0, 1]
SIGMA = 4.0


def tower(reference: Reference, folder: Path, size: int | None = None) -> Any:
    """The tiny DINOv2 as the authors' code runs it."""
    size = size or reference.settings["settings"]["image_size"]
    return dino_backbone(reference, folder, position_embedding="bicubic_offset", image_size=size)


def write_proxies(reference: Reference, path: Path) -> Path:
    """A checkpoint in the authors' layout."""
    state = {f"module.{key}": nn.Parameter(tensor) for key, tensor in tabled_tensors(reference, "nagl/").items()}
    torch.save(state, path)
    return path


def build(reference: Reference, backbone: Any, folder: Path, **arguments: Any) -> Any:
    """The method on the tiny weights, from a checkpoint in the authors' layout."""
    return create("nagl", backbone=backbone, checkpoint=write_proxies(reference, folder / "n.pth"), **arguments)


def normalised(pixels: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) as the tower takes them."""
    mean, std = (torch.tensor(row)[:, None, None] for row in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def pictures(reference: Reference, size: int | None = None) -> Tensor:
    """All pictures of the fixture, (N, 3, H, W)."""
    size = size or reference.settings["settings"]["image_size"]
    return normalised(resized_pictures(described_pictures(reference.settings)[0], size))


def masks_of(reference: Reference, size: int | None = None) -> Tensor:
    """All masks of the fixture, (N, H, W), resized as the authors' loader does."""
    masks = torch.from_numpy(described_pictures(reference.settings)[1]).float()
    return upsample(masks, size or reference.settings["settings"]["image_size"], mode="nearest")


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Tokens, masks, each combination of references, another size, two steps of training."""
    detector = build(reference, tower(reference, folder), folder)
    images, masks = pictures(reference), masks_of(reference)
    with torch.inference_mode():
        check("inputs", "input_uint8", detector.backbone.preprocess.pixels(images)[: reference.shape("input_uint8")[0]])
        check("sentences", "mask_112", masks[: reference.shape("mask_112")[0]])
        features = encoder(check, detector, images)
        for prefix in [key for key in reference.settings["references"] if not key.startswith("px")]:
            outputs(check, detector, images, features, masks, prefix)
        constructed(check, detector, images, features)
        other_size(check, folder)
    training(check, detector, images, masks)


def encoder(check: Comparisons, detector: Any, images: Tensor) -> ImageFeatures:
    """The first picture's tokens with its class token, and all pictures' normed patches."""
    states = list(detector.backbone.states(images[:1]))
    check("features", "embed_image0", states[0], tolerance=TOKENS)
    for key in (key for key in check.reference if key.startswith("block_")):
        check("features", key, states[int(key.split("_")[1])], tolerance=TOKENS)
    features: ImageFeatures = detector.encode(images)
    check("features", "tokens", features.taps[detector.layer].patches, tolerance=TOKENS)
    return features


def tested(check: Comparisons) -> int:
    """How many of the pictures, from the first on, are tested."""
    return check.reference.shape("n1a1/patch_score")[0]


def numbered(key: str) -> slice:
    """The pictures that an array's name says: "..._image2", "..._image01"; all where it says none."""
    hit = re.search(r"_image(\d+)", key)
    return slice(int(hit[1][0]), int(hit[1][-1]) + 1) if hit else slice(None)


def outputs(check: Comparisons, detector: Any, images: Tensor, features: ImageFeatures, masks: Tensor, prefix: str) -> None:
    """Everything that was stored of one combination of references, by the names of the arrays."""
    about = check.reference.settings["references"][prefix]
    good, bad = about["normal"], about["anomalous"]
    if not good:
        return alone(check, detector, features, bad, masks[bad], prefix)
    banks = detector.banks(References(images[good], images[bad] if bad else None, masks[bad] if bad else None))
    whole = features.taps[detector.layer]
    tap = Tap(whole.patches[: tested(check)], whole.grid)
    found = values(detector, tap, banks)
    if bad:
        found |= references(detector, Tap(whole.patches[bad], whole.grid), banks)
    for key in [key for key in check.reference if key.startswith(prefix) and "input" not in key]:
        name = key.removeprefix(prefix)
        kind, own, tolerance = found[re.sub(r"(_image\d+)?(_sub)?$", "", name)]
        own = own[numbered(name)] if name not in ("rm_attention", "support_res_feat") else own
        if name.endswith("_sub"):
            every = round(own.shape[-1] / check.reference.shape(key)[-1])
            own = own[:, ::every, ::every]
        check(kind, key, own, tolerance=tolerance)


def values(detector: Any, tap: Tap, banks: Mapping[str, Bank]) -> dict[str, tuple[str, Tensor, float]]:
    """Of the tested pictures, by the arrays' names: kind, array, tolerance."""
    grid, rows = tap.grid, banks[str(detector.layer)].rows[None]
    scores = detector.patch_scores(tap, banks)
    raw = upsample(scores, (150, 110))  # of the pictures before they were resized
    prediction = detector.score(ImageFeatures(tap.patches[:, 0], {detector.layer: tap}), Context(banks=banks))
    shown = detector.shown(banks, grid)
    normal, anomalous = detector.likeness(tap, rows, shown)
    residuals = beyond_normal(tap.patches, rows)[1]
    found = {
        "s_n": ("scores", normal, SCORES),
        "s_a": ("scores", anomalous, SCORES),
        "patch_score": ("scores", scores, SCORES),
        "image_score": ("scores", prediction.pred_score, SCORES),
        "map_before_gaussian": ("maps", raw, SCORES),
        "map": ("maps", smooth(raw, SIGMA), SCORES),
        "query_res_feat": ("features", residuals, TOKENS),
    }
    if shown is None:
        return found
    mined = detector.guide.mine(shown)
    code = sine_code(torch.zeros(1, *grid, dtype=torch.bool), tap.patches.shape[2])
    weights = detector.guide.afl_ca.weighed(mined.expand(len(tap.patches), -1, -1), residuals + code, tap.patches)[1]
    return found | {
        "residual_proxies": ("features", mined, TOKENS),
        "anomaly_proxies": ("features", detector.guide.find(mined, tap.patches, residuals, grid), TOKENS),
        "afl_position": ("features", code, CODES),
        "afl_attention": ("features", weights, CODES),
    }


def references(detector: Any, tap: Tap, banks: Mapping[str, Bank]) -> dict[str, tuple[str, Tensor, float]]:
    """Of the anomalous references, by the arrays' names: kind, array, tolerance."""
    marked, normal = marks(detector, tap, banks), banks[str(detector.layer)].rows[None]
    return {
        "support_mask_patch": ("sentences", marked, 0.0),
        "support_res_feat": ("features", beyond_normal(tap.patches, normal)[1], TOKENS),
        "rm_position": ("features", detector.guide.codes(marked, tap.grid, detector.aliased_positions), CODES),
        "rm_attention": ("features", attention(detector, tap, banks), CODES),
    }


def attention(detector: Any, tap: Tap, banks: Mapping[str, Bank]) -> Tensor:
    """Weights of all patches of the references, (M, R * L); those that the banks leave out have none."""
    shown, marked = detector.shown(banks, tap.grid), marks(detector, tap, banks)
    weights = weighed(detector, shown)
    whole = weights.new_zeros(len(weights), marked.numel())
    whole[:, marked.flatten()] = weights
    return whole


def weighed(detector: Any, shown: Shown) -> Tensor:
    """Attention of the learned proxies to what is shown, (M, L)."""
    start = detector.guide.learnable_proxies.weight[None]
    found: Tensor = detector.guide.rm_ca.weighed(start, shown.tokens + shown.codes, shown.residuals, shown.hidden)[1][0]
    return found


def marks(detector: Any, tap: Tap, banks: Mapping[str, Bank]) -> Tensor:
    """The references' patches (R, L) that the banks have."""
    places = banks[f"{PLACE}.{detector.layer} anomalous"]
    marked = torch.zeros(tap.patches.shape[:2], dtype=torch.bool)
    marked[places.source - places.source.min(), places.rows[:, 0].long()] = True
    return marked


def alone(check: Comparisons, detector: Any, features: ImageFeatures, bad: list[int], masks: Tensor, prefix: str) -> None:
    """Anomalous references alone, for which this package asks a normal one: their other patches are normal, s_n is 1 - s_a."""
    whole = features.taps[detector.layer]
    marked, patches = detector.marked_rows(masks, whole.grid), whole.patches[bad]
    normal, tap = patches[~marked][None], Tap(whole.patches[: tested(check)], whole.grid)
    score = detector.likeness(tap, normal, shown_by(detector, patches, marked, normal, whole.grid))[1]
    check("scores", f"{prefix}patch_score", score.unflatten(1, whole.grid), tolerance=SCORES)


def shown_by(detector: Any, patches: Tensor, marked: Tensor, normal: Tensor, grid: tuple[int, int]) -> Shown:
    """All patches (R, L, C) of references, those that are not marked (R, L) hidden."""
    tokens = patches.flatten(0, 1)[None]
    found: Shown = detector.guide.shown(
        tokens, beyond_normal(tokens, normal)[1], marked[None], grid, detector.aliased_positions
    )
    return found


def constructed(check: Comparisons, detector: Any, images: Tensor, features: ImageFeatures) -> None:
    """Masks on the edges of windows, and one that marks nothing."""
    reference, about = check.reference, check.reference.settings["references"]["n1a1/"]
    masks, whole = reference.tensor("maskgrid/masks").float(), features.taps[detector.layer]
    check("sentences", "maskgrid/patches", marked_patches(masks, whole.grid, detector.backbone.patch_size))
    good, bad, grid = about["normal"], about["anomalous"], whole.grid
    for key in [key for key in reference if key.startswith("maskgrid/patch_score")]:
        number = int(key.rpartition("mask")[2])
        banks = detector.banks(References(images[good], images[bad], masks[number : number + 1]))
        check("scores", key, detector.patch_scores(Tap(whole.patches[numbered(key)], grid), banks), tolerance=SCORES)
    normal = whole.patches[good].flatten(0, 1)[None]
    shown = shown_by(detector, whole.patches[bad], torch.zeros_like(whole.patches[bad][..., 0], dtype=torch.bool), normal, grid)
    check("features", "n1a1_empty_mask/rm_attention", weighed(detector, shown), tolerance=CODES)
    for key in [key for key in reference if key.startswith("n1a1_empty_mask/patch_score")]:
        alike, unlike = detector.likeness(Tap(whole.patches[numbered(key)], grid), normal, shown)
        check("scores", key, ((unlike + 1 - alike) / 2).unflatten(1, grid), tolerance=SCORES)


def other_size(check: Comparisons, folder: Path) -> None:
    """A size at which the highest hundredth is more than one patch."""
    reference = check.reference
    for prefix in [key for key in reference.settings["references"] if key.startswith("px")]:
        size = int(prefix.strip("px/"))
        detector, images = build(reference, tower(reference, folder, size), folder), pictures(reference, size)
        masks = masks_of(reference, size)
        stored = next(key for key in reference if key.startswith(f"{prefix}input_uint8"))
        shown = [int(digit) for digit in stored.rpartition("images")[2]]
        check("inputs", stored, detector.backbone.preprocess.pixels(images[shown]))
        outputs(check, detector, images, detector.encode(images), masks, prefix)


PROOF = Proof("nagl", "nagl", run, inputs=("maskgrid/masks",))
